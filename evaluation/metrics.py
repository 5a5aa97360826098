"""How do drawings compare with real images? Plain functions of features (N, F) or images
(N, 3, H, W), and what training looks at to know how it stands: `validate`.

None of the distances can be compared with published ones: the features are others.
"""

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from completion import draw_pair, fullest
from dataset import CaptionedImages
from losses import draw_filters, regression_loss, sliced_wasserstein_loss
from model import TextToImageModel, from_uint8
from tokenizer import split_words

RESAMPLES = 1_000  # of the bootstrap
CONFIDENCE = 0.95
NEIGHBOURS = 5  # of density and coverage
CANDIDATES = 100  # captions that R-precision chooses from
NUM_VALIDATION = 512  # images that training measures itself on
NUM_FIT = 256  # and images that it compares drawings of captions with
BATCH = 64  # drawn at once


# How certain is a number?


def bootstrap(
    statistic: Callable[..., float], *samples: Tensor, resamples: int = RESAMPLES
) -> list[float]:
    """[value, low, high]: a statistic of samples and its 95 % interval over resampled rows.

    Samples of one length are resampled together (they belong to the same captions). The interval is
    moved so that the mean of the resampled values lies on the value: distances between sets are
    larger for resampled sets, which hold images twice. No limit is below 0 where no value is.
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


# Distances between two sets of features


def random_features(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) in -1..1 -> (N, 64), by a fixed network that has never been trained.

    Sixteen channels in each quarter of the image: they see places, colours and edges, and nothing
    can be trained to please them (Naeem et al. 2020 find random features fit for such distances).
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
        return torch.cat([network(part) for part in images.split(256)])


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

    Around each real image lies a ball that reaches its 5th nearest real neighbour. density: how
    many balls a drawing lies in, over 5; coverage: fraction of the balls with a drawing.
    """
    radius = torch.cdist(real, real).kthvalue(NEIGHBOURS + 1, dim=1).values  # the first is itself
    inside = torch.cdist(real, drawn) < radius[:, None]  # (N, M)
    density = inside.sum().item() / (NEIGHBOURS * inside.shape[1])
    return density, inside.any(dim=1).float().mean().item()


# Are they sharp?


def edge_energy(images: Tensor) -> Tensor:
    """Mean squared difference between neighbouring pixels of each image, (N,)."""
    down, right = images.diff(dim=2).square(), images.diff(dim=3).square()
    return down.flatten(1).mean(dim=1) + right.flatten(1).mean(dim=1)


def high_frequency_energy(images: Tensor) -> Tensor:
    """Energy of each image's spectrum above half the Nyquist frequency, (N,)."""
    spectrum = torch.fft.fft2(images, norm="ortho").abs().square().mean(dim=1)  # (N, H, W)
    rows, columns = (torch.fft.fftfreq(n).abs() for n in images.shape[2:])
    return spectrum[:, torch.maximum(rows[:, None], columns) > 0.25].mean(dim=1)


def period_two(images: Tensor) -> Tensor:
    """Energy of each image's waves of period 2 pixels, down or right, and of slightly longer ones:
    (N, 2)."""
    spectrum = torch.fft.fft2(images, norm="ortho").abs().square().mean(dim=1)  # (N, H, W)
    lines = spectrum.sum(dim=2) + spectrum.sum(dim=1)  # (N, S), of square images
    half = images.shape[2] // 2
    return torch.stack([lines[:, half], (lines[:, half - 2] + lines[:, half - 3]) / 2], dim=1)


def dots(drawn: Tensor, real: Tensor) -> float:
    """How far waves of period 2 pixels stand out from slightly longer ones, drawn / real, for
    `bootstrap`: 1 where there is no pattern of dots. Both (N, 2), from `period_two`."""
    (at, around), (real_at, real_around) = drawn.mean(dim=0), real.mean(dim=0)
    return ((at * real_around) / (around * real_at).clamp(min=1e-12)).item()


# Do they fit their captions?


def chance_of_none(num_better: Tensor, total: int, candidates: int = CANDIDATES) -> Tensor:
    """The probability that of so many rivals, `total`, the candidates - 1 that are drawn at random
    hold none of the better ones (a hypergeometric draw, exactly). num_better: (N,) -> (N,)."""
    drawn = min(candidates - 1, total)
    before = torch.arange(drawn, dtype=torch.float64)  # candidates drawn, none of them better
    free = (total - num_better[:, None] - before).clamp(min=0)
    return (free / (total - before)).prod(dim=1)


def next_other(captions: Sequence[str]) -> list[int]:
    """For each caption, the number of the next one, cyclically, that differs; its own where none
    does."""
    num, found = len(captions), []
    for i, caption in enumerate(captions):
        later = ((i + k) % num for k in range(1, num))
        found.append(next((j for j in later if captions[j] != caption), i))
    return found


