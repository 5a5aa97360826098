"""How does the model learn? One loop over captioned images.

    python train.py                         the built-in scenes, 8 to 25 minutes on 2 CPU cores
    python train.py --data FOLDER           your own captioned images
    python train.py --preset smoke          a minute, to see that everything works

Everything is left in results/<run>/. Repeat the command to resume; see README.md.
"""

import copy
import json
import math
import re
import shlex
import signal
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

import checkpoint
from checkpoint import Networks, Progress
from completion import fullest, kind_of_pairs
from config import (
    ALIKE,
    EPOCHS,
    FEW,
    PRESETS,
    RESULTS,
    Recipe,
    TrainConfig,
    UserError,
    choose_device,
    choose_precision,
    data_options,
    provenance,
    reader_gone,
    run,
    run_length,
    word_minimum,
)
from dataset import (
    LOOKED_AT,
    CaptionedImages,
    given_at,
    items_at,
)
from evaluation.metrics import completion_loss, fit, validate
from evaluation.systems import examples_of, save_samples
from files import locked, write_text
from learning import clipped_together, clock_at, learn, learn_replayed, ramp, step_losses
from model import TextToImageModel
from processes import Processes, Replayed, joined, name_device
from reports.forecast import Forecast, Phase, duration
from reports.log import Log
from reports.run_page import Report
from reports.verdict import FEW_HELD_OUT, verdict
from tokenizer import SPECIAL_TOKENS, split_words

TRIED = 20  # steps of a dry run
LONG = 6_000  # images; steps of shorter runs are not timed before
UPDATE = 1.15  # time of a step / of its losses and gradients
BESIDE = 0.93  # share of a run's time that is not validation, samples and checkpoints
# What an image costs where steps were not timed: by halvings, and what other losses add.
COSTS, MORE = (1.0, 0.85, 0.55), 0.5
IGNORED = 1.2  # text_dependence of training captions, below which training warns
OVERFIT = 1.03  # times the lowest loss or score of held-out captions: where training warns


def rises(values: list[float]) -> bool:
    """Whether the last of these losses is beyond OVERFIT times the lowest, and the one before it
    was not."""
    over = [False] + [v > OVERFIT * min(values[: i + 1]) for i, v in enumerate(values)]
    return over[-1] and not over[-2]


def track_best(progress: Progress, measured: dict, ema: TextToImageModel, recipe: Recipe) -> str:
    """Keep the averaged weights with the lowest energy score, once all terms count fully and
    images have their full size, so that scores compare. Returns a warning where overfitting
    begins, or ""."""
    seen, start = progress.images_seen, progress.start
    if recipe.completer_only:
        return ""
    size = ema.config.image_size >> ema.halvings
    lines = [line for line in progress.metrics if line["split"] == "validation"
             and line["image_size"] == size and line["images"] > start]  # fmt: skip
    if ramp(recipe, seen, start, recipe.swd_ramp) == 1 and not ema.halvings:
        name, ending = "energy_score", "; those weights are kept"
        lines = [line for line in lines
                 if ramp(recipe, line["images"], start, recipe.swd_ramp) == 1]  # fmt: skip
        if not progress.best or measured[name] <= progress.best[name]:
            weights = copy.deepcopy(ema.state_dict())
            progress.best = {"images": seen, name: measured[name], "weights": weights}
    elif recipe.has_latents and ramp(recipe, seen, start, recipe.latent_ramp) > 0:
        return ""  # the drawing at latent 0, which the other loss is of, is not fitted any more
    else:
        name, ending = "regression_loss", "; more images help, or a new run with --images {:d}"
    kept_from_before = name == "energy_score" and progress.best["images"] <= start
    if kept_from_before or not rises([line[name] for line in lines]):
        return ""
    lowest = min(lines, key=lambda line: line[name])
    return (
        f"{seen:,} images: overfitting, held-out captions were drawn best after "
        f"{lowest['images']:,} ({name.replace('_', ' ')} {lowest[name]:.4f}, now "
        f"{measured[name]:.4f}){ending.format(lowest['images'])}"
    )


