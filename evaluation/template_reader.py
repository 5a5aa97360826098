"""Which objects stand in a drawn scene? A second judge: by rule, without a network, and stricter.

A scene is one colour with objects on it. What differs from that colour falls into components; each
is compared with every shape, drawn as scenes.draw draws it. What no shape explains is told as an
object without a shape, so that the picture counts as wrong.

B images, H W their pixels, W also those of a window, K templates, N drawings, M objects.
"""

import math
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import scenes

# Of 255. Two backgrounds of one name differ by no more. The faintest real object differs by 36; the
# noise of drawn backgrounds, by the shipped weights, by 16 in one pixel of 1,000.
VISIBLE = 2 * scenes.TINT
# Pixels times contrast / 255, at 64 x 64. The lone tip of a real object has 0.2 at most. Three
# pixels in a third of full contrast count, and so do ten that are just visible.
MIN_INK = 1
# See Fit. Of 4,000 real scenes, at most 0.06; small stars rounded by 1.2 pixels, whose corners are
# gone: 0.42 or more. Below 0.26 an object looks clean; what looks soft, from 0.35 on, still passes.
MAX_MISFIT = 0.40
PLACE_ERROR = 1  # pixels that an object may stand farther from its place than real ones do
MAX_OBJECTS = 6  # told of an image: scenes hold 3, and scene_sets.compare tries all pairings
# Pixels, at 64 x 64, that lie nearer to the place of a real object than to others: 57 at least.
MIN_PART = 50
MARGIN = 3  # pixels, at 64 x 64; so much nearer to its place than to others is surely the object's
PHASES = (-0.375, -0.125, 0.125, 0.375)  # of a template's centre, from that of its middle pixel
TILTS = [scenes.TILT * step for step in (-0.8, -0.4, 0, 0.4, 0.8)]
KINDS = [(shape, size) for shape in scenes.SHAPES for size in scenes.SIZES]


class Fit(NamedTuple):
    """The template that explains an object best."""

    shape: str
    size: str
    pose: np.ndarray  # (3,): x and y in pixels, tilt as scenes.TILT
    misfit: float  # root of the squared error by pixel of outline; 0.8: all of it a pixel off
    colour: np.ndarray  # (3,), less the background


def draw_shape(shape: str, radius: float, pose: np.ndarray, width: int) -> np.ndarray:
    """How much of each pixel it covers, as scenes.draw has it: (N, W, W) in 0..1, of poses (N, 3)
    or (3,)."""
    x, y, t = pose.reshape(-1, 3).T[:, :, None, None]  # (N, 1, 1) each
    cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    at = np.arange(width) + 0.5
    dx, dy = (at - x) / radius, (at[:, None] - y) / radius
    u, v = dx * cos + dy * sin, dy * cos - dx * sin  # (N, W, W)
    distance = scenes.SHAPES[shape](u.reshape(-1, width), v.reshape(-1, width))
    return np.clip(0.5 - distance * radius, 0, 1).reshape(-1, width, width)


def centre(cover: np.ndarray) -> np.ndarray:
    """(H, W) -> (2,): x and y of the centre of mass, in pixels."""
    at = np.arange(len(cover)) + 0.5
    return np.array([cover.sum(axis=0) @ at, cover.sum(axis=1) @ at]) / (cover.sum() + 1e-9)


@lru_cache(maxsize=2)
def templates(size: int) -> tuple[np.ndarray, np.ndarray]:
    """For images of this size: (K, 3) poses and (2, W * W, K) float32, covers and their squares, of
    KINDS in turn, at all TILTS and PHASES."""
    width = 2 * int(1.3 * max(scenes.SIZES.values()) * size + 2) + 1  # no shape is larger
    phases = np.array([(x, y, 0) for x in PHASES for y in PHASES])
    poses, covers = [], []
    for shape, name in KINDS:
        for tilt in TILTS:
            pose, radius = np.array([width / 2, width / 2, tilt]), scenes.SIZES[name] * size
            pose[:2] += width / 2 - centre(draw_shape(shape, radius, pose, width)[0])
            poses.append(pose + phases)
            covers.append(draw_shape(shape, radius, poses[-1], width))
    flat = np.concatenate(covers).reshape(-1, width * width).T.astype(np.float32)  # (W * W, K)
    return np.concatenate(poses), np.stack([flat, flat**2])