def own_captions(
    drawn: Tensor, real: Tensor, captions: Sequence[str]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of drawings of these captions and their images, (N, 3, S, S) each in -1..1: the squared error
    of each drawing, that of another caption's drawing in its place, and `own_nearest`, (N,)."""
    own, other = drawn.new_empty(len(drawn)), drawn.new_empty(len(drawn))
    for i, j in enumerate(next_other(captions)):
        own[i] = (drawn[i] - real[i]).square().mean()
        other[i] = (drawn[j] - real[i]).square().mean()
    return own, other, own_nearest(thumbnails(drawn), thumbnails(real))


def own_nearest(drawn: Tensor, real: Tensor) -> Tensor:
    """The probability that the drawing of a caption is nearer to its own image than to 99 others
    of `real`, all if there are fewer, (N,). Both are thumbnails (N, 768), in the same order."""
    distance = torch.cdist(drawn, real)  # (N, N)
    better = (distance <= distance.diagonal()[:, None]).sum(dim=1) - 1  # all but itself
    return chance_of_none(better, len(real) - 1)


def shared_words(captions: list[str], others: list[str]) -> Tensor:
    """Words that two captions share, as a fraction of all words in either: (N, M), 0..1."""
    sets = [[set(split_words(c)) for c in side] for side in (captions, others)]
    ids = {word: i for i, word in enumerate(sorted(set().union(*sets[0])))}
    a, b = (torch.zeros(len(side), len(ids)) for side in sets)
    for hot, side in zip((a, b), sets, strict=True):
        for row, words in enumerate(side):
            hot[row, [ids[word] for word in words if word in ids]] = 1
    num_a, num_b = (torch.tensor([len(words) for words in side]) for side in sets)
    both = a @ b.T
    return both / (num_a[:, None] + num_b[None] - both).clamp(min=1)


def r_precision(
    similarity: Tensor, own: Tensor, words: Tensor, candidates: int = CANDIDATES
) -> dict[str, Tensor]:
    """Whether each image's own caption is the closest of so many candidates, (N,) each.

    Args:
        similarity: (N, M), of image i and caption j, no two of which are the same.
        own: (N,), the number of each image's caption.
        words: (N, M), shared words of each image's caption and caption j.

    Returns:
        "random": the probability 0..1 over all choices of the other candidates; "hard": 0 or 1,
        against those that share most words.
    """
    is_own = torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, own[:, None], True)
    better = (similarity >= similarity.gather(1, own[:, None])) & ~is_own  # a tie is no success
    total = similarity.shape[1] - 1
    chance = chance_of_none(better.sum(dim=1), total, candidates)
    hardest = words.masked_fill(is_own, -1).topk(min(candidates - 1, total), dim=1).indices
    return {"random": chance, "hard": 1 - better.gather(1, hardest).any(1).double()}


# Do they vary, and are they copies?


def variance_over_seeds(features: Tensor) -> Tensor:
    """features (captions, seeds, F) -> (captions,), unbiased variance over seeds, mean over F."""
    return features.float().var(dim=1).mean(dim=1)