def track_best_completer(progress: Progress, measured: dict, ema: TextToImageModel) -> str:
    """Keep the averaged completer with the lowest loss. Returns a warning of overfitting, or ""."""
    if "completion_loss" not in measured:
        return ""
    lowest, now = progress.best_completer, measured["completion_loss"]
    if not lowest or now <= lowest["completion_loss"]:
        weights = copy.deepcopy(ema.completer.state_dict())
        progress.best_completer = {"images": progress.images_seen, "completion_loss": now,
                                   "weights": weights}  # fmt: skip
    losses = [line["completion_loss"] for line in progress.metrics if "completion_loss" in line
              and line["split"] == "validation"]  # fmt: skip
    if rises(losses):
        return (
            f"{progress.images_seen:,} images: the completer learns captions by heart; it wrote "
            f"held-out ones best after {lowest['images']:,} ({lowest['completion_loss']:.2f} nats, "
            f"now {now:.2f}); that one is kept"
        )
    return ""


def doubt_captions(progress: Progress, config: TrainConfig, num_images: int) -> str:
    """A warning where drawings of training captions have begun to be much the same, whatever the
    caption, in the second half of a run; else ""."""
    if config.preset == "smoke":  # too short to tell
        return ""
    seen, lines = progress.images_seen, progress.metrics
    found = [line["text_dependence"] for line in lines if line["split"] == "train"
             and line["images"] >= config.images / 2 and "text_dependence" in line]  # fmt: skip
    told = len(found) > 1 and found[-2] < IGNORED
    if told or not found or found[-1] >= IGNORED:
        return ""
    return (
        f"{seen:,} images: drawings hardly depend on captions: another caption's is wrong "
        f"{found[-1]:.2f} times as much as its own, even for captions trained on; each image was "
        f"seen {seen / num_images:.0f} times: do captions tell images apart? If so, more --images "
        "help"
    )


class Stop:
    """Ctrl-C, SIGTERM and a closed terminal ask to stop after the step; a second one stops at once.
    Signals ignored at start (nohup) stay ignored. A closed pipe (`| head`) asks to stop, too."""

    def __enter__(self) -> "Stop":
        self.signal = 0
        names = ("SIGINT", "SIGTERM", "SIGHUP")  # the last: a terminal is closed; not on Windows
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        self.before = {number: signal.signal(number, self.ask) for number in numbers
                       if signal.getsignal(number) != signal.SIG_IGN}  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def ask(self, number: int, _: object) -> None:
        if self.signal:
            sys.exit(128 + number)
        self.signal = number

    @property
    def status(self) -> int:
        """What to exit with: 0 where nothing asked to stop."""
        return 128 + (self.signal or signal.SIGINT) if self.signal or reader_gone() else 0


def open_data(
    config: TrainConfig, cache_dir: str | Path = RESULTS / "cache"
) -> tuple[CaptionedImages, CaptionedImages]:
    """Training and validation images."""
    dataset = CaptionedImages(config.data or None, image_size=config.image_size,
                              cache_dir=cache_dir, **data_options(config))  # fmt: skip
    validation = dataset.other_split("validation")
    if not len(dataset):
        raise UserError(f"{config.data} gives no images to train on: all are for "
                        f"{' and '.join(dataset.splits)}; call their folder train")  # fmt: skip
    if config.flip:
        sided = [c for c in dataset.captions() if {"left", "right"} & set(split_words(c))]
        if sided:
            raise UserError(f"--flip would falsify captions that name sides: {sided[0]!r}")
    return dataset, validation


def images_per_caption(dataset: CaptionedImages) -> float:
    """How many images share their fullest caption, on average."""
    captions = [fullest(several) for several in dataset.captions_of_each(len(dataset))]
    return len(captions) / len(set(captions))


def settle(config: TrainConfig, dataset: CaptionedImages) -> TrainConfig:
    """The settings of a run, with those that the collection decides where they are left out.

    Latents: words are learnt from fewer images without them, and where a caption has one image, or
    two, they are not needed. With completer_only, they are as they were.
    """
    once = dataset.once()
    images = config.images or run_length(len(once), scenes=not config.data)
    min_count, latents = config.min_count or word_minimum(len(once)), config.latents
    if latents == "auto":
        latents = "on" if config.noise_dim else "off"
        if config.completer_only:
            path, _ = checkpoint.choose_weights(config.init_from)
            latents = "on" if checkpoint.load_model(path).config.noise_dim else "off"
        elif config.data and (shared := images_per_caption(once)) < ALIKE:
            latents = "off"
            print(
                f"no latents, as there are {shared:.1f} images for each caption; else --latents on"
            )
    pairs = config.pairs
    if pairs == "auto":
        pairs = kind_of_pairs(once.captions_of_each(LOOKED_AT))
    return replace(config, images=images, min_count=min_count, latents=latents, pairs=pairs)