def components(mask: Tensor) -> Tensor:
    """(B, H, W) bool -> float: 0 outside, one number for pixels that touch, be it at a corner."""
    labels = mask * torch.arange(1.0, mask[0].numel() + 1).view(mask.shape[1:])
    while True:
        grown = F.max_pool2d(labels[:, None], 3, 1, 1)[:, 0] * mask
        if torch.equal(grown, labels):
            return labels
        labels = grown


def grow(mask: np.ndarray, by: int) -> np.ndarray:
    """(H, W) bool -> the same, larger by so many pixels."""
    return F.max_pool2d(torch.from_numpy(mask)[None].float(), 2 * by + 1, 1, by)[0].numpy() > 0


def refine(
    cover: np.ndarray, weight: np.ndarray, shape: str, radius: float, pose: np.ndarray, rest: float
) -> tuple[float, np.ndarray]:
    """The least misfit near a pose, by Gauss-Newton steps, and where. rest: the squared error
    outside the window that cover and weight, (W, W) each, are."""
    at, found = np.arange(len(cover)) + 0.5, []
    for _ in range(5):  # three are enough, as a rule
        drawn = draw_shape(shape, radius, pose, len(cover))[0]
        dy, dx = np.gradient(drawn)
        error = max(0, rest + (weight * (cover - drawn) ** 2).sum())
        found.append((math.sqrt(error / ((weight * np.hypot(dx, dy)).sum() + 1e-9)), pose))
        turn = 2 * (dx * (at[:, None] - pose[1]) - dy * (at - pose[0]))
        slopes = (np.stack([-dx, -dy, turn]) * weight).reshape(3, -1)
        change = slopes @ (cover - drawn).ravel()
        pose = pose + np.linalg.solve(slopes @ slopes.T + 1e-3 * np.eye(3), change)
        pose[2] = np.clip(pose[2], -scenes.TILT, scenes.TILT)
    return min(found, key=lambda pair: pair[0])


