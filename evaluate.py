"""How right, sharp and varied are the drawings? Numbers beside real pictures, offline.

    python evaluate.py --fit-judges         once for a collection: trains the networks that judge
    python evaluate.py                      the newest run, or the shipped weights
    python evaluate.py --model FILE --data FOLDER --quick
    python evaluate.py --data FOLDER --judges FILE     by judges of a larger collection of its kind

Protocol. N = 2,048 held-out pictures (all there are, if fewer), each with its first caption; the
model draws caption i with seed i; drawings are rounded to whole 0..255 before anything is measured.
Of a run, the weights are measured that drew validation pictures best; --split test, where a
collection has one, is free of that choice.
Beside the drawings, numbers for (each control must fail what is said of it):

    real        the held-out pictures of those captions: floor or ceiling
    shuffled    the drawings with another picture's caption: attributes, R-precision
    repeated    one real picture for all captions: all, but perhaps its own sharpness
    retrieved   for each caption, the training picture whose caption shares most words with it: all
                attributes (no training picture has them), memorisation

Frechet and kernel distances, density and coverage are taken from a reference of N other real
pictures, held out too where there are so many, else of the training set, from which held-out ones
may differ in kind; the real ones' distance from it is the floor, `frechet_floor`. Features are the
dual encoder's ("judge") and those of a network that was never trained ("random").

Scenes are also read by the attribute recogniser. `all_attributes`: background, number of objects
and every object's shape, colour, size and place right, for one or two fully named objects (N/2
captions); `all_attributes_unseen`: the same for pairs of shape and colour that training never shows
(N/2). Three objects, partial captions: N/4; order swaps: N/8 pairs.

R-precision: how often the caption of a picture is closest to it among `candidates`, 100 if there
are so many: the others random ("random"), or those that share most words with it ("hard"), out of
all first captions, held out or trained on. A tie is a failure.

`edge_energy`: mean squared gradient, drawings / real. `diversity`: variance over 8 seeds of the
random features of one caption, drawings / real pictures of that caption, for 128 captions (scenes:
held out; elsewhere: training captions that several pictures share). `looks_copied`: drawings lie
less than half as far from training pictures, all of them, as held-out ones do. Intervals: 95 %,
bootstrap over captions (order swaps: over pairs); for one model and one set of seeds.
"""

import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import checkpoint
import figures
import judges
import metrics
import scenes
from command_line import UserError, choose_device, provenance, run, setting
from dataset import CaptionedImages
from held_out_scenes import (
    TestSet,
    attribute_rates,
    draw_scenes,
    other_patterns,
    partial_names,
    related,
    scene_groups,
    swapped,
)
from layouts import DataConfig, reading
from metrics import bootstrap, mean
from model import TRUNCATION, TextToImageModel, from_uint8, to_uint8
from tokenizer import split_words

NUM_PICTURES = {False: 2_048, True: 128}  # by --quick
NUM_SHEET = 64
RESAMPLES = {False: 300, True: 100}  # of distances, which are slow to compute; by --quick
CANDIDATES = 100  # captions that R-precision chooses from
NUM_DIVERSITY = 128  # captions, each drawn with SEEDS seeds
SEEDS = 8
MIN_PICTURES = 16  # held out, for numbers that mean anything
MAX_CAPTIONS = {False: 50_000, True: 4_096}  # of training, to compare captions with, by --quick
SYSTEMS = ("drawn", "real", "shuffled", "repeated", "retrieved")