def diversity(images: Tensor, groups: list[Tensor], resamples: int = RESAMPLES) -> dict:
    """Does the noise do what chance does in the data?

    images: of each caption several, (captions, seeds, 3, S, S) uint8; groups: the real images
    (M, 3, S, S) uint8 of each caption, M any number from 2.
    Returns `diversity` and `diversity_pixels`, variance over seeds / over real images, of random
    features and of pixels; and the fractions of the images' variance that noise and captions
    explain.
    """

    def variances(look: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x = look(from_uint8(images.flatten(0, 1))).unflatten(0, images.shape[:2])
        real = [variance_over_seeds(look(from_uint8(group))[None]) for group in groups]
        return x, variance_over_seeds(x), torch.cat(real)

    x, over_seeds, over_real = variances(random_features)
    _, pixels, real_pixels = variances(lambda images: images.flatten(1))
    noise, total = over_seeds.mean().item(), x.flatten(0, 1).var(dim=0).mean().item()
    return {
        "diversity": bootstrap(ratio_of_means, over_seeds, over_real, resamples=resamples),
        "diversity_pixels": bootstrap(ratio_of_means, pixels, real_pixels, resamples=resamples),
        "variance_from_noise": noise / max(total, 1e-12),
        "variance_from_captions": 1 - noise / max(total, 1e-12),
    }


def thumbnails(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) -> (N, 768): 16x16 pixels, for finding the nearest image."""
    return F.adaptive_avg_pool2d(images, 16).flatten(1)


def nearest(images: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """For each thumbnail, (N, 768), the distance to the nearest of `among` and its number, (N,)."""
    number = torch.cat([torch.cdist(part, among).argmin(dim=1) for part in images.split(256)])
    # Taken anew: those of cdist, through a matrix product, are rounded where two are nearly equal.
    return (images - among[number]).norm(dim=1), number


def memorisation(
    drawn: Tensor, real: Tensor, training: Tensor, resamples: int = RESAMPLES
) -> tuple[dict[str, list[float] | bool], Tensor, Tensor]:
    """Are the drawings copies? Distances to the nearest training images, in 16x16 thumbnails.

    Images (N, 3, S, S) uint8, thumbnails of training (M, 768). Returns the numbers, and for each
    drawing its distance to the nearest training image, and that image's number.
    `memorisation_ratio` is the median distance of drawings over that of held-out real images: near
    1 for new images, 0 for copies.
    """

    def ratio_of_medians(a: Tensor, b: Tensor) -> float:
        return a.median().item() / max(b.median().item(), 1e-12)

    distance, number = nearest(thumbnails(from_uint8(drawn)), training)
    usual, _ = nearest(thumbnails(from_uint8(real)), training)
    ratio = bootstrap(ratio_of_medians, distance, usual, resamples=resamples)
    return {"memorisation_ratio": ratio, "looks_copied": ratio[2] < 0.5}, distance, number


# How does training stand?


@torch.no_grad()
def completion_loss(model: TextToImageModel, dataset: CaptionedImages, kind: str) -> float:
    """Nats that captions of validation images cost, given prompts, in pairs that stay the same: two
    for each of up to NUM_VALIDATION images. kind: of the pairs, see completion.kind_of_pairs."""
    chance, total, num = random.Random(0), 0.0, min(NUM_VALIDATION, len(dataset))
    for start in range(0, num, BATCH):
        captions = dataset.captions_at(range(start, min(start + BATCH, num)))
        pairs = [draw_pair(some, chance, kind) for some in captions for _ in range(2)]
        prompts, targets = (model.tokenize(texts) for texts in zip(*pairs, strict=True))
        total += model.completer.loss(prompts, targets).item() * len(captions) / num
    return total


@torch.no_grad()
def fit(model: TextToImageModel, dataset: CaptionedImages) -> dict[str, float]:
    """Do drawings depend on their captions? Of up to NUM_FIT images, evenly spread, and drawings of
    their fullest captions:

    text_dependence: squared error of another caption's drawing / of its own (1: captions are
    ignored); own_nearest: how often the own image is nearer to the drawing than 99 others.
    """
    num = min(NUM_FIT, len(dataset))
    images, captions = dataset.batch([i * len(dataset) // num for i in range(num)])
    real, texts = from_uint8(images), [fullest(several) for several in captions]
    drawn = [model.draw(texts[i : i + BATCH], list(range(i, min(i + BATCH, num)))).cpu()
             for i in range(0, num, BATCH)]  # fmt: skip
    own, other, near = own_captions(torch.cat(drawn), real, texts)
    return {"text_dependence": ratio_of_means(other, own), "own_nearest": mean(near)}


@torch.no_grad()
def validate(
    model: TextToImageModel, dataset: CaptionedImages, device: torch.device
) -> dict[str, float]:
    """Averages over validation images, their fullest captions and fixed noise, of drawings as they
    are shown, clamped to -1..1.

    regression_loss: without a latent, since a drawing may well differ from the image held out;
    energy_score: how badly drawings of two seeds a, b stand for it, d(a, x) / 2 + d(b, x) / 2 -
    d(a, b) / 2 (Gneiting and Raftery 2007), lowest where they vary as such images do;
    swd_loss: of drawings; edge_energy: drawn / real; noise_dependence: fraction of the drawings'
    variance that changes with the seed (0: seeds are ignored); and what `fit` tells.
    """
    num, sums = min(NUM_VALIDATION, len(dataset)), torch.zeros((), dtype=torch.float64)
    for start in range(0, num, BATCH):
        numbers = list(range(start, min(start + BATCH, num)))
        images, captions = dataset.batch(numbers)
        real = from_uint8(images).to(device)
        texts = [fullest(several) for several in captions]
        tokens = model.tokenize(texts)
        filters = draw_filters(torch.Generator().manual_seed(start)).to(device)
        predicted = model.predict_mean(tokens).clamp(-1, 1)
        drawn, again = (model.draw(texts, [n + seed for n in numbers]) for seed in (0, num))
        terms = {
            "regression_loss": regression_loss(predicted, real),
            "error": (regression_loss(drawn, real) + regression_loss(again, real)) / 2,
            "disagreement": regression_loss(drawn, again),
            "swd_loss": sliced_wasserstein_loss(drawn, real, filters),
            "drawn edges": edge_energy(drawn).mean(),
            "real edges": edge_energy(real).mean(),
            "over seeds": (drawn - again).square().mean() / 2,
            "variance": torch.cat([drawn, again]).var(dim=0).mean(),
        }
        # One transfer a batch; float64 comes after it, as not every device has that.
        sums = sums + torch.stack(list(terms.values())).cpu().double() * len(numbers) / num
    total = dict(zip(terms, sums.tolist(), strict=True))
    return {
        "regression_loss": total["regression_loss"],
        "energy_score": total["error"] - total["disagreement"] / 2,
        "swd_loss": total["swd_loss"],
        "edge_energy": total["drawn edges"] / max(total["real edges"], 1e-12),
        "noise_dependence": total["over seeds"] / max(total["variance"], 1e-12),
    } | fit(model, dataset)