def fit(off: np.ndarray, near: np.ndarray, part: np.ndarray, weight: np.ndarray) -> Fit:
    """Explain one object by the nearest template.

    off: image less background, (H, W, 3); the others are (H, W) bool. near: where there is
    something to explain, the rest counts as background; part: pixels of the object; weight: those
    that count.
    """
    poses, flat = templates(len(off))
    width = math.isqrt(flat.shape[1])
    far = np.abs(off).max(axis=2)
    colour = np.median(off[part & (far >= np.quantile(far[part], 2 / 3))], axis=0)
    cover = (off @ colour / max(colour @ colour, 1)).clip(0, 1) * near
    stray = np.abs(off - cover[:, :, None] * colour).max(axis=2) > VISIBLE  # of another colour
    stray = ~grow(~(stray & near & weight), 1)  # without lines and specks
    left, top = centre(cover * weight).astype(int)  # of the window in the padded image
    c, w = (np.pad(a, width // 2, constant_values=fill)[top : top + width, left : left + width]
            .astype(np.float32) for a, fill in ((cover, 0), (weight, 1)))  # fmt: skip
    k = (w.ravel() @ flat[1] - 2 * (w * c).ravel() @ flat[0]).argmin()
    shape, name = KINDS[k * len(KINDS) // len(poses)]
    rest = stray.sum() + (weight * cover**2).sum() - (w * c**2).sum()
    misfit, pose = refine(c, w, shape, scenes.SIZES[name] * len(off), poses[k], rest)
    return Fit(shape, name, pose + [left - width // 2, top - width // 2, 0], misfit, colour)


def worst(fits: list[Fit]) -> float:
    """The largest misfit."""
    return max((f.misfit for f in fits), default=math.inf)


def fit_several(off: np.ndarray, near: np.ndarray, own: np.ndarray) -> list[Fit]:
    """Explain a component, own (H, W) bool, by two or three objects that touch, at those places
    that it lies about; [] where that fails. The rest as in `fit`."""
    size, best = len(own), []
    at = np.arange(size) + 0.5
    away = np.stack([np.hypot(at - x * size, at[:, None] - y * size)
                     for x, y in scenes.PLACES.values()])  # (9, H, W)  # fmt: skip
    shares = np.bincount(away.argmin(axis=0)[own], minlength=len(away))
    places = [i for i in shares.argsort()[-4:] if shares[i] >= MIN_PART * (size / 64) ** 2]
    for chosen in (list(c) for num in (2, 3) for c in combinations(places, num)):
        first, second = np.sort(away[chosen], axis=0)[:2]
        parts = own & (away[chosen] == first) & (second - first > MARGIN * size / 64)  # (M, H, W)
        weights, fits = parts | ~own, []
        for _ in range(3):  # each time it is known better what hides what
            if not parts.any(axis=(1, 2)).all():
                break
            fits = [fit(off, near, part, w) for part, w in zip(parts, weights, strict=True)]
            drawn = np.stack([draw_shape(f.shape, scenes.SIZES[f.size] * size, f.pose, size)[0]
                              for f in fits])  # fmt: skip
            others = [np.delete(drawn, m, axis=0).max(axis=0) for m in range(len(fits))]
            weights = np.stack(others) < 0.02
            parts = own & weights & (drawn > 0.5)
        best = min(best, fits, key=worst)
    return best


def find_objects(off: np.ndarray, labels: np.ndarray) -> list[Fit]:
    """Explain all that differs from the background; off as in `fit`, labels of `components`."""
    far, found = np.abs(off).max(axis=2), []
    ink = {n: far[labels == n].sum() / 255 for n in np.unique(labels[labels > 0])}
    seen = [n for n in ink if ink[n] >= MIN_INK * (len(off) / 64) ** 2]
    for number in sorted(seen, key=ink.get, reverse=True)[:MAX_OBJECTS]:
        own = labels == number
        near = own | grow(own, 2) & (labels == 0)  # with its faint edge
        fits = [fit(off, near, own, np.ones_like(own))]
        if worst(fits) > MAX_MISFIT:
            fits = min(fits, fit_several(off, near, own), key=worst)
        found += fits
    return found[:MAX_OBJECTS]


def nearest(colour: np.ndarray, named: dict[str, tuple[int, int, int]]) -> str:
    """The name of the colour nearest to this one."""
    return min(named, key=lambda name: np.square(named[name] - colour).sum())


def read(images: Tensor) -> list[dict]:
    """images (B, 3, H, H) uint8 -> what is in each, as AttributeRecogniser.recognise tells it, with
    the misfit of each object.

    The shape is None where none fits, and also where the object stands at no place of real ones:
    every caption names a shape, but not a place, and scenes.relation needs one.
    """
    size, x = images.shape[-1], images.float()
    border = torch.ones(size, size, dtype=torch.bool)
    border[2:-2, 2:-2] = False
    grounds = x[:, :, border].median(dim=2).values  # (B, 3): objects cover little of the border
    x = x - grounds[:, :, None, None]
    labels = components(x.abs().amax(dim=1) > VISIBLE)
    places, found = np.array(list(scenes.PLACES.values())) * size, []
    for b, ground in enumerate(grounds.numpy()):
        objects = []
        for f in find_objects(x[b].permute(1, 2, 0).numpy(), labels[b].numpy()):
            away = np.abs(places - f.pose[:2]).max(axis=1)  # (9,)
            real = away.min() <= scenes.PLACE_JITTER * size + PLACE_ERROR and f.misfit <= MAX_MISFIT
            objects.append({"shape": f.shape if real else None, "size": f.size, "misfit": f.misfit,
                            "colour": nearest(ground + f.colour, scenes.COLOURS),
                            "place": list(scenes.PLACES)[away.argmin()]})  # fmt: skip
        found.append({"background": nearest(ground, scenes.BACKGROUNDS), "objects": objects})
    return found
