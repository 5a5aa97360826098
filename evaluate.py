"""How right, sharp and varied are the drawings? Numbers beside real images, offline.

    python evaluate.py --fit-judges         once for a collection: trains the networks that judge
    python evaluate.py                      the newest run, or the shipped weights
    python evaluate.py --split validation   to tune by
    python evaluate.py --model FILE --data FOLDER --quick
    python evaluate.py --data FOLDER --judges FILE     by judges of a larger collection of its kind

Protocol. N = 2,048 images held out of training (all there are, if fewer), each with its fullest
caption; the model completes and draws caption i with seed i; drawings are rounded to whole 0..255
before anything is measured. Numbers are of split "test", by which nothing was chosen; --split
validation is for tuning. No combination of the scenes is in two splits. A collection without a test
split is measured on validation, by which the best weights of a run were chosen.

Beside the drawings, numbers for (each control must fail what is said of it):

    as typed    drawn without completing the captions first
    real        the held-out images of those captions: floor or ceiling
    shuffled    the drawings with another image's caption: attributes, R-precision
    repeated    one real image for all captions: all, but perhaps its own sharpness
    retrieved   for each caption, the training image whose caption shares most words with it: all
                attributes of captions that tell all (no training image has them), memorisation
    trained on  drawings of N captions that were trained on, beside their own images: collections

Frechet and kernel distances, density and coverage are taken from a reference of N other real
images, held out too where there are so many, else of the training set, from which held-out ones may
differ in kind; the real ones' distance from it is the floor, `frechet_floor`. Features are the dual
encoder's ("judge") and those of a network that was never trained ("random").

Scenes are also read by the attribute recogniser, a network, and by the template reader, a rule that
compares every object with all shapes at all places between pixels, and counts specks as objects. An
image is right where background, number of objects, and every attribute that the caption names are:
`all` by the recogniser, `strict` by the template reader, and `share`: strict, drawn / real images
of those captions. By kind of caption: `fully_told` and `unseen_pairs` (of shape and colour, which
training never shows), one or two objects, N/4 captions each; `other_patterns`, the same captions in
sentences of kinds that training never shows; and N/8 each: `three_objects`, `any_words` (all told,
in sentences as training has them), five kinds that leave something open, `tags`, `relations`,
`counts`. `nothing`, `too_few`, `too_many`: objects by the template reader. `words_kept`: completed
captions with all that was typed and no object more; `words_possible`: those whose scene can be.
`small_shapes`: strict rates of single small objects, all told, 32 of each. `open`: variance over
8 seeds for captions that leave something open, drawings / real scenes of which the caption is true.

Other collections: `prompts_kept`, 300 prompts of one tag or up to three words of a held-out
caption: how often the image that looks most like the drawing, out of all, has all these words in
its captions; `known_prompts_kept`: the same of prompts whose words training has met often enough.

R-precision: how often the caption of an image is closest to it among `candidates`, 100 if there are
so many: the others random ("random"), or those that share most words with it ("hard"), out of all
fullest captions, held out or trained on. A tie is a failure.

`text_dependence`: squared error of the drawing of another caption, as an image of this one, over
that of its own drawing: 1 where captions are ignored. `own_nearest`: how often the own image is
nearer to a drawing, in 16x16 thumbnails, than 99 other images at random. Both need no judge.

`edge_energy`: mean squared gradient, drawings / real. `dots`: how far waves of period 2 pixels
stand out from slightly longer ones, drawings / real. `diversity`: variance over 8 seeds of the
random features of one caption, drawings / real images of that caption, for 128 captions (scenes:
held out; elsewhere: training captions that several images share). `looks_copied`: drawings lie less
than half as far from training images, all of them, as held-out ones do. Intervals: 95 %, bootstrap
over captions (relations: over pairs); for one model and one set of seeds.
"""

import json
import random
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import checkpoint
import scenes
from completion import draw_part, fullest
from config import (
    DataConfig,
    EvaluateConfig,
    UserError,
    choose_device,
    data_options,
    provenance,
    run,
)
from dataset import CaptionedImages
from evaluation import judges, metrics, scene_sets, systems, template_reader
from evaluation.metrics import bootstrap, mean
from evaluation.scene_sets import TestSet
from evaluation.systems import FULL, NUM_SEEDS, QUICK, Amounts, Training, draw
from files import write_text
from model import TextToImageModel, from_uint8
from reports import figures
from tokenizer import split_words

