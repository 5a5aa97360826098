"""What does training look at when you bring no images? Scenes of coloured shapes, with captions.

render(seed, index, split) draws one scene: the same bytes on every machine, because only whole
numbers, + - * / and square roots decide a pixel, and only random() of Python's seeded generator
(promised to stay the same between versions) decides a scene.
"""

import math
import random
import zlib
from collections.abc import Sequence
from functools import partial

import numpy as np

# Colours are RGB, 0..255. The first word of a synonym list is the name used in the attributes.
COLOURS = {
    "red": (220, 35, 40), "green": (35, 155, 65), "blue": (40, 80, 215), "yellow": (250, 215, 40),
    "orange": (250, 130, 25), "purple": (130, 50, 180), "pink": (245, 120, 180),
    "brown": (125, 72, 35), "black": (22, 22, 25), "white": (250, 250, 250),
    "gray": (130, 130, 134), "cyan": (45, 205, 215),
}  # fmt: skip
BACKGROUNDS = {
    "white": (243, 243, 243), "black": (28, 28, 32), "gray": (134, 134, 138),
    "light blue": (168, 203, 245), "light green": (172, 222, 172), "beige": (248, 232, 168),
}  # fmt: skip
SIZES = {"big": 0.18, "small": 0.11}  # radius as a fraction of the image
PLACES = {
    "at the top left": (0.25, 0.25), "at the top": (0.5, 0.25), "at the top right": (0.75, 0.25),
    "at the left": (0.25, 0.5), "in the center": (0.5, 0.5), "at the right": (0.75, 0.5),
    "at the bottom left": (0.25, 0.75), "at the bottom": (0.5, 0.75),
    "at the bottom right": (0.75, 0.75),
}  # fmt: skip
SYNONYMS = {
    "big": "large", "small": "little", "circle": "disc", "cross": "plus", "moon": "crescent",
    "half circle": "semicircle", "drop": "teardrop", "purple": "violet", "gray": "grey",
    "cyan": "turquoise", "at the left": "on the left side", "at the right": "on the right side",
    "in the center": "in the middle", "at the top left": "in the top left corner",
    "at the top right": "in the top right corner",
    "at the bottom left": "in the bottom left corner",
    "at the bottom right": "in the bottom right corner",
}  # fmt: skip
SPLITS = ("train", "validation", "unseen", "test")  # their order is in the seeds: two bits
KINDS = ("shape", "colour", "size", "place")  # of attribute that an object has
NAMEABLE = ("size", "colour", "place", "background")  # the shape is always named
PLACE_JITTER = 2 / 64  # 2 pixels of 64
TINT = 12  # each of red, green and blue moves by up to this much
TILT = 0.09  # tangent of half the largest tilt: about 10 degrees


def circle(u: np.ndarray, v: np.ndarray, x: float, y: float, radius: float) -> np.ndarray:
    """Signed distance to a circle, negative inside. u, v: (H, W), v grows downwards."""
    return np.sqrt((u - x) * (u - x) + (v - y) * (v - y)) - radius


def polygon(u: np.ndarray, v: np.ndarray, corners: list[tuple[float, float]]) -> np.ndarray:
    """Signed distance to any simple polygon, negative inside. u, v: (H, W)."""
    start = np.array(corners)[:, :, None, None]  # (N, 2, 1, 1)
    edge = np.roll(start, -1, axis=0) - start
    (ax, ay), (ex, ey) = start.swapaxes(0, 1), edge.swapaxes(0, 1)
    px, py = u - ax, v - ay  # (N, H, W)
    along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
    dx, dy = px - along * ex, py - along * ey
    distance = np.sqrt((dx * dx + dy * dy).min(axis=0))  # (H, W)
    # A ray to the right crosses this edge; an odd number of crossings means inside.
    crosses = ((py < 0) != (py < ey)) & ((px * ey < ex * py) == (ey > 0))
    return np.where(np.logical_xor.reduce(crosses, axis=0), -distance, distance)


def _around(*polar: tuple[float, float]) -> list[tuple[float, float]]:
    """Corners from (angle in degrees clockwise from the top, radius), rounded to be portable."""
    points = [(r * math.sin(math.radians(a)), -r * math.cos(math.radians(a))) for a, r in polar]
    return [(round(x, 6), round(y, 6)) for x, y in points]


POLYGONS = {
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0.0, -0.95), (0.95, 0.75), (-0.95, 0.75)],
    "diamond": [(0.0, -1.05), (0.65, 0.0), (0.0, 1.05), (-0.65, 0.0)],
    "star": _around(*((36 * i, 1.1 if i % 2 == 0 else 0.45) for i in range(10))),
    "cross": [(-0.32, -1), (0.32, -1), (0.32, -0.32), (1, -0.32), (1, 0.32), (0.32, 0.32),
              (0.32, 1), (-0.32, 1), (-0.32, 0.32), (-1, 0.32), (-1, -0.32), (-0.32, -0.32)],
    "arrow": [(0, -1.05), (0.85, -0.1), (0.32, -0.1), (0.32, 1), (-0.32, 1), (-0.32, -0.1),
              (-0.85, -0.1)],
}  # fmt: skip
HEART = [(0.0, -0.45), (0.93, -0.08), (0.0, 1.0), (-0.93, -0.08)]
DROP = [(0.0, -1.1), (0.585, 0.11), (-0.585, 0.11)]

