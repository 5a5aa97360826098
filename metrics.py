"""How do two sets of pictures compare? Plain functions of features (N, F) or pictures (N, 3, H, W).

None of the distances can be compared with published ones: the features are others.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset import CaptionedImages
from losses import regression_loss, sliced_wasserstein_loss
from model import TextToImageModel, from_uint8

RESAMPLES = 1_000  # of the bootstrap, for means
CONFIDENCE = 0.95
NEIGHBOURS = 5  # of density and coverage
NUM_VALIDATION = 512  # pairs of picture and caption that training measures itself on
BATCH = 64  # drawn at once


def random_features(pictures: Tensor, batch_size: int = 256) -> Tensor:
    """Features of a fixed convolutional network that has never been trained, (N, 64).

    Sixteen channels in each quarter of the picture: they see places, colours and edges, and nothing
    can be trained to please them (Naeem et al. 2020 find random features fit for such distances).

    pictures: (N, 3, H, W) float in -1..1.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 32, 5, 2, 2), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(64, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        for layer in network:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
    with torch.no_grad():
        return torch.cat([network(part) for part in pictures.split(batch_size)])


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Frechet distance between Gaussians fitted to the features (Dowson and Landau 1982):
    |mean - mean|^2 + trace(A + B - 2 (A^1/2 B A^1/2)^1/2). a: (N, F), b: (M, F)."""
    (mean_a, cov_a), (mean_b, cov_b) = (
        (x.double().mean(dim=0), x.double().T.cov().reshape(x.shape[1], -1)) for x in (a, b)
    )
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    apart = (mean_a - mean_b).square().sum()
    return (apart + cov_a.trace() + cov_b.trace() - 2 * cross).item()


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Squared maximum mean discrepancy with the kernel (x.y/F + 1)^3, unbiased, so it may be a
    little below 0 (KID: Binkowski et al. 2018). a: (N, F), b: (M, F)."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x.double() @ y.double().T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.trace()) / (len(x) * (len(x) - 1))

    return (within(a) + within(b) - 2 * kernel(a, b).mean()).item()


def density_and_coverage(real: Tensor, drawn: Tensor) -> tuple[float, float]:
    """Naeem et al. 2020, equations 3 and 4, with NEIGHBOURS. Features (N, F) and (M, F).

    Around each real picture lies a ball that reaches its 5th nearest real neighbour. density: how
    many balls a drawn picture lies in, over 5; coverage: share of the balls with a drawn picture.
    """
    radius = torch.cdist(real, real).kthvalue(NEIGHBOURS + 1, dim=1).values  # the first is itself
    inside = torch.cdist(real, drawn) < radius[:, None]  # (N, M)
    density = inside.sum().item() / (NEIGHBOURS * inside.shape[1])
    return density, inside.any(dim=1).float().mean().item()


def edge_energy(pictures: Tensor) -> Tensor:
    """Mean squared difference between neighbouring pixels of each picture, (N,)."""
    down, right = pictures.diff(dim=2).square(), pictures.diff(dim=3).square()
    return down.flatten(1).mean(dim=1) + right.flatten(1).mean(dim=1)


def high_frequency_energy(pictures: Tensor) -> Tensor:
    """Energy of each picture's spectrum above half the Nyquist frequency, (N,)."""
    spectrum = torch.fft.fft2(pictures, norm="ortho").abs().square().mean(dim=1)  # (N, H, W)
    rows, columns = (torch.fft.fftfreq(n).abs() for n in pictures.shape[2:])
    return spectrum[:, torch.maximum(rows[:, None], columns) > 0.25].mean(dim=1)


def variance_over_seeds(features: Tensor) -> Tensor:
    """features (captions, seeds, F) -> (captions,), unbiased variance over seeds, mean over F."""
    return features.float().var(dim=1).mean(dim=1)


def thumbnails(pictures: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) -> (N, 768): 16x16 pixels, for finding the nearest picture."""
    return F.adaptive_avg_pool2d(pictures, 16).flatten(1)


def nearest(pictures: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """For each thumbnail, (N, 768), the distance to the nearest of `among` and its number, (N,)."""
    number = torch.cat([torch.cdist(part, among).argmin(dim=1) for part in pictures.split(256)])
    # Taken anew: those of cdist, through a matrix product, are rounded where two are nearly equal.
    return (pictures - among[number]).norm(dim=1), number


def bootstrap(
    statistic: Callable[..., float], *samples: Tensor, resamples: int = RESAMPLES
) -> list[float]:
    """[value, low, high]: a statistic of samples and its 95 % interval over resampled rows.

    Samples of one length are resampled together (they belong to the same captions). The interval is
    moved so that the mean of the resampled values lies on the value: distances between sets are
    larger for resampled sets, which hold pictures twice. No limit is below 0 where no value is.
    """
    rng = np.random.default_rng(0)
    value, values = statistic(*samples), []
    if all((s == s[:1]).all() for s in samples):  # whatever is resampled, it is the same again
        return [float(value)] * 3
    for _ in range(resamples):
        rows = {n: torch.from_numpy(rng.integers(n, size=n)) for n in {len(s) for s in samples}}
        values.append(statistic(*(s[rows[len(s)]] for s in samples)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail]) - np.mean(values) + value
    if min(values) >= 0:
        low = max(low, 0.0)
    return [float(value), float(low), float(high)]


def mean(values: Tensor) -> float:
    """Of floats or booleans."""
    return values.float().mean().item()


def ratio_of_means(drawn: Tensor, real: Tensor) -> float:
    """mean(drawn) / mean(real), for `bootstrap`."""
    return mean(drawn) / max(mean(real), 1e-12)


def validation_pairs(dataset: CaptionedImages) -> list[tuple[int, int]]:
    """(picture, number of the caption): all pairs, the first captions of all pictures before the
    second ones; of more than NUM_VALIDATION, one for each picture, with the captions in turn."""
    counts = dataset.rows["num_captions"][dataset.indices].tolist()
    if sum(counts) > NUM_VALIDATION:
        return [(i, i % count) for i, count in enumerate(counts)][:NUM_VALIDATION]
    return [(i, k) for k in range(max(counts)) for i, count in enumerate(counts) if k < count]


@torch.no_grad()
def validate(model: TextToImageModel, dataset: CaptionedImages, device: str) -> dict[str, float]:
    """Averages over validation pictures, their captions and fixed noise, of drawings as they are
    shown, clamped to -1..1.

    regression_loss: without a latent, since a drawing may well differ from the picture held out;
    energy_score: how badly drawings of two seeds a, b stand for it, d(a, x) / 2 + d(b, x) / 2 -
    d(a, b) / 2 (Gneiting and Raftery 2007), lowest where they vary as such pictures do;
    sharpness_loss: of drawings; edge_energy: drawn / real; text_dependence: regression_loss with
    another picture's caption / with its own (1: captions are ignored); noise_dependence: share of
    the drawings' variance that changes with the seed (0: seeds are ignored).
    """
    pairs = validation_pairs(dataset)
    num = len(pairs)
    totals: dict[str, float] = {}
    for start in range(0, num, BATCH):
        numbers = list(range(start, min(start + BATCH, num)))
        pictures, captions = dataset.batch([pairs[n][0] for n in numbers])
        real = from_uint8(pictures).to(device)
        texts = [c[pairs[n][1] % len(c)] for n, c in zip(numbers, captions, strict=True)]
        tokens, filters = model.tokenize(texts), torch.Generator().manual_seed(start)
        guess = model.guess(tokens).clamp(-1, 1)
        drawn, again = (model.draw(texts, [n + seed for n in numbers]) for seed in (0, num))
        for name, value in {
            "regression_loss": regression_loss(guess, real),
            "error": (regression_loss(drawn, real) + regression_loss(again, real)) / 2,
            "disagreement": regression_loss(drawn, again),
            "sharpness_loss": sliced_wasserstein_loss(drawn, real, filters),
            "wrong captions": regression_loss(guess.roll(1, 0), real),
            "drawn edges": edge_energy(drawn).mean(),
            "real edges": edge_energy(real).mean(),
            "over seeds": (drawn - again).square().mean() / 2,
            "variance": torch.cat([drawn, again]).var(dim=0).mean(),
        }.items():
            totals[name] = totals.get(name, 0.0) + value.item() * len(numbers) / num
    return {
        "regression_loss": totals["regression_loss"],
        "energy_score": totals["error"] - totals["disagreement"] / 2,
        "sharpness_loss": totals["sharpness_loss"],
        "edge_energy": totals["drawn edges"] / max(totals["real edges"], 1e-12),
        "text_dependence": totals["wrong captions"] / totals["regression_loss"],
        "noise_dependence": totals["over seeds"] / max(totals["variance"], 1e-12),
    }