def describe(
    config: TrainConfig, model: TextToImageModel, dataset: CaptionedImages, num_held_out: int
) -> str:
    """What a person wants to know before training starts."""
    captions = dataset.captions(LOOKED_AT)
    lengths = [len(model.tokenizer.encode(caption)) for caption in captions]
    limit = model.config.max_tokens
    num_cut = sum(length > limit for length in lengths)
    num_words = len(model.tokenizer) - len(SPECIAL_TOKENS)
    few = f"  few images: {FEW} are the least that makes sense\n" if len(dataset) < FEW else ""
    if num_held_out < FEW_HELD_OUT:
        few += f"  {num_held_out} images held out are too few to measure by\n"
    prompts = {"captions": "whole captions", "parts": "parts of captions",
               "each": "parts of captions, each by itself"}[config.pairs]  # fmt: skip
    completer = f"  prompts: completed, as learnt from {prompts}\n" if model.completer else ""
    often = f", each {config.min_count} times or more" if config.min_count > 1 else ""
    longer = f"; --set max_tokens={max(lengths)} reads them whole" if num_cut else ""
    return (
        f"{dataset.summary()}\n{few}{completer}"
        f"  vocabulary: {num_words:,} words{often}; {num_cut:,} of {len(captions):,} captions cut "
        f"to {limit} tokens (the longest has {max(lengths)}){longer}\n"
        f"model: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, "
        f"{config.image_size} px"
    )


def how_often(config: TrainConfig, num_images: int) -> str:
    often = config.images / num_images
    told = "each one about once" if round(often) == 1 else f"each one about {often:.0f} times"
    if config.data and round(often) < EPOCHS:
        told += f"; {EPOCHS} times are --images {EPOCHS * num_images}"
    return told