NUM_SHOWN = 64  # images of the sheet
MIN_IMAGES = 16  # held out, for numbers that mean anything
NUM_PROMPTS = 300  # short ones
NUM_PARTS = 16  # of a caption; one of them is short enough
NUM_SMALL = 32  # of each small shape


class Material(NamedTuple):
    """What to measure on."""

    tests: TestSet
    reference: Tensor  # other real images, uint8
    training: Training
    groups: list[tuple[str, Tensor]]  # captions with several real images each


def are_scenes(dataset: CaptionedImages) -> bool:
    return dataset.collection.layout == "built-in"


def split_to_measure(config: EvaluateConfig, dataset: CaptionedImages) -> str:
    """What --split says, else test where there is one. Raises UserError where it holds too few."""
    has_test = are_scenes(dataset) or len(dataset.splits.get("test", ())) > 0
    split = config.split or ("test" if has_test else "validation")
    num = len(dataset.other_split(split))
    if num < MIN_IMAGES and not are_scenes(dataset):
        raise UserError(f"{config.data} holds {num} images of split {split!r}: too few to "
                        "measure; --split names another")  # fmt: skip
    return split


def groups_of(dataset: CaptionedImages, num: int) -> list[tuple[str, Tensor]]:
    """Captions that several images of a collection share, with those images."""
    by_caption = defaultdict(list)
    for i, record in enumerate(dataset.indices):
        for caption in set(dataset.collection.records[record].captions):
            by_caption[caption].append(i)
    shared = [(c, n[:NUM_SEEDS]) for c, n in by_caption.items() if len(n) > 1]
    random.Random(0).shuffle(shared)
    groups = [(caption, dataset.batch(numbers)[0]) for caption, numbers in shared[:num]]
    return [(caption, images) for caption, images in groups if (images != images[0]).any()]


def gather(dataset: CaptionedImages, split: str, amounts: Amounts, size: int) -> Material:
    """What is held out, as this split of the collection or of the scenes at so many pixels, and
    what was trained on, `dataset`."""
    num, rng, once = amounts.images, np.random.default_rng(0), dataset.once()
    numbers = rng.permutation(len(once))[: amounts.captions].tolist()
    records = [once.collection.records[once.indices[i]] for i in numbers]
    training = Training(once, numbers, [fullest(record.captions) for record in records])
    if are_scenes(dataset):
        tests, others = (scene_sets.draw_scenes(split, num, i, scene_sets.MIXED, size=size)
                         for i in (0, 1))  # fmt: skip
        groups = scene_sets.scene_groups(split, amounts.groups, 2 * NUM_SEEDS, size)
        return Material(tests, others.images, training, groups)
    held_out = dataset.other_split(split)
    chosen = rng.permutation(len(held_out)).tolist()
    real, captions = held_out.batch(chosen[:num])
    others, rest = (held_out, chosen[num:]) if len(chosen) >= 2 * num else (once, numbers)
    reference, _ = others.batch(rest[: len(real)])
    tests = TestSet([fullest(several) for several in captions], real, [])
    return Material(tests, reference, training, groups_of(once, amounts.groups))


def thumbnails_of(dataset: CaptionedImages) -> Tensor:
    """Thumbnails of all images, (M, 768); the images themselves need not fit into memory."""
    numbers = range(len(dataset))
    starts = tqdm(numbers[::1024], "looking for copies", unit="batch", disable=None)
    batches = (dataset.batch(numbers[start : start + 1024])[0] for start in starts)
    return torch.cat([metrics.thumbnails(from_uint8(images)) for images in batches])