# Each shape: (u, v) in units of its radius -> signed distance, negative inside.
SHAPES = {
    "circle": lambda u, v: circle(u, v, 0, 0, 0.95),
    **{name: partial(polygon, corners=corners) for name, corners in POLYGONS.items()},
    "heart": lambda u, v: np.minimum(circle(abs(u), v, 0.48, -0.38, 0.54), polygon(u, v, HEART)),
    "ring": lambda u, v: np.abs(circle(u, v, 0, 0, 0.75)) - 0.25,
    "moon": lambda u, v: np.maximum(circle(u, v, 0, 0, 1), -circle(u, v, 0.5, -0.1, 0.8)),
    "half circle": lambda u, v: np.maximum(circle(u, v, 0, 0.45, 1), v - 0.45),
    "drop": lambda u, v: np.minimum(circle(u, v, 0, 0.4, 0.65), polygon(u, v, DROP)),
}

# One colour of each shape, and one shape of each colour, is kept out of training altogether.
UNSEEN_PAIRS = [(s, list(COLOURS)[(4 - 5 * i) % 12]) for i, s in enumerate(SHAPES)]
SEEN_PAIRS = [(s, c) for s in SHAPES for c in COLOURS if (s, c) not in UNSEEN_PAIRS]


def pick(rng: random.Random, choices: Sequence):
    """One of the choices; uses random() alone, the one method promised never to change."""
    return choices[int(rng.random() * len(choices))]


def checksum(attributes: dict) -> int:
    """A number 0 .. 2^32 - 1 that depends on what is in a scene, in whatever order."""
    objects = sorted(tuple(o[kind] for kind in KINDS) for o in attributes["objects"])
    return zlib.crc32(repr((attributes["background"], objects)).encode())


