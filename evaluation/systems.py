"""What stands beside the drawings, and what is measured of each?"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from completion import fullest
from dataset import Batch, CaptionedImages
from evaluation import judges, metrics
from evaluation.metrics import bootstrap, mean
from evaluation.scene_sets import TestSet
from model import TextToImageModel, from_uint8, to_uint8
from reports import figures
from reports.run_page import Examples
from tokenizer import Tokenizer, split_words

NUM_SAMPLES = 16  # captions of a sample sheet
NUM_TRAINED_ON = 8  # of training, beside them
NUM_SEEDS = 8  # of each prompt
SYSTEMS = ("drawn", "as typed", "real", "shuffled", "repeated", "retrieved")


class Amounts(NamedTuple):
    """How much is measured."""

    images: int = 2_048  # N
    groups: int = 128  # captions that are drawn with several seeds
    captions: int = 50_000  # of training, to compare captions with
    resamples: int = metrics.RESAMPLES
    distance_resamples: int = 300  # distances are slow to compute


FULL = Amounts()
QUICK = Amounts(images=128, groups=16, captions=4_096, resamples=100, distance_resamples=100)


class Training(NamedTuple):
    """What the model has seen."""

    images: CaptionedImages  # each once
    numbers: list[int]  # of some of them, at random
    captions: list[str]  # the fullest of each of these


def draw(
    model: TextToImageModel, prompts: Sequence[str], seeds: Sequence[int], complete: bool = True
) -> Tensor:
    """Drawings as they are saved, (N, 3, S, S) uint8; complete: of completed captions."""
    drawn = []
    for start in range(0, len(prompts), metrics.BATCH):
        some, few = prompts[start : start + metrics.BATCH], seeds[start : start + metrics.BATCH]
        captions = model.complete(some, few) if complete else some
        drawn.append(to_uint8(model.draw(captions, few)).cpu())
    return torch.cat(drawn)


def draw_again(model: TextToImageModel, prompts: Sequence[str], num_seeds: int) -> Tensor:
    """Each prompt with so many seeds, (prompts, seeds, 3, S, S) uint8."""
    seeds = list(range(num_seeds)) * len(prompts)
    drawn = draw(model, [prompt for prompt in prompts for _ in range(num_seeds)], seeds)
    return drawn.unflatten(0, (len(prompts), num_seeds))


def all_systems(
    model: TextToImageModel, real: Tensor, captions: list[str], training: Training
) -> dict[str, Tensor]:
    """The images (N, 3, S, S) uint8 of SYSTEMS, for the same captions; evaluate.py tells what they
    are. Only a model with a completer draws two ways."""
    seeds = list(range(len(captions)))
    images = {"drawn": draw(model, captions, seeds)}
    if model.completer:
        images["as typed"] = draw(model, captions, seeds, complete=False)
    nearest = metrics.shared_words(captions, training.captions).argmax(dim=1).tolist()
    retrieved, _ = training.images.batch([training.numbers[i] for i in nearest])
    return images | {"real": real, "shuffled": images["drawn"].roll(1, 0),
                     "repeated": real[:1].expand_as(real), "retrieved": retrieved}  # fmt: skip


class Evaluation:
    """What the measurements of all systems share: the judge of images, the test set, the reference;
    `measure` gives one system's numbers."""

    def __init__(
        self,
        encoder: judges.DualEncoder,
        tests: TestSet,
        reference: Tensor,
        more_captions: Sequence[str] = (),
        amounts: Amounts = FULL,
    ):
        """tests: what to measure on; reference: other real images; more_captions: rivals of the
        captions of the test set, beside those themselves."""
        self.encoder, self.real, self.amounts = encoder, tests.images, amounts
        self.reference = self.features(reference)
        number = {c: i for i, c in enumerate(dict.fromkeys([*tests.captions, *more_captions]))}
        self.own = torch.tensor([number[caption] for caption in tests.captions])
        self.candidates = list(number)  # M captions, each once
        self.words = metrics.shared_words(tests.captions, self.candidates)
        with torch.no_grad():
            parts = [self.candidates[i : i + 256] for i in range(0, len(number), 256)]
            self.embedded = torch.cat([encoder.embed_captions(part) for part in parts])

    @torch.no_grad()
    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Images uint8 -> features (N, 64) by name."""
        parts = [judges.at_judges_size(part) for part in images.split(256)]
        return {
            "judge": torch.cat([self.encoder.embed_images(part) for part in parts]),
            "random": torch.cat([metrics.random_features(part) for part in parts]),
        }

    def measure(self, images: Tensor) -> dict:
        """Images (N, 3, S, S) uint8, one for each caption -> numbers by name, most of them
        [value, low, high]."""
        features = self.features(images)
        similarity = self.encoder.similarities(features["judge"], self.embedded)
        precision = metrics.r_precision(similarity, self.own, self.words)
        interval = partial(bootstrap, resamples=self.amounts.resamples)
        numbers = {f"r_precision_{kind}": interval(mean, x) for kind, x in precision.items()}
        for name, reference in self.reference.items():
            x, few = features[name], self.amounts.distance_resamples
            distance = bootstrap(metrics.frechet_distance, x, reference, resamples=few)
            numbers[f"frechet_distance_{name}"] = distance
            numbers[f"kernel_distance_{name}"] = metrics.kernel_distance(x, reference)
            density, coverage = metrics.density_and_coverage(reference, x)
            numbers |= {f"density_{name}": density, f"coverage_{name}": coverage}
        for energy in (metrics.edge_energy, metrics.high_frequency_energy):
            drawn, real = (torch.cat([energy(from_uint8(part)) for part in x.split(256)])
                           for x in (images, self.real))  # fmt: skip
            numbers[energy.__name__] = interval(metrics.ratio_of_means, drawn, real)
        waves = [torch.cat([metrics.period_two(from_uint8(part)) for part in x.split(256)])
                 for x in (images, self.real)]  # fmt: skip
        numbers["dots"] = interval(metrics.dots, *waves)
        return numbers | {"candidates": min(metrics.CANDIDATES, len(self.candidates))}


def fit(
    drawn: Tensor, real: Tensor, captions: Sequence[str], resamples: int
) -> dict[str, list[float]]:
    """metrics.fit with intervals, of all these drawings, (N, 3, S, S) uint8, of these captions."""
    own, other, near = metrics.own_captions(from_uint8(drawn), from_uint8(real), captions)
    return {"text_dependence": bootstrap(metrics.ratio_of_means, other, own, resamples=resamples),
            "own_nearest": bootstrap(mean, near, resamples=resamples)}  # fmt: skip


def save_samples(
    path: Path,
    model: TextToImageModel,
    dataset: CaptionedImages,
    title: str,
    training: CaptionedImages | None = None,
) -> None:
    """A sheet of images and of drawings of their fullest captions, spread evenly over a split, and
    below them a few of training: nothing is picked. Two seeds where they differ."""
    several = [("", dataset, NUM_SAMPLES)]
    if training:
        several = [("Held out", dataset, NUM_SAMPLES), ("Trained on", training, NUM_TRAINED_ON)]
    blocks, unknown = [], False
    for heading, images, most in several:
        num = min(most, len(images))
        real, captions = images.batch([i * len(images) // num for i in range(num)])
        captions = [fullest(some) for some in captions]
        rows = {"real": real}
        for seed in (0, 1) if model.config.noise_dim else (0,):
            label = f"drawn, seed {seed}" if model.config.noise_dim else "drawn"
            rows[label] = to_uint8(model.draw(captions, [seed] * num)).cpu()
        marked = [mark_unknown(caption, model.tokenizer) for caption in captions]
        unknown |= marked != captions
        blocks.append(figures.Block(heading, rows, marked))
    title += "; [words] in brackets are unknown to the model" * unknown
    figures.save_blocks(path, blocks, title)


def mark_unknown(caption: str, tokenizer: Tokenizer) -> str:
    """The caption with brackets around the words that are not in the vocabulary."""
    marked, lower, rest = "", caption.lower().replace("\u2019", "'"), 0
    if len(lower) != len(caption):  # as of a dotted capital I
        return caption
    for word in split_words(caption):
        if (first := lower.find(word, rest)) < 0:  # letters that Unicode writes in several ways
            continue
        written = caption[first : first + len(word)]
        unknown = word not in tokenizer.ids and word[0].isalnum()  # signs alone hardly matter
        marked += caption[rest:first] + (f"[{written}]" if unknown else written)
        rest = first + len(word)
    return marked + caption[rest:]


def examples_of(batch: Batch, model: TextToImageModel) -> Examples:
    """A few images of a step that was just learnt from, as small as they were, and the words that
    were left of their captions."""
    images = F.avg_pool2d(batch.images[:NUM_SAMPLES], 2**model.halvings)  # (B, 3, h, w)
    captions = [model.tokenizer.decode(ids) for ids in batch.tokens[: len(images)].tolist()]
    return Examples(to_uint8(images).cpu().numpy(), captions)


def save_prompts(path: Path, model: TextToImageModel, prompts: Sequence[str], title: str) -> None:
    """A sheet of each prompt, as a person types it, with NUM_SEEDS seeds, and beneath each drawing
    the caption that it was completed to; nothing is picked."""
    seeds = list(range(NUM_SEEDS))
    captions = [model.complete([prompt] * NUM_SEEDS, seeds) for prompt in prompts]
    drawn = torch.stack([draw(model, several, seeds, complete=False) for several in captions])
    figures.save_prompts(path, drawn.numpy(), prompts, captions, title)