def evaluate(
    model: TextToImageModel,
    panel: judges.Judges,
    dataset: CaptionedImages,
    split: str,
    amounts: Amounts,
    folder: Path,
) -> dict:
    """All numbers of a model, by system; writes the sheets into the folder."""
    tests, reference, training, groups = gather(dataset, split, amounts, model.config.image_size)
    captions, real, _ = tests
    resamples = amounts.resamples
    evaluation = systems.Evaluation(panel.encoder, tests, reference, training.captions, amounts)
    shown = systems.all_systems(model, real, captions, training)
    drawn = shown["drawn"]
    systems_shown = tqdm(shown.items(), "measuring", unit="system", disable=None)
    rows = {name: evaluation.measure(images) for name, images in systems_shown}
    rows["drawn"] |= systems.fit(drawn, real, captions, resamples)
    if not are_scenes(dataset):  # their training captions are as easy as those held out
        rows["trained on"] = measure_trained_on(model, panel, training, reference, amounts)
        title = "Images trained on, none picked"
        systems.save_samples(folder / "trained_on.png", model, training.images, title)
    seen = thumbnails_of(training.images)
    for name in ("retrieved", "drawn"):
        copies, distance, number = metrics.memorisation(shown[name], real, seen, resamples)
        rows[name] |= copies
    closest = distance.argsort()[:8]  # of the drawings
    copied, _ = training.images.batch(number[closest].tolist())
    title = "The drawings that come closest to a training image, and that image"
    pairs = {"drawn": drawn[closest], "training": copied}
    figures.save_samples(folder / "closest.png", pairs, [captions[i] for i in closest], title)
    if groups:
        asked, several = zip(*groups, strict=True)
        first = [images[:NUM_SEEDS] for images in several]
        varied = {"drawn": systems.draw_again(model, asked, NUM_SEEDS)}
        if are_scenes(dataset):  # they can be drawn anew
            others = torch.stack([images[NUM_SEEDS:] for images in several])
            varied |= {"real": others, "repeated": others[:, :1].expand_as(others)}
        for name, images in varied.items():
            rows[name] |= metrics.diversity(images, first, resamples)
    if panel.recogniser and are_scenes(dataset):
        rates = evaluate_scenes(model, panel.recogniser, training, split, amounts)
        rows = {name: row | rates[name] for name, row in rows.items()}
        prompts = list(scene_sets.PROMPTS)
    else:
        prompts = short_prompts(dataset.other_split(split), NUM_PROMPTS)
        kept = prompts_kept(model, dataset, split, prompts, seen, amounts)
        rows = {name: row | kept.get(name, {}) for name, row in rows.items()}
    title = "Prompts as typed, each with 8 seeds, none picked; below: what was drawn for them"
    systems.save_prompts(folder / "prompts.png", model, prompts[:12], title)
    numbered = [f"{i + 1}. {caption}" for i, caption in enumerate(captions[:NUM_SHOWN])]
    title = "Held-out images above, drawings of their fullest captions below; none picked"
    pairs = {"real": real, "drawn": drawn}
    figures.save_samples(folder / "sheet.png", pairs, numbered, title)
    title = f"Images of the {split} split, none picked"
    systems.save_samples(folder / "samples.png", model, dataset.other_split(split), title)
    return rows


def measure_trained_on(
    model: TextToImageModel,
    panel: judges.Judges,
    training: Training,
    reference: Tensor,
    amounts: Amounts,
) -> dict:
    """The numbers of drawings of captions that were trained on, beside their own images."""
    numbers, captions = (some[-amounts.images :] for some in (training.numbers, training.captions))
    real, _ = training.images.batch(numbers)  # the reference may hold the first of these numbers
    tests = TestSet(captions, real, [])
    evaluation = systems.Evaluation(panel.encoder, tests, reference, training.captions, amounts)
    drawn = draw(model, captions, list(range(len(captions))))
    return evaluation.measure(drawn) | systems.fit(drawn, real, captions, amounts.resamples)