def half_of(attributes: dict) -> str:
    """Which half of all scenes this one lies in: "validation", to tune on, or "test", to report."""
    return ("validation", "test")[checksum(attributes) // 16 % 2]


def split_of(attributes: dict) -> str:
    """The split that a scene belongs to, from what is in it (not from its caption)."""
    if all((o["shape"], o["colour"]) in UNSEEN_PAIRS for o in attributes["objects"]):
        return "unseen"
    return "train" if checksum(attributes) % 16 else half_of(attributes)


def draw_attributes(rng: random.Random, split: str, num_objects: int | None = None) -> dict:
    """Draw what a scene of this split holds: background and 1 to 3 objects that hardly overlap."""
    pairs = UNSEEN_PAIRS if split == "unseen" else SEEN_PAIRS
    num_objects = num_objects or pick(rng, (1, 1, 1, 2, 2, 2, 2, 3, 3, 3))
    while True:
        background = pick(rng, list(BACKGROUNDS))
        objects = []
        for _ in range(num_objects):
            shape, colour = pick(rng, pairs)
            size, place = pick(rng, list(SIZES)), pick(rng, list(PLACES))
            objects.append({"shape": shape, "colour": colour, "size": size, "place": place})
        attributes = {"background": background, "objects": objects}
        if is_clear(attributes) and split_of(attributes) == split:
            return attributes


def is_clear(attributes: dict) -> bool:
    """Whether every object stands out, stands apart and differs from the others."""
    objects = attributes["objects"]
    ground = BACKGROUNDS[attributes["background"]]
    for i, a in enumerate(objects):
        if max(abs(p - q) for p, q in zip(COLOURS[a["colour"]], ground, strict=True)) < 60:
            return False
        for b in objects[:i]:
            (ax, ay), (bx, by) = PLACES[a["place"]], PLACES[b["place"]]
            reach = SIZES[a["size"]] + SIZES[b["size"]] - 0.01  # big ones may stand diagonally
            near = (ax - bx) ** 2 + (ay - by) ** 2 < reach * reach
            if near or (a["shape"], a["colour"]) == (b["shape"], b["colour"]):
                return False
    return True


def relation(a: dict, b: dict) -> str | None:
    """How a stands to b where they share a row or a column, else None."""
    (ax, ay), (bx, by) = PLACES[a["place"]], PLACES[b["place"]]
    if ay == by:
        return "to the left of" if ax < bx else "to the right of"
    if ax == bx:
        return "above" if ay < by else "below"
    return None


def describe(
    attributes: dict, rng: random.Random, named: tuple[str, ...] = NAMEABLE, synonyms: float = 0.3
) -> str:
    """Say in words what is in the scene.

    named: which of NAMEABLE the caption tells; "relation" in it tells, for two objects in one row
    or column, how the first stands to the second (leave "place" out then).
    synonyms: how often a word is replaced by its synonym, 0..1.
    """

    def word(name: str) -> str:
        return SYNONYMS[name] if name in SYNONYMS and rng.random() < synonyms else name

    def noun(o: dict) -> str:
        words = [word(o[kind]) for kind in ("size", "colour") if kind in named] + [word(o["shape"])]
        return ("an " if words[0][0] in "aeiou" else "a ") + " ".join(words)

    objects = list(attributes["objects"])
    for i in range(len(objects) - 1, 0, -1):  # a caption tells the objects in any order
        j = int(rng.random() * (i + 1))
        objects[i], objects[j] = objects[j], objects[i]
    place_first = "place" in named and rng.random() < 0.2
    if "relation" in named:
        parts = [f"{noun(objects[0])} {relation(*objects)} {noun(objects[1])}"]
    elif place_first:
        parts = [f"{word(o['place'])} {noun(o)}" for o in objects]
    elif "place" in named:
        parts = [f"{noun(o)} {word(o['place'])}" for o in objects]
    else:
        parts = [noun(o) for o in objects]
    sentence = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    opening = "" if place_first else pick(rng, ("", "", "there is ", "a picture of "))
    if "background" not in named:
        return opening + sentence
    ground = word(attributes["background"])
    usual = f"{opening}{sentence} on a {ground} background"
    turned = f"on a {ground} background, {sentence}"
    return pick(rng, (usual, usual, turned, f"{opening}{sentence}, the background is {ground}"))


def choose_named(attributes: dict, rng: random.Random) -> tuple[str, ...]:
    """Which attributes a caption tells: all of them in three quarters of the captions."""
    if rng.random() < 0.75:
        return NAMEABLE
    objects = attributes["objects"]
    if len(objects) == 2 and relation(*objects) and rng.random() < 0.5:
        return ("size", "colour", "background", "relation")
    return choose_partly(attributes, rng)


def choose_partly(attributes: dict, rng: random.Random) -> tuple[str, ...]:
    """All but one or two of what can be left out, whatever the scene holds."""
    left_out = {pick(rng, NAMEABLE), pick(rng, NAMEABLE)}
    return tuple(kind for kind in NAMEABLE if kind not in left_out)


def draw(attributes: dict, rng: random.Random, size: int) -> np.ndarray:
    """Paint a scene, anti-aliased: (size, size, 3) uint8. What a caption never tells is drawn from
    rng: the exact place, the tilt and the tints."""

    def tinted(colour: tuple[int, int, int]) -> np.ndarray:
        return np.array([channel + TINT * (2 * rng.random() - 1) for channel in colour])

    image = np.tile(tinted(BACKGROUNDS[attributes["background"]]), (size, size, 1))
    for o in attributes["objects"]:
        radius = SIZES[o["size"]] * size  # in pixels
        x, y = (size * (c + PLACE_JITTER * (2 * rng.random() - 1)) for c in PLACES[o["place"]])
        t = TILT * (2 * rng.random() - 1)
        cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
        reach = 1.2 * radius + 1  # no shape is larger than 1.2 radii
        rows = slice(max(0, int(y - reach)), min(size, int(y + reach) + 1))
        columns = slice(max(0, int(x - reach)), min(size, int(x + reach) + 1))
        dy = (np.arange(size)[rows, None] + 0.5 - y) / radius
        dx = (np.arange(size)[None, columns] + 0.5 - x) / radius
        distance = SHAPES[o["shape"]](dx * cos + dy * sin, dy * cos - dx * sin)
        cover = np.clip(0.5 - distance * radius, 0, 1)[:, :, None]  # anti-aliasing: 1 px ramp
        patch = image[rows, columns]
        image[rows, columns] = patch + cover * (tinted(COLOURS[o["colour"]]) - patch)
    return np.floor(np.clip(image, 0, 255) + 0.5).astype(np.uint8)


def compose(seed: int, index: int, split: str = "train") -> tuple[dict, str, random.Random]:
    """What `render` draws, not yet drawn: attributes, caption, and the generator for `draw`."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    rng = random.Random((seed << 42) + (index << 2) + SPLITS.index(split))
    attributes = draw_attributes(rng, split)
    named = choose_named(attributes, rng)
    caption = describe(attributes, rng, named)
    return attributes | {"named": ["shape", *named]}, caption, rng


def render(
    seed: int, index: int, split: str = "train", size: int = 64
) -> tuple[np.ndarray, str, dict]:
    """Draw scene number `index` of a split.

    Args:
        seed, index: whole numbers, 0 <= seed, index < 2**40; which scene.
        split: "train"; "validation" and "test" (combinations of attributes that no other split
            shows, the first to tune on, the second to report); or "unseen" (every object a pair of
            shape and colour that no other split shows).
        size: width and height in pixels.

    Returns:
        image: (size, size, 3) uint8 RGB; caption; attributes: a dict with background, objects
        (shape, colour, size, place each) and named, the kinds of attribute that the caption tells.
    """
    attributes, caption, rng = compose(seed, index, split)
    return draw(attributes, rng, size), caption, attributes