@dataclass(frozen=True)
class EvaluateConfig(DataConfig):
    model: str = setting("", "weights, checkpoint or run; none: the newest run, else the shipped")
    split: str = setting("validation", "what to measure on, if the collection has other splits")
    output: str = setting("results/evaluation", "folder for evaluation.json and the figures")
    quick: bool = setting(False, "few pictures: seconds, and wide intervals")
    fit_judges: bool = setting(False, "train the networks that judge, where there are none yet")
    judges: str = setting("", "those of a larger collection, which did not train on what is held "
                          "out here (a file of results/judges)")  # fmt: skip
    device: str = setting("auto", "where to draw", ("auto", "cpu", "cuda"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.judges and (self.fit_judges or not self.data):
            raise UserError("--judges FILE goes with --data FOLDER and without --fit-judges")
        if self.split == "train" or (self.split != "validation" and not self.data):
            raise UserError(
                f"--split {self.split} holds nothing that was kept out of training; the scenes are "
                "measured on all that is, and a --data FOLDER may have splits of its own"
            )


class Training(NamedTuple):
    """What the model has seen."""

    pictures: CaptionedImages  # each once
    numbers: list[int]  # of up to MAX_CAPTIONS of them, at random
    captions: list[str]  # the first of each of these


def shared_words(captions: list[str], others: list[str]) -> Tensor:
    """Words that two captions share, as a share of all words in either: (N, M), 0..1."""
    sets = [[set(split_words(c)) for c in side] for side in (captions, others)]
    ids = {word: i for i, word in enumerate(sorted(set().union(*sets[0])))}
    a, b = (torch.zeros(len(side), len(ids)) for side in sets)
    for hot, side in zip((a, b), sets, strict=True):
        for row, words in enumerate(side):
            hot[row, [ids[word] for word in words if word in ids]] = 1
    num_a, num_b = (torch.tensor([len(words) for words in side]) for side in sets)
    both = a @ b.T
    return both / (num_a[:, None] + num_b[None] - both).clamp(min=1)


def r_precision(similarity: Tensor, own: Tensor, words: Tensor) -> dict[str, Tensor]:
    """Whether each picture's own caption is the closest of CANDIDATES, (N,) each.

    Args:
        similarity: (N, M), of picture i and caption j, no two of which are the same.
        own: (N,), the number of each picture's caption.
        words: (N, M), shared words of each picture's caption and caption j.

    Returns:
        "random": the probability 0..1 over all choices of the other candidates (a hypergeometric
        draw, computed exactly); "hard": 0 or 1, against those that share most words.
    """
    is_own = torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, own[:, None], True)
    better = (similarity >= similarity.gather(1, own[:, None])) & ~is_own  # a tie is no success
    total = similarity.shape[1] - 1
    drawn, wrong = min(CANDIDATES - 1, total), better.sum(1).double()
    free = total - wrong

    def log_choose(n: Tensor, k: int) -> Tensor:
        return torch.lgamma(n + 1) - math.lgamma(k + 1) - torch.lgamma(n - k + 1)

    whole = log_choose(torch.tensor(total, dtype=torch.float64), drawn)
    chance = (log_choose(free.clamp(min=drawn), drawn) - whole).exp()
    chance = torch.where(free < drawn, 0.0, chance)
    hardest = words.masked_fill(is_own, -1).topk(drawn, dim=1).indices
    return {"random": chance, "hard": 1 - better.gather(1, hardest).any(1).double()}


class Evaluation:
    """What the measurements of one model share: the judge of pictures, the test set, its
    reference; `measure` gives one system's numbers."""

    def __init__(
        self,
        encoder: judges.DualEncoder,
        tests: TestSet,
        reference: Tensor,
        more_captions: Sequence[str] = (),
        resamples: int = RESAMPLES[False],
    ):
        """tests: what to measure on; reference: other real pictures; more_captions: rivals of the
        captions of the test set, beside those themselves; resamples: for intervals of distances."""
        self.encoder, (captions, self.real, _) = encoder, tests
        self.resamples = resamples
        self.reference = self.features(reference)
        number = {c: i for i, c in enumerate(dict.fromkeys([*captions, *more_captions]))}
        self.own = torch.tensor([number[caption] for caption in captions])
        self.candidates = list(number)  # M captions, each once
        self.words = shared_words(captions, self.candidates)
        with torch.no_grad():
            parts = [self.candidates[i : i + 256] for i in range(0, len(number), 256)]
            self.embedded = torch.cat([encoder.embed_captions(part) for part in parts])

    @torch.no_grad()
    def features(self, pictures: Tensor) -> dict[str, Tensor]:
        """Pictures uint8 -> features (N, 64) by name."""
        parts = [judges.at_judges_size(part) for part in pictures.split(256)]
        return {
            "judge": torch.cat([self.encoder.embed_pictures(part) for part in parts]),
            "random": torch.cat([metrics.random_features(part) for part in parts]),
        }

    def measure(self, pictures: Tensor) -> dict:
        """Pictures (N, 3, S, S) uint8, one for each caption -> numbers by name, most of them
        [value, low, high]."""
        features = self.features(pictures)
        similarity = self.encoder.similarities(features["judge"], self.embedded)
        precision = r_precision(similarity, self.own, self.words)
        numbers = {f"r_precision_{k}": bootstrap(mean, v) for k, v in precision.items()}
        for name, reference in self.reference.items():
            x = features[name]
            numbers[f"frechet_distance_{name}"] = bootstrap(
                metrics.frechet_distance, x, reference, resamples=self.resamples
            )
            numbers[f"kernel_distance_{name}"] = metrics.kernel_distance(x, reference)
            density, coverage = metrics.density_and_coverage(reference, x)
            numbers |= {f"density_{name}": density, f"coverage_{name}": coverage}
        for energy in (metrics.edge_energy, metrics.high_frequency_energy):
            drawn, real = (
                torch.cat([energy(from_uint8(part)) for part in x.split(256)])
                for x in (pictures, self.real)
            )
            numbers[energy.__name__] = bootstrap(metrics.ratio_of_means, drawn, real)
        return numbers | {"candidates": min(CANDIDATES, len(self.candidates))}


def draw(model: TextToImageModel, captions: list[str], seeds: list[int]) -> Tensor:
    """Drawings as they are saved, (N, 3, S, S) uint8."""
    batches = range(0, len(captions), 64)
    return torch.cat(
        [to_uint8(model.draw(captions[i : i + 64], seeds[i : i + 64])).cpu() for i in batches]
    )


def draw_again(model: TextToImageModel, captions: list[str]) -> Tensor:
    """Each caption with SEEDS seeds, (captions, SEEDS, 3, S, S) uint8."""
    seeds = list(range(SEEDS)) * len(captions)
    drawn = draw(model, [caption for caption in captions for _ in range(SEEDS)], seeds)
    return drawn.unflatten(0, (len(captions), SEEDS))


def diversity(pictures: Tensor, groups: list[Tensor]) -> dict:
    """Does the noise do what chance does in the data?

    pictures: of each caption several, (captions, seeds, 3, S, S) uint8; groups: the real pictures
    (M, 3, S, S) uint8 of each caption, M any number from 2.
    Returns `diversity` and `diversity_pixels`, variance over seeds / over real pictures, of random
    features and of pixels; and the share of the pictures' variance that captions and noise explain.
    """

    def variances(look) -> tuple[Tensor, Tensor, Tensor]:
        x = look(from_uint8(pictures.flatten(0, 1))).unflatten(0, pictures.shape[:2])
        real = [metrics.variance_over_seeds(look(from_uint8(p))[None]) for p in groups]
        return x, metrics.variance_over_seeds(x), torch.cat(real)

    x, over_seeds, over_real = variances(metrics.random_features)
    _, pixels, real_pixels = variances(lambda p: p.flatten(1))
    noise, total = over_seeds.mean().item(), x.flatten(0, 1).var(dim=0).mean().item()
    return {
        "diversity": bootstrap(metrics.ratio_of_means, over_seeds, over_real),
        "diversity_pixels": bootstrap(metrics.ratio_of_means, pixels, real_pixels),
        "variance_from_noise": noise / max(total, 1e-12),
        "variance_from_captions": 1 - noise / max(total, 1e-12),
    }


def memorisation(
    drawn: Tensor, real: Tensor, training: Tensor
) -> tuple[dict[str, list[float] | bool], Tensor, Tensor]:
    """Are the drawings copies? Distances to the nearest training pictures, in 16x16 thumbnails.

    Pictures (N, 3, S, S) uint8, thumbnails of training (M, 768). Returns the numbers, and for each
    drawing its distance to the nearest training picture, and that picture's number.
    `memorisation_ratio` is the median distance of drawings over that of held-out real pictures:
    near 1 for new pictures, 0 for copies.
    """
    distance, number = metrics.nearest(metrics.thumbnails(from_uint8(drawn)), training)
    usual, _ = metrics.nearest(metrics.thumbnails(from_uint8(real)), training)
    ratio = bootstrap(
        lambda a, b: a.median().item() / max(b.median().item(), 1e-12), distance, usual
    )
    return {"memorisation_ratio": ratio, "looks_copied": ratio[2] < 0.5}, distance, number


def thumbnails_of(dataset: CaptionedImages) -> Tensor:
    """Thumbnails of all pictures, (M, 768); the pictures themselves need not fit into memory."""
    parts = []
    for start in tqdm(range(0, len(dataset), 1024), "looking for copies", unit="batch"):
        pictures, _ = dataset.batch(range(start, min(start + 1024, len(dataset))))
        parts.append(metrics.thumbnails(from_uint8(pictures)))
    return torch.cat(parts)


def evaluate_scenes(
    model: TextToImageModel,
    recogniser: judges.AttributeRecogniser,
    training: Training,
    num: int,
    resamples: int,
) -> dict:
    """Rates of right attributes by kind of caption, of the drawings and of the controls, with
    intervals over so many resamples."""
    size = model.config.image_size
    complete = draw_scenes("validation", num // 2, 2, (1, 2), size=size)
    pairs = draw_scenes("validation", num // 8, 6, (2,), related)
    rows = {
        "all_attributes": complete,
        "all_attributes_unseen": draw_scenes("unseen", num // 2, 3, (1, 2), size=size),
        "three_objects": draw_scenes("validation", num // 4, 4, (3,), size=size),
        "partial_captions": draw_scenes("validation", num // 4, 5, (1, 2), partial_names, size),
        "order_swaps": swapped(pairs, size),
        "other_patterns": (other_patterns(complete[2]), *complete[1:]),
    }
    rates: dict[str, dict] = defaultdict(dict)
    for row, (captions, real, asked) in rows.items():
        drawn = draw(model, captions, list(range(len(captions))))
        for system, pictures in all_systems(drawn, real, captions, training).items():
            right = attribute_rates(recogniser, judges.as_uint8(pictures), asked)
            if row == "order_swaps":  # the two of a pair belong together
                right = {k: v.float().unflatten(0, (-1, 2)).mean(1) for k, v in right.items()}
            rates[system][row] = {
                kind: bootstrap(mean, values, resamples=resamples) for kind, values in right.items()
            }
    return rates


def all_systems(
    drawn: Tensor, real: Tensor, captions: list[str], training: Training
) -> dict[str, Tensor]:
    """The pictures (N, 3, S, S) uint8 of SYSTEMS, for the same captions; see the protocol above."""
    nearest = shared_words(captions, training.captions).argmax(dim=1).tolist()
    retrieved, _ = training.pictures.batch([training.numbers[i] for i in nearest])
    pictures = drawn, real, drawn.roll(1, 0), real[:1].expand_as(real), retrieved
    return dict(zip(SYSTEMS, pictures, strict=True))


def groups_of(dataset: CaptionedImages, num: int) -> list[tuple[str, Tensor]]:
    """Captions that several pictures of a collection share, with those pictures."""
    by_caption = defaultdict(list)
    for i, record in enumerate(dataset.indices):
        for caption in set(dataset.collection.records[record].captions):
            by_caption[caption].append(i)
    shared = [(c, n[:SEEDS]) for c, n in by_caption.items() if len(n) > 1]
    random.Random(0).shuffle(shared)
    groups = [(caption, dataset.batch(numbers)[0]) for caption, numbers in shared[:num]]
    return [(caption, pictures) for caption, pictures in groups if (pictures != pictures[0]).any()]


def test_data(
    config: EvaluateConfig, dataset: CaptionedImages, size: int
) -> tuple[TestSet, Tensor, Training, list[tuple[str, Tensor]]]:
    """What is held out and what was trained on: test set, reference pictures, training pictures,
    groups of real pictures with one caption."""
    num, num_groups = NUM_PICTURES[config.quick], NUM_DIVERSITY // (8 if config.quick else 1)
    rng, once = np.random.default_rng(0), dataset.once()
    numbers = rng.permutation(len(once))[: MAX_CAPTIONS[config.quick]].tolist()
    records = [once.collection.records[once.indices[i]] for i in numbers]
    training = Training(once, numbers, [record.captions[0] for record in records])
    if not config.data:
        mixed = (1, 1, 1, 2, 2, 2, 2, 3, 3, 3)
        tests = draw_scenes("validation", num, 0, mixed, scenes.choose_named, size)
        reference = draw_scenes("validation", num, 1, mixed, scenes.choose_named, size)[1]
        return tests, reference, training, scene_groups(num_groups, size, 2 * SEEDS)
    held_out = dataset.other_split(config.split)
    chosen = rng.permutation(len(held_out)).tolist()
    real, several = held_out.batch(chosen[:num])
    tests = [c[0] for c in several], real, []
    if len(chosen) >= 2 * num:
        reference, _ = held_out.batch(chosen[num : 2 * num])
    else:
        reference, _ = once.batch(numbers[: len(real)])
    return tests, reference, training, groups_of(once, num_groups)


def evaluate(
    config: EvaluateConfig,
    model: TextToImageModel,
    panel: judges.Judges,
    dataset: CaptionedImages,
) -> dict:
    """All numbers of a model; writes the sheets beside them."""
    tests, reference, training, groups = test_data(config, dataset, model.config.image_size)
    captions, real, _ = tests
    drawn = draw(model, captions, list(range(len(captions))))
    evaluation = Evaluation(
        panel.encoder, tests, reference, training.captions, RESAMPLES[config.quick]
    )
    systems = all_systems(drawn, real, captions, training)
    rows = {
        name: evaluation.measure(pictures)
        for name, pictures in tqdm(systems.items(), "measuring", unit="system")
    }
    seen = thumbnails_of(training.pictures)
    for name in ("drawn", "retrieved"):
        copies, distance, number = memorisation(systems[name], real, seen)
        rows[name] |= copies
        if name == "drawn":
            closest = distance.argsort()[:8]
            copied, _ = training.pictures.batch(number[closest].tolist())
            asked = [captions[i] for i in closest]
            save_closest(Path(config.output), drawn[closest], copied, asked)
    if groups:
        shown = [pictures[:SEEDS] for _, pictures in groups]
        rows["drawn"] |= diversity(draw_again(model, [c for c, _ in groups]), shown)
        if not config.data:  # scenes can be drawn anew
            others = torch.stack([pictures[SEEDS:] for _, pictures in groups])
            rows["real"] |= diversity(others, shown)
            rows["repeated"] |= diversity(others[:, :1].expand_as(others), shown)
    if panel.recogniser and not config.data:
        resamples = RESAMPLES[True] if config.quick else metrics.RESAMPLES
        rates = evaluate_scenes(model, panel.recogniser, training, len(captions), resamples)
        for name, row in rates.items():
            rows[name]["attributes"] = row
    save_sheet(Path(config.output), real, drawn, captions)
    return rows


def save_sheet(folder: Path, real: Tensor, drawn: Tensor, captions: list[str]) -> None:
    """The first of the test set, numbered: real above drawn; nothing is picked."""
    shown = [f"{i + 1}. {caption}" for i, caption in enumerate(captions[:NUM_SHEET])]
    title = "Held-out pictures above, drawings of their first captions below; none picked"
    figures.save_samples(folder / "sheet.png", {"real": real, "drawn": drawn}, shown, title)


def save_closest(folder: Path, drawn: Tensor, training: Tensor, captions: list[str]) -> None:
    """The drawings that are closest to a training picture, with that picture."""
    title = "The drawings that come closest to a training picture, and that picture"
    rows = {"drawn": drawn, "training": training}
    figures.save_samples(folder / "closest.png", rows, captions, title)


def headline(rows: dict) -> dict:
    """The numbers to look at first, each [value, low, high]."""
    drawn, top = rows["drawn"], {}
    for name in ("all_attributes", "all_attributes_unseen"):
        if "attributes" in drawn:
            top[name] = drawn["attributes"][name]["all"]
    names = ("r_precision_random", "r_precision_hard", "edge_energy", "diversity")
    top |= {name: drawn[name] for name in names if name in drawn}
    top["frechet_distance"] = drawn["frechet_distance_judge"]
    top["frechet_floor"] = rows["real"]["frechet_distance_judge"]
    return top


def trained_with(state: dict, path: Path, config: EvaluateConfig) -> dict:
    """How to read the pictures: by the flags, and what those leave at their default as the run did
    that the weights come from; exported weights do not tell.

    Raises UserError where a run on a collection is to be judged on the scenes, or the reverse.
    """
    settings, defaults = reading(config), reading(DataConfig())
    # Where to look, and what is safe to read, is not for a file of weights to say.
    names = ("format", "caption_from", "crop_boxes", "resize", "fit")
    trained = state.get("config")
    if not isinstance(trained, dict) or not isinstance(trained.get("data"), str):
        return settings
    data = trained["data"]
    if bool(data) != bool(config.data):
        theirs = f"--data {data}" if data else "the built-in scenes"
        mend = f"add --data {data}" if data else "leave out --data"
        raise UserError(f"{path} was trained on {theirs}; {mend}, or name others with --model")
    taken = {name: trained[name] for name in names
             if settings[name] == defaults[name]
             and type(trained.get(name)) is type(defaults[name])}  # fmt: skip
    return settings | taken


def main(config: EvaluateConfig) -> dict:
    """Measure, write evaluation.json and the figures, print a table; returns what was written."""
    began, device = time.monotonic(), choose_device(config.device)
    about = provenance(device)  # before what is written here changes the tree
    state, path = checkpoint.load_whole(checkpoint.find_weights(config.model))
    model = checkpoint.model_of(state, path).to(device)
    settings = trained_with(state, path, config)
    size = model.config.image_size
    dataset = CaptionedImages(config.data or None, image_size=size, **settings)
    num_held_out = len(dataset.other_split(config.split))
    if num_held_out < MIN_PICTURES:
        raise UserError(
            f"{config.data} holds {num_held_out} pictures of split {config.split!r}: too few to "
            "measure"
        )
    for_judges = dataset
    if size != judges.SIDE:
        for_judges = CaptionedImages(config.data or None, image_size=judges.SIDE, **settings)
    if config.judges:
        panel = judges.read(Path(config.judges))
    else:
        panel = judges.load(for_judges, fit=config.fit_judges)
    rows = evaluate(config, model, panel, dataset)
    about |= {"weights": str(path), "split": config.split, "judges": panel.fingerprint}
    about |= {"quick": config.quick, "sharpness": model.config.sharpness, "truncation": TRUNCATION}
    about |= {"seconds": round(time.monotonic() - began, 1)}
    result = headline(rows) | rows | {"about": about}
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(rounded(result), indent=1) + "\n")
    figures.save_evaluation(folder / "evaluation.png", rows)
    print_table(rows)
    print(f"{folder}/evaluation.json, evaluation.png, sheet.png, closest.png; "
          f"{about['seconds']:.0f} s")  # fmt: skip
    return result


def rounded(value):
    """Numbers with four digits, in any nesting."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def print_table(rows: dict) -> None:
    """A line for each measure, a column for each system."""
    flat = {
        system: row | {f"{r}: {k}": v for r, kinds in row.get("attributes", {}).items()
                       for k, v in kinds.items() if k == "all"}
        for system, row in rows.items()
    }  # fmt: skip
    names = dict.fromkeys(n for row in flat.values() for n in row if n != "attributes")
    print(f"{'':32}" + "".join(f"{system:>18}" for system in flat))
    for name in names:
        cells = (cell(row.get(name)) for row in flat.values())
        print(f"{name:32}" + "".join(f"{c:>18}" for c in cells))
    print("± half of the 95 % interval")


def cell(value) -> str:
    """A number or [value, low, high] for a terminal."""
    if isinstance(value, list):
        return f"{cell(value[0])} ±{cell((value[2] - value[1]) / 2)}"
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}"


if __name__ == "__main__":
    run(main, EvaluateConfig, __doc__)