def evaluate_scenes(
    model: TextToImageModel,
    recogniser: judges.AttributeRecogniser,
    training: Training,
    split: str,
    amounts: Amounts,
) -> dict:
    """By system: "attributes", rates by kind of caption; "small_shapes" and "open"."""
    rows: dict[str, dict] = defaultdict(lambda: {"attributes": {}})
    resamples, size = amounts.resamples, model.config.image_size

    def rate(values: Tensor, in_pairs: bool = False) -> list[float]:
        values = values.float().unflatten(0, (-1, 2)).mean(1) if in_pairs else values
        return bootstrap(mean, values, resamples=resamples)

    for kind, test in scene_sets.attribute_sets(split, amounts.images, size).items():
        together = kind == "relations"  # the two of a pair belong together
        shown, stricts = systems.all_systems(model, test.images, test.captions, training), {}
        for system, images in shown.items():
            right = scene_sets.attribute_rates(scene_sets.read(recogniser, images), test.attributes)
            strict = scene_sets.attribute_rates(template_reader.read(images), test.attributes)
            chosen = {name: v for name, v in right.items() if name in ("all", *scenes.KINDS)}
            chosen |= {"strict": strict["all"]}
            chosen |= {name: strict[name] for name in ("nothing", "too_few", "too_many")}
            found = {name: rate(values, together) for name, values in chosen.items()}
            rows[system]["attributes"][kind], stricts[system] = found, strict["all"]
        if model.completer:
            written = model.complete(test.captions, range(len(test.captions)))
            for name, values in scene_sets.written_rates(written, test.attributes).items():
                rows["drawn"]["attributes"][kind][name] = rate(values, together)
        for system, right in stricts.items():
            both = [v.float().unflatten(0, (-1, 2)).mean(1) if together else v
                    for v in (right, stricts["real"])]  # fmt: skip
            share = bootstrap(metrics.ratio_of_means, *both, resamples=resamples)
            rows[system]["attributes"][kind]["share"] = share
    shapes = scene_sets.small_shapes(split, min(NUM_SMALL, amounts.images // 8), size)
    for shape, test in shapes.items():
        for system in ("drawn", "real"):
            images = test.images
            if system == "drawn":
                images = draw(model, test.captions, list(range(len(test.captions))))
            seen = template_reader.read(images)
            found = rate(scene_sets.attribute_rates(seen, test.attributes)["all"])
            rows[system].setdefault("small_shapes", {})[shape] = found
    for kind in scene_sets.OPEN:
        groups = scene_sets.scene_groups(split, amounts.groups, 2 * NUM_SEEDS, size, kind)
        asked, several = zip(*groups, strict=True)
        first = [images[:NUM_SEEDS] for images in several]
        varied = {"drawn": systems.draw_again(model, asked, NUM_SEEDS),
                  "real": torch.stack([images[NUM_SEEDS:] for images in several])}  # fmt: skip
        for system, images in varied.items():
            found = metrics.diversity(images, first, resamples)
            kept = {name: found[name] for name in ("diversity", "diversity_pixels")}
            rows[system].setdefault("open", {})[kind] = kept
    return rows


def short_prompts(dataset: CaptionedImages, num: int) -> list[str]:
    """As people may type for these images: parts of their fullest captions, of one tag or up to
    three words, spread evenly over the images."""
    chance, prompts = random.Random(0), []
    for i in range(num):
        (captions,) = dataset.captions_at([i * len(dataset) // num])
        parts = [draw_part(fullest(captions), chance) for _ in range(NUM_PARTS)]
        short = [part for part in parts if "," not in part and 0 < len(split_words(part)) <= 3]
        prompts.append((short or parts)[0])
    return prompts


def prompts_kept(
    model: TextToImageModel,
    dataset: CaptionedImages,
    split: str,
    prompts: list[str],
    seen: Tensor,
    amounts: Amounts,
) -> dict:
    """By system, "prompts_kept": how often the image that is nearest to the drawing of a prompt has
    all its words in its captions; "known_prompts_kept": the same of prompts without an unknown
    word. "shuffled": with the words of the next prompt.

    seen: thumbnails of the training images.
    """
    held_out, seeds = dataset.other_split(split), list(range(len(prompts)))
    sets = [dataset.once(), held_out]
    words = [set(split_words(" ".join(captions))) for some in sets
             for captions in some.captions_at(range(len(some)))]  # fmt: skip
    known = torch.cat([seen, thumbnails_of(held_out)])
    drawn = {"drawn": draw(model, prompts, seeds)}
    if model.completer:
        drawn["as typed"] = draw(model, prompts, seeds, complete=False)
    found = {}
    for system, asked in [(name, prompts) for name in drawn] + [
        ("shuffled", prompts[1:] + prompts[:1])
    ]:
        images = from_uint8(drawn.get(system, drawn["drawn"]))
        _, number = metrics.nearest(metrics.thumbnails(images), known)
        kept = [float(set(split_words(prompt)) <= words[n])
                for prompt, n in zip(asked, number.tolist(), strict=True)]  # fmt: skip
        known_alone = [k for k, prompt in zip(kept, asked, strict=True)
                       if not model.tokenizer.unknown_words(prompt)]  # fmt: skip
        for name, values in (("prompts_kept", kept), ("known_prompts_kept", known_alone)):
            if values:
                rate = bootstrap(mean, torch.tensor(values), resamples=amounts.resamples)
                found.setdefault(system, {})[name] = rate
    return found


def shares(row: dict) -> dict:
    """Rates of images that are right by the template reader, by kind of caption, as a share of real
    ones; {} where there are none."""
    return {kind: rates["share"] for kind, rates in row.get("attributes", {}).items()}


def headline(rows: dict) -> dict:
    """The numbers to look at first, each [value, low, high]."""
    drawn = rows["drawn"] | shares(rows["drawn"])
    names = ("fully_told", "unseen_pairs", *scene_sets.OPEN, "relations", "counts",
             "other_patterns", "prompts_kept", "r_precision_random", "r_precision_hard",
             "text_dependence", "own_nearest", "edge_energy", "dots", "diversity")  # fmt: skip
    top = {name: drawn[name] for name in names if name in drawn}
    top["frechet_distance"] = drawn["frechet_distance_judge"]
    top["frechet_floor"] = rows["real"]["frechet_distance_judge"]
    return top


def trained_with(state: dict, path: Path, config: EvaluateConfig) -> dict:
    """How to read the images: by the flags, and what those leave at their default as the run did
    that the weights come from; exported weights do not tell. Raises UserError where a run on a
    collection is to be judged on the scenes, or the reverse."""
    settings, defaults = data_options(config), data_options(DataConfig())
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
    state, path = checkpoint.load_whole(checkpoint.choose_weights(config.model)[0])
    model = checkpoint.model_of(state, path).to(device)
    settings, size = trained_with(state, path, config), model.config.image_size
    dataset = CaptionedImages(config.data or None, image_size=size, **settings)
    split = split_to_measure(config, dataset)
    for_judges = dataset
    if size != judges.IMAGE_SIZE:
        for_judges = CaptionedImages(config.data or None, image_size=judges.IMAGE_SIZE, **settings)
    if config.judges:
        panel = judges.read(Path(config.judges))
    else:
        panel = judges.load(for_judges, fit=config.fit_judges)
    amounts, folder = QUICK if config.quick else FULL, Path(config.output)
    takes = "a minute or two" if config.quick else "10 to 30 minutes on 2 CPU cores"
    print(f"measuring {path}{checkpoint.progress_line(state)} on {split} images: {takes}",
          flush=True)  # fmt: skip
    rows = evaluate(model, panel, dataset, split, amounts, folder)
    about |= {"weights": str(path), "split": split, "judges": panel.fingerprint}
    about |= {name: getattr(model.config, name) for name in ("mask_scale", "latent_temperature")}
    about |= {"quick": config.quick, "seconds": round(time.monotonic() - began, 1)}
    result = headline(rows) | rows | {"about": about}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "evaluation.json", json.dumps(rounded(result), indent=1) + "\n")
    figures.save_evaluation(folder / "evaluation.png", rows)
    print_table(rows)
    print(f"{folder}/evaluation.json, evaluation.png, samples.png, prompts.png, sheet.png, "
          f"closest.png; {about['seconds']:.0f} s")  # fmt: skip
    return result


def rounded(value: Any) -> Any:
    """Numbers with four digits, in any nesting."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def print_table(rows: dict) -> None:
    """A line for each measure, a column for each system."""
    flat = {system: row | {f"{kind}: share": rate for kind, rate in shares(row).items()}
            for system, row in rows.items()}  # fmt: skip
    names = dict.fromkeys(n for row in flat.values() for n, v in row.items()
                          if not isinstance(v, dict))  # fmt: skip
    print(f"{'':32}" + "".join(f"{system:>18}" for system in flat))
    for name in names:
        print(f"{name:32}" + "".join(f"{cell(row.get(name)):>18}" for row in flat.values()))
    print("± half of the 95 % interval")


def cell(value: Any) -> str:
    """A number or [value, low, high] for a terminal."""
    if isinstance(value, list):
        return f"{cell(value[0])} ±{cell((value[2] - value[1]) / 2)}"
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}"


if __name__ == "__main__":
    run(main, EvaluateConfig, __doc__)