def phases_of(config: TrainConfig, progress: Progress) -> list[Phase]:
    """The parts of a run in which images have one size, and the same losses count."""
    if config.completer_only:
        return [Phase(0, config.images, ("captions only",), 1.0)]
    if progress.metrics and not progress.start:  # which halvings it began with
        largest = config.image_size // progress.metrics[0]["image_size"]
        progress = replace(progress, halvings=int(math.log2(largest)))
    marks = sorted({0.0, 1.0, *config.grow_at, config.latent_ramp[0], config.swd_ramp[0]})
    phases, before = [], None
    for first, last in pairwise(round(mark * config.images) for mark in marks if mark <= 1):
        middle = replace(progress, images_seen=(first + last) // 2)
        if first == last:
            continue
        stage = halvings, latent, swd = clock_at(config, middle).stage
        if stage == before:
            phases[-1] = phases[-1]._replace(last=last)
            continue
        new = {f"{config.image_size >> halvings} px": not before or before[0] != halvings,
               "latents": latent and not (before and before[1]),
               "sharpness": swd and not (before and before[2])}  # fmt: skip
        begins = tuple(label for label, is_new in new.items() if is_new)
        cost = COSTS[min(halvings, 2)] + MORE * (latent or swd)
        phases.append(Phase(first, last, begins, cost))
        before = stage
    return phases


def time_phases(
    phases: list[Phase],
    dataset: CaptionedImages,
    networks: Networks,
    config: TrainConfig,
    progress: Progress,
    processes: Processes,
    steps: int = 2,
) -> Forecast:
    """What an image costs here in each phase that is left, from so many steps in the middle of
    each, of which the first makes ready. Nothing is learnt from them."""
    print("timing a few steps of each phase, up to a minute where the machine is busy", flush=True)
    timed = []
    for phase in phases:
        middle = replace(progress, images_seen=(phase.first + phase.last) // 2)
        times = []
        for _ in range(steps if phase.last > progress.images_seen else 0):
            began = time.monotonic()
            given = given_at(dataset, networks.model, config, middle.images_seen)
            part, _ = given.part(0, config.accumulate * processes.count)
            _, objective = step_losses(part, networks, config, clock_at(config, middle))
            objective.backward()
            float(nn.utils.get_total_norm([p.grad for p in networks.model.parameters()
                                           if p.grad is not None]))  # fmt: skip
            times.append(time.monotonic() - began)
        a_step = UPDATE * config.accumulate * statistics.median(times[1:]) if times else 0.0
        timed.append(phase._replace(seconds=a_step / config.batch_size))
    return Forecast(timed, measured=True)


def with_length(
    config: TrainConfig,
    dataset: CaptionedImages,
    networks: Networks,
    progress: Progress,
    processes: Processes,
) -> TrainConfig:
    """With so many images as config.minutes allow here, as the first process finds."""
    phases = phases_of(config, progress)
    forecast = time_phases(phases, dataset, networks, config, progress, processes)
    images = forecast.images_in(60 * config.minutes * BESIDE) // config.batch_size
    images = max(1, int(processes.sum(images if processes.is_first else 0)))
    return replace(config, minutes=0.0, images=images * config.batch_size)


def rehearse(config: TrainConfig, folder: Path, device: torch.device, processes: Processes) -> Path:
    """Tell what a run would do. It is tried with steps whose weights are thrown away."""
    with tempfile.TemporaryDirectory() as cache:
        dataset, validation = open_data(replace(config, cache="off"), cache)
        config = settle(config, dataset)
        state = checkpoint.new_state(config, {}, dataset.captions())
        progress = Progress(**{name: state[name] for name in vars(Progress())})
        networks, optimizers = checkpoint.networks_of(state, folder, config, device)
        print(f"{describe(config, networks.model, dataset, len(validation))}, {device}")
        if config.minutes:
            config = with_length(config, dataset, networks, progress, processes)
        phases = phases_of(config, progress)
        steps = math.ceil(TRIED / len(phases))
        forecast = time_phases(phases, dataset, networks, config, progress, processes, steps)
    for phase in forecast.phases:
        begins = " and ".join(phase.begins)
        print(f"  from image {phase.first:,}: {begins}, {1 / phase.seconds:.0f} images/s")
    once, total = dataset.once(), forecast.seconds(0, config.images) / BESIDE
    weights = sum(p.numel() for network in networks if network for p in network.parameters())
    cache = (
        0
        if config.cache_bytes() == 0
        else 3 * config.image_size**2 * len(dataset.collection.records)
    )
    print(f"{config.images:,} images ({how_often(config, len(once))}): about {duration(total)}; "
          f"{len(validation):,} images are held out")  # fmt: skip
    print(f"disk: {cache / 1e6:,.0f} MB for decoded images, about {2 * 12 * weights / 1e6:,.0f} MB "
          f"in {folder}")  # fmt: skip
    if (folder / "checkpoint.pth").exists():
        print(f"{folder} is there already, and this tells of a new run: --run NAME begins one")
    print("nothing was changed; without --dry-run it begins")
    return folder


def passed(before: int, after: int, interval: float) -> bool:
    """Whether a multiple of interval lies in (before, after]."""
    return after // interval > before // interval


def require_finite(
    values: dict[str, Tensor],
    config: TrainConfig,
    folder: Path,
    dataset: CaptionedImages,
    images_seen: int,
) -> dict[str, float]:
    """The values as plain numbers, by one transfer from the device. Raises UserError where one is
    no number, and writes non_finite.json to reproduce the step."""
    numbers = torch.stack([value.detach().float() for value in values.values()]).tolist()
    found = dict(zip(values, numbers, strict=True))
    what = [f"{name} became {value}" for name, value in found.items() if not math.isfinite(value)]
    if not what:
        return found
    items = items_at(config, len(dataset), images_seen)
    paths = [dataset.collection.records[dataset.indices[i]].path for i in items]
    step = {"what": what[0], "images_seen": images_seen, "seed": config.seed, "paths": paths}
    with suppress(UserError):  # that the disk is full, too, is the smaller trouble
        write_text(folder / "non_finite.json", json.dumps(step, indent=1) + "\n")
    raise UserError(
        f"{what[0]} after {images_seen:,} images; the last checkpoint is kept, and "
        f"{folder}/non_finite.json names the images of that step; to go on more gently: "
        f"--run NAME --init-from {folder} --lr {config.lr / 3:.1g}"
    )


def main(config: TrainConfig) -> Path:
    """Train, or go on training; returns the run's folder."""
    folder, device = RESULTS / config.run_name(), choose_device(name_device(config.device))
    with joined(device) as processes:
        try:
            if config.dry_run:
                return rehearse(config, folder, device, processes)
            dataset, validation = open_data(config)
            lock = locked(folder / "lock", wait=False) if processes.is_first else nullcontext()
            with lock:
                for litter in folder.rglob("*.tmp") if processes.is_first else ():
                    litter.unlink()  # of a process that was killed
                return train(config, folder, device, dataset, validation, processes)
        except torch.OutOfMemoryError as error:
            less = f"--set accumulate={2 * config.accumulate} needs half, for the same result"
            if 2 * config.accumulate > config.batch_size:
                less = "a smaller --image-size needs less, in a run of another name"
            raise UserError(f"{device} has too little memory: {less}") from error


def train(
    config: TrainConfig,
    folder: Path,
    device: torch.device,
    dataset: CaptionedImages,
    validation: CaptionedImages,
    processes: Processes,
) -> Path:
    """`main` on opened data, in a folder that no other process uses."""
    precision = choose_precision(config.precision, device)
    fingerprints = {"train": dataset.fingerprint(), "validation": validation.fingerprint()}
    if not processes.is_first:
        processes.any(False)  # waits till the first has the lock, and has mended what is damaged
    state = checkpoint.resume(config, folder, fingerprints)
    if processes.is_first:
        processes.any(False)
    config = settle(TrainConfig(**state["config"]) if state else config, dataset)
    state = state or checkpoint.new_state(config, fingerprints, dataset.captions())
    progress = Progress(**{name: state[name] for name in vars(Progress())})
    if nothing_left_to_do(config, folder, progress.images_seen):
        return folder
    networks, optimizers = checkpoint.networks_of(state, folder / "checkpoint.pth", config, device)
    model, ema, posterior = networks
    once = dataset.once()
    about = provenance(device) | {"precision": str(precision), "held_out": len(validation),
                                  "collection": dataset.summary()}  # fmt: skip
    print(f"{describe(config, model, dataset, len(validation))}, {device}, {precision}")
    if config.minutes:
        minutes = config.minutes
        config = with_length(config, dataset, networks, progress, processes)
        again = re.sub(r"--minutes[ =]\S+", f"--images {config.images}", about["command"])
        about["command"] = again
        print(f"{minutes:g} min are {config.images:,} images; the same again: {again}")
    end = min(config.images, config.stop_after or config.images)
    phases = phases_of(config, progress)
    report = Report(folder, config, phases, progress.start) if processes.is_first else None
    forecast = Forecast(phases, measured=False)
    if end - progress.images_seen >= LONG:
        forecast = time_phases(phases, dataset, networks, config, progress, processes)
    length = f"{config.images:,} images ({how_often(config, len(once))})"
    print(f"run: {folder}, {length}, from image {progress.images_seen:,}")
    if forecast.measured:
        seconds = forecast.seconds(progress.images_seen, end) / BESIDE
        print(f"about {duration(seconds)} here; Ctrl-C saves, the same command goes on")
    processes.any(False)  # waits till all have read what the first one will write
    if processes.is_first:
        checkpoint.write_record(folder, about, config, model.config, progress.images_seen)
    # Runs too short for one sample sheet have four.
    every = config.sample_every
    if every > config.images:
        every = max(1, config.images // 4)
    path = folder / "metrics.jsonl" if processes.is_first else None
    log = Log(path, config, progress, dataset, forecast, end)
    if processes.is_first:
        left = forecast.seconds(progress.images_seen, end) if forecast.measured else None
        report.update(progress.metrics, None, left)
        print(f"to watch: {folder}/index.html, renewed every {every:,} images")
    with_graphs = config.graphs and device.type == "cuda"
    take_step = partial(learn_replayed, Replayed()) if with_graphs else learn
    stopping = False
    with Stop() as stop, log.bar:
        while not stopping:
            log.begin()
            clock, before = clock_at(config, progress), progress.images_seen
            num = min(config.batch_size, config.images - before)
            progress.halvings = clock.halvings

            # Learn
            given = given_at(dataset, model, config, before)
            terms = take_step(given, networks, optimizers, config, clock, processes)
            values = require_finite(terms, config, folder, dataset, before)
            progress.images_seen = seen = before + num

            # Log
            del values["gradient norm"]
            log.step(values, num)
            size, finished = config.image_size >> clock.halvings, seen == config.images
            due = finished or passed(before, seen, every)
            often = every / config.logs_per_sample
            if processes.is_first and (due or passed(before, seen, often)):
                draws = due and not config.completer_only
                log.train(size, {"lr": clock.lr} | (fit(ema, once) if draws else {}))

            # Validate
            if processes.is_first and due:
                measured = {} if config.completer_only else validate(ema, validation, device)
                if model.completer:
                    measured["completion_loss"] = completion_loss(ema, validation, config.pairs)
                log.add("validation", size, measured)
                warnings = [track_best(progress, measured, ema, config),
                            track_best_completer(progress, measured, ema)]  # fmt: skip
                if len(validation) < FEW_HELD_OUT:  # chance
                    warnings = []
                for warning in [*warnings, doubt_captions(progress, config, len(once))]:
                    if warning:
                        log.bar.write(warning)

            # Show; what cannot be written costs no images
            stopping, trouble = seen >= end or processes.any(stop.status != 0), None
            try:
                if processes.is_first and due:
                    title = f"{folder.name}: {seen:,} images seen; none is picked"
                    save_samples(folder / f"samples/{seen:09d}.png", ema, validation, title, once)
                if processes.is_first and (due or stopping):
                    examples = given.batch and examples_of(given.batch, model)
                    report.update(progress.metrics, examples, log.seconds_left())
            except (UserError, OSError) as error:
                trouble = error

            # Checkpoint
            keep = config.keep_every > 0 and passed(before, seen, config.keep_every)
            if processes.is_first and (due or keep or stopping):
                terms = {
                    "norm of the weights": nn.utils.get_total_norm(
                        sum(clipped_together(optimizers), [])
                    )
                }
                require_finite(terms, config, folder, dataset, before)
                checkpoint.save_run(
                    folder, config, fingerprints, progress, networks, optimizers, keep
                )
            if trouble:
                raise trouble
    print_summary(config, folder, progress, about["command"], once, len(validation))
    if stop.status:
        sys.exit(stop.status)
    return folder


def nothing_left_to_do(config: TrainConfig, folder: Path, seen: int) -> bool:
    """Whether no step is left to do; says so. Raises UserError where stop_after lies behind."""
    end = min(config.images, config.stop_after or config.images)
    if seen >= config.images:
        print(f"{folder} is finished: {seen:,} images seen; to train on: --images {2 * seen}")
    elif seen >= end:
        told = f"{seen:,} images are seen; raise it or leave it out"
        if seen >= end + config.batch_size:
            raise UserError(f"--set stop_after={config.stop_after} lies behind: {told}")
        print(f"{folder} is as far as --set stop_after={config.stop_after} lets it go: {told}")
    return seen >= end


def print_summary(
    config: TrainConfig,
    folder: Path,
    progress: Progress,
    command: str,
    dataset: CaptionedImages,
    num_held_out: int,
) -> None:
    """What a person wants to know when training stops. dataset: each training image once."""
    seen, best = progress.images_seen, progress.best
    if seen < config.images:
        command = re.sub(r" --set stop_after=\d+", "", command)
        print(f"saved after {seen:,} of {config.images:,} images; to go on: {command}")
        return
    smoke = config.preset == "smoke"  # is drawn from or kept only where that is asked for
    told = verdict(progress.metrics, len(dataset), num_held_out, best.get("images", 0), smoke)
    print(f"done: {seen:,} images")
    for sentence in told:
        print(f"  {sentence}")
    name, file = shlex.quote(folder.name), shlex.quote(f"{folder.name}.pth")
    caption = shlex.quote(fullest(tuple(dataset.captions_of_each(1)[0])))
    print(f"see {folder}/index.html in a browser")
    print(f"to draw: python generate.py --input {caption}"
          f"{f' --model {shlex.quote(str(folder))}' * smoke}")  # fmt: skip
    print(f"to keep the weights: python save_model.py --run {name} --output {file}"
          f"{' --force' * smoke}")  # fmt: skip


if __name__ == "__main__":
    run(main, TrainConfig, __doc__, PRESETS)
