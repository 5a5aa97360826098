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
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

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
    Batch,
    CaptionedImages,
    Given,
    given_at,
    items_at,
)
from evaluation.metrics import CANDIDATES, completion_loss, fit, validate
from evaluation.systems import examples_of, save_samples
from files import locked, write_text
from latents import bin_odds, cross_entropy
from losses import colour_loss, kl_divergence, regression_loss, sliced_wasserstein_loss
from model import TextToImageModel, composite
from processes import Processes, Replayed, joined, name_device
from reports.run_page import Report
from tokenizer import SPECIAL_TOKENS, split_words

SECONDS_UNTOLD = 10  # between plain lines
LONG = 20_000  # images; how long fewer take is not told
UPDATE = 1.15  # time of a step / of its losses and gradients
IGNORED = 1.2  # text_dependence of training captions, below which training warns
OVERFIT = 1.03  # times the lowest loss or score of held-out captions: where training warns


class Clock(NamedTuple):
    """Where a run is, and what follows from it for the next step."""

    lr: float
    steady_lr: float  # of the prior
    halvings: int  # of the sides of training images
    latent: float  # 0..1, how far kl_weight is ramped in; 0: latents are noise
    swd: float  # 0..1, how far swd_weight is
    average: float  # how far the averaged weights move towards the weights
    on_device: Tensor | None = None  # what `rates` holds, where numbers of it are not known

    @property
    def stage(self) -> tuple[int, bool, bool]:
        """What decides which things are computed; all else about a clock is `rates`."""
        return self.halvings, self.latent > 0, self.swd > 0

    @property
    def rates(self) -> tuple[float, ...] | Tensor:
        """lr, steady_lr, latent, swd, average."""
        if self.on_device is not None:
            return self.on_device
        return self.lr, self.steady_lr, self.latent, self.swd, self.average


def clock_at(recipe: TrainConfig, progress: Progress) -> Clock:
    """The clock of the next step."""
    seen, start = progress.images_seen, progress.start
    halvings = sum(seen < fraction * recipe.images for fraction in recipe.grow_at)
    return Clock(
        learning_rate(recipe, seen, start),
        steady_rate(recipe, seen, start),
        # Never more than before: with --init-from, training begins at full size.
        min(progress.halvings, halvings),
        ramp(recipe, seen, start, recipe.latent_ramp) if recipe.has_latents else 0.0,
        ramp(recipe, seen, start, recipe.swd_ramp) if recipe.swd_weight else 0.0,
        movement(recipe, seen),
    )


def learning_rate(recipe: Recipe, images_seen: int, start: int) -> float:
    """Warm-up, then cosine down to final_lr_fraction at the end of the run that began at start."""
    done, length = images_seen - start, recipe.images - start
    longer = max(recipe.warm_up, recipe.warm_up_steps * recipe.batch_size)
    warm_up = min(1.0, (done + recipe.batch_size) / max(1, min(longer, length / 10)))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done / length)))
    last = recipe.final_lr_fraction
    return recipe.lr * warm_up * (last + (1 - last) * cosine)


def steady_rate(recipe: Recipe, images_seen: int, start: int) -> float:
    """The rate of the prior: it falls in the last fifth of the run only, as the latents that it
    follows change all the time before."""
    left = (recipe.images - images_seen) / (recipe.images - start)
    return recipe.lr * min(1.0, 5 * left)


def movement(recipe: Recipe, images_seen: int) -> float:
    """How far averaged weights move in this step, which makes their half-life ema_half_life of the
    images seen."""
    num = min(recipe.batch_size, recipe.images - images_seen)
    half_life = recipe.ema_half_life * (images_seen + num)
    return 1 - 0.5 ** (num / max(half_life, num))


def ramp(recipe: Recipe, images_seen: int, start: int, within: tuple[float, ...]) -> float:
    """0 before, 1 after these fractions of the run; 1 when training goes on after its end."""
    progress, (first, last) = images_seen / recipe.images, within
    if start or progress >= last:
        return 1.0
    return max(0.0, (progress - first) / (last - first)) if last > first else 0.0


def compute_losses(
    batch: Batch, networks: Networks, recipe: TrainConfig, clock: Clock
) -> dict[str, Tensor]:
    """The decoder's terms of a step that count by now, each a scalar, not weighted."""
    model, ema, posterior = networks
    losses = {}
    real = F.avg_pool2d(batch.images, 2**clock.halvings)  # (B, 3, h, w)
    fast = choose_precision(recipe.precision, real.device) == torch.bfloat16
    with torch.autocast(real.device.type, torch.bfloat16, enabled=fast):
        text, latent = model.encode(batch.tokens), batch.noise  # (B, Z)
        if clock.latent > 0:  # not noise, but what the caption leaves open
            mean_drawing = ema.predict_mean(batch.tokens, batch.augmentation)
            mean, log_std = posterior(real, mean_drawing)  # (B, Z) each
            latent = mean + log_std.exp() * batch.noise  # (B, Z)
            prior_logits = model.prior(batch.tokens, latent.detach())  # (B, Z, BINS)
        layers, _ = model.decode(text, latent, batch.augmentation)
    if clock.latent > 0:
        losses["kl_loss"] = kl_divergence(mean, log_std)
        odds = bin_odds(mean.detach(), log_std.detach())  # (B, Z, BINS)
        losses["prior_loss"] = cross_entropy(odds, prior_logits.float())
    # Once sharpness counts, all losses of the drawing see sharper masks; drawings go beyond that.
    drawn = composite(layers, recipe.late_mask_scale if clock.swd > 0 else 1)  # (B, 3, h, w)
    losses["regression_loss"] = regression_loss(drawn, real)
    if clock.swd > 0:
        losses["swd_loss"] = sliced_wasserstein_loss(drawn, real, batch.filters)
        losses["colour_loss"] = colour_loss(drawn, real)
    return losses


def step_losses(
    given: Given, networks: Networks, config: TrainConfig, clock: Clock
) -> tuple[dict[str, Tensor], Tensor]:
    """All losses of the step at this clock with the weighted "total" of the decoder's, and what is
    minimised: scalars."""
    model = networks.model
    model.halvings = networks.ema.halvings = clock.halvings
    losses, total = {}, torch.zeros((), device=model.to_layers.weight.device)
    if given.batch:
        losses = compute_losses(given.batch, networks, config, clock)
        total = weighted_sum(losses, config, clock)
    if given.pairs:
        losses["completion_loss"] = model.completer.loss(*given.pairs)
    # The prior and the completer have weights and optimizers of their own.
    objective = total + sum(losses.get(name, 0) for name in ("prior_loss", "completion_loss"))
    return losses | {"total": total}, objective


def add_gradients(
    given: Given, networks: Networks, config: TrainConfig, clock: Clock, processes: Processes
) -> dict[str, Tensor]:
    """The losses of a step, whose gradients are added to those of the weights. Each process takes
    its share, in `accumulate` parts."""
    means: dict[str, Tensor] = {}
    for i in range(config.accumulate):
        index = processes.rank * config.accumulate + i
        part, share = given.part(index, processes.count * config.accumulate)
        losses, objective = step_losses(part, networks, config, clock)
        (share * objective).backward()
        for name, loss in losses.items():
            means[name] = means.get(name, 0) + share * loss.detach().float()
    gradients = [p.grad for network in (networks.model, networks.posterior) if network
                 for p in network.parameters() if p.grad is not None]  # fmt: skip
    processes.add_up([*gradients, *means.values()])
    return means


def learn(
    given: Given,
    networks: Networks,
    optimizers: list[torch.optim.Optimizer],
    config: TrainConfig,
    clock: Clock,
    processes: Processes,
) -> dict[str, Tensor]:
    """One step: losses, gradients, update, averaged weights. Returns what tells how it went, as
    scalars: the losses and the norm of the gradients."""
    lr, steady_lr, *_, average = clock.rates
    for optimizer in optimizers:
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = (steady_lr if group["steady"] else lr) * group["relative_lr"]
    losses = add_gradients(given, networks, config, clock, processes)
    norms = [nn.utils.clip_grad_norm_(weights, config.max_grad_norm)
             for weights in clipped_together(optimizers)]  # fmt: skip
    for optimizer in optimizers:
        optimizer.step()
    update_ema(networks.ema, networks.model, average)
    return losses | {"gradient norm": sum(norms)}


def learn_replayed(
    replayed: Replayed,
    given: Given,
    networks: Networks,
    optimizers: list[torch.optim.Optimizer],
    config: TrainConfig,
    clock: Clock,
    processes: Processes,
) -> dict[str, Tensor]:
    """`learn` as a CUDA graph: captions have few lengths, and the rates lie on the device."""
    given = given.padded()
    rates = torch.tensor(clock.rates, device=networks.model.to_layers.weight.device)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]

    def step(inputs: list[Tensor]) -> dict[str, Tensor]:
        capturing = inputs[0].is_cuda and torch.cuda.is_current_stream_capturing()
        for group in groups:  # of AdamW
            group["capturable"] = capturing
        other = clock._replace(on_device=inputs[0])
        return learn(given.like_this(inputs[1:]), networks, optimizers, config, other, processes)

    terms = replayed(step, [rates, *given.tensors()], clock.stage)
    for group in groups:
        group["lr"] = clock.lr  # a plain number, as the checkpoint holds
    return terms


def clipped_together(optimizers: list[torch.optim.Optimizer]) -> list[list[Tensor]]:
    """The weights of each AdamW and the Muon that goes with it."""
    groups = [[p for group in o.param_groups for p in group["params"]] for o in optimizers]
    return [groups[i] + groups[i + 1] for i in range(0, len(groups), 2)]


def weighted_sum(losses: dict[str, Tensor], recipe: Recipe, clock: Clock) -> Tensor:
    """What the decoder and the posterior learn from."""
    _, _, latent, swd, _ = clock.rates
    weights = {
        "regression_loss": 1.0,
        "kl_loss": latent * recipe.kl_weight,
        "swd_loss": swd * recipe.swd_weight,
        "colour_loss": swd * recipe.swd_weight,
    }
    return sum(weights[name] * loss for name, loss in losses.items() if name != "prior_loss")


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, movement: float | Tensor) -> None:
    """Move the averaged weights towards the weights, by this fraction of the way."""
    averages, weights = list(ema.parameters()), list(model.parameters())
    way = [movement] * len(weights) if isinstance(movement, Tensor) else movement
    torch._foreach_lerp_(averages, weights, way)


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


class Log:
    """What a run tells: metrics.jsonl for programs, a progress bar for people, or, where that would
    go to a file, a plain line of the same numbers now and then."""

    def __init__(
        self, path: Path | None, config: TrainConfig, progress: Progress, data: CaptionedImages
    ):
        self.path, self.progress, self.data = path, progress, data
        self.began = time.monotonic() - progress.seconds
        self.first_seen, self.first_seconds = progress.images_seen, progress.seconds
        self.last_seconds, self.last_waited = progress.seconds, data.seconds_waited
        self.bar = tqdm(total=config.images, initial=progress.images_seen, unit="img",
                        desc="training", smoothing=0.05, disable=None)  # fmt: skip
        self.told = -math.inf  # when a plain line was written
        self.write()  # without what a crash left behind the last checkpoint

    def write(self) -> None:
        lines = [json.dumps(line) + "\n" for line in self.progress.metrics]
        if self.path:
            write_text(self.path, "".join(lines))

    def step(self, values: dict[str, float], num_images: int) -> None:
        for name, value in values.items():
            self.progress.unlogged.setdefault(name, []).append(value)
        self.progress.seconds = time.monotonic() - self.began
        self.bar.update(num_images)
        loss = f"{values['total'] or values['completion_loss']:.4f}"
        self.bar.set_postfix(loss=loss, refresh=False)
        if time.monotonic() - self.told > SECONDS_UNTOLD:
            self.tell(f"loss={loss}")

    def train(self, image_size: int, values: dict[str, float]) -> None:
        """A line of the means since the last one, and of these values."""
        seen, seconds = self.progress.images_seen, self.progress.seconds
        unlogged, self.progress.unlogged = self.progress.unlogged, {}
        means = {"largest_total": max(unlogged.pop("total"))}  # spikes that recover show here
        means |= {name: sum(values) / len(values) for name, values in unlogged.items()}
        speed = (seen - self.first_seen) / (seconds - self.first_seconds)
        waited = self.data.seconds_waited - self.last_waited
        waiting = waited / max(1e-9, seconds - self.last_seconds)
        self.last_seconds, self.last_waited = seconds, self.data.seconds_waited
        means |= values | {"seconds": seconds, "images_per_second": speed,
                           "fraction_of_seconds_waiting_for_data": waiting}  # fmt: skip
        self.add("train", image_size, means)

    def add(self, split: str, image_size: int, values: dict[str, float]) -> None:
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        line = {"images": self.progress.images_seen, "split": split, "image_size": image_size}
        self.progress.metrics.append(line | rounded)
        self.write()
        if split == "validation":
            self.tell(", ".join(f"{name} {value:g}" for name, value in rounded.items()))

    def tell(self, numbers: str) -> None:
        """A plain line where there is no progress bar, as what is printed goes to a file."""
        if self.bar.disable:
            seen, seconds = self.progress.images_seen, self.progress.seconds
            print(f"{seen:,} of {self.bar.total:,} images, {seconds:.0f} s: {numbers}",
                  file=sys.stderr, flush=True)  # fmt: skip
            self.told = time.monotonic()


def open_data(config: TrainConfig) -> tuple[CaptionedImages, CaptionedImages]:
    """Training and validation images."""
    dataset = CaptionedImages(
        config.data or None, image_size=config.image_size, **data_options(config)
    )
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
    two, they are not needed. With --completer-only, they are as they were.
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


def describe(config: TrainConfig, model: TextToImageModel, dataset: CaptionedImages) -> str:
    """What a person wants to know before training starts."""
    captions = dataset.captions(LOOKED_AT)
    lengths = [len(model.tokenizer.encode(caption)) for caption in captions]
    limit = model.config.max_tokens
    num_cut = sum(length > limit for length in lengths)
    num_words = len(model.tokenizer) - len(SPECIAL_TOKENS)
    few = f"  few images: {FEW} are the least that makes sense\n" if len(dataset) < FEW else ""
    prompts = {"captions": "whole captions", "parts": "parts of captions",
               "each": "parts of captions, each by itself"}[config.pairs]  # fmt: skip
    completer = f"  prompts: completed, as learnt from {prompts}\n" if model.completer else ""
    often = f", each {config.min_count} times or more" if config.min_count > 1 else ""
    return (
        f"{dataset.summary()}\n{few}{completer}"
        f"  vocabulary: {num_words:,} words{often}; {num_cut:,} of {len(captions):,} captions cut "
        f"to {limit} tokens (the longest has {max(lengths)})\n"
        f"model: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, "
        f"{config.image_size} px"
    )


def estimate_seconds(
    dataset: CaptionedImages,
    networks: Networks,
    config: TrainConfig,
    progress: Progress,
    end: int,
    processes: Processes,
) -> float:
    """How long a run takes here up to `end`, without validation: from two steps in the middle of
    each of its stages, as early images are small and later ones have more losses. Nothing is
    learnt from them."""
    marks = sorted({0.0, 1.0, *config.grow_at, config.latent_ramp[0], config.swd_ramp[0]})
    seconds = 0.0
    for first, last in pairwise(mark for mark in marks if mark <= 1):
        num = min(last * config.images, end) - max(first * config.images, progress.images_seen)
        if num <= 0:
            continue
        middle = replace(progress, images_seen=int((first + last) / 2 * config.images))
        for _ in range(2):  # the first makes ready
            began = time.monotonic()
            given = given_at(dataset, networks.model, config, middle.images_seen)
            part, _ = given.part(0, config.accumulate * processes.count)
            _, objective = step_losses(part, networks, config, clock_at(config, middle))
            objective.backward()
            float(nn.utils.get_total_norm([p.grad for p in networks.model.parameters()
                                           if p.grad is not None]))  # fmt: skip
            took = time.monotonic() - began
        seconds += UPDATE * took * config.accumulate * num / config.batch_size
    return seconds


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
        dataset, validation = open_data(config)
        lock = locked(folder / "lock", wait=False) if processes.is_first else nullcontext()
        with lock:
            for litter in folder.rglob("*.tmp") if processes.is_first else ():
                litter.unlink()  # of a process that was killed
            try:
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
    end = min(config.images, config.stop_after or config.images)
    if nothing_left_to_do(config, folder, progress.images_seen, end):
        return folder
    report = Report(folder, config, progress.start) if processes.is_first else None
    networks, optimizers = checkpoint.networks_of(state, folder / "checkpoint.pth", config, device)
    model, ema, posterior = networks
    once = dataset.once()
    about = provenance(device) | {"precision": str(precision)}
    print(f"{describe(config, model, dataset)}, {device}, {precision}")
    often = config.images / len(once)
    length = f"{config.images:,} images (each one about {often:.0f} times)"
    if config.data and round(often) < EPOCHS:
        length += f"; {EPOCHS} times are --images {EPOCHS * len(once)}"
    print(f"run: {folder}, {length}, from image {progress.images_seen:,}")
    if end - progress.images_seen >= LONG:
        seconds = estimate_seconds(dataset, networks, config, progress, end, processes)
        print(f"at least {math.ceil(seconds / 60):,} min here")
    processes.any(False)  # waits till all have read what the first one will write
    if processes.is_first:
        checkpoint.write_record(folder, about, config, model.config, progress.images_seen)
    log = Log(folder / "metrics.jsonl" if processes.is_first else None, config, progress, dataset)
    with_graphs = config.graphs and device.type == "cuda"
    take_step = partial(learn_replayed, Replayed()) if with_graphs else learn
    stopping = False
    with Stop() as stop, log.bar:
        while not stopping:
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
            due = finished or passed(before, seen, config.sample_every)
            often = config.sample_every / config.logs_per_sample
            if processes.is_first and (due or passed(before, seen, often)):
                draws = due and not config.completer_only
                log.train(size, {"lr": clock.lr} | (fit(ema, once) if draws else {}))

            # Validate and sample
            if processes.is_first and due:
                measured = {} if config.completer_only else validate(ema, validation, device)
                if model.completer:
                    measured["completion_loss"] = completion_loss(ema, validation, config.pairs)
                log.add("validation", size, measured)
                for warning in (track_best(progress, measured, ema, config),
                                track_best_completer(progress, measured, ema),
                                doubt_captions(progress, config, len(once))):  # fmt: skip
                    if warning:
                        log.bar.write(warning)
                title = f"{folder.name}: {seen:,} images seen; none is picked"
                save_samples(folder / f"samples/{seen:09d}.png", ema, validation, title, once)
                examples = given.batch and examples_of(given.batch, model)
                report.update(progress.metrics, examples, seconds_left=None)

            # Checkpoint
            keep = config.keep_every > 0 and passed(before, seen, config.keep_every)
            stopping = seen >= end or processes.any(stop.status != 0)
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
    few = tuple(min(CANDIDATES, len(images)) for images in (once, validation))
    print_summary(config, folder, progress, end, about["command"], few)
    if stop.status:
        sys.exit(stop.status)
    return folder


def nothing_left_to_do(config: TrainConfig, folder: Path, seen: int, end: int) -> bool:
    """Whether no step is left to do; says so. Raises UserError where --stop-after lies behind."""
    if seen >= config.images:
        print(f"{folder} is finished: {seen:,} images seen; to train on: --images {2 * seen}")
    elif seen >= end:
        told = f"{seen:,} images are seen; raise it or leave it out"
        if seen >= end + config.batch_size:
            raise UserError(f"--stop-after {config.stop_after} lies behind: {told}")
        print(f"{folder} is as far as --stop-after {config.stop_after} lets it go: {told}")
    return seen >= end


def print_summary(
    config: TrainConfig,
    folder: Path,
    progress: Progress,
    end: int,
    command: str,
    few: tuple[int, int],
) -> None:
    """What a person wants to know when training stops. few: how many images of training and of
    validation own_nearest chooses from."""
    seen, best = progress.images_seen, progress.best
    if seen < config.images:
        if seen == end:
            command = re.sub(r" --stop-after[ =]\d+", "", command)
        print(f"saved after {seen:,} of {config.images:,} images; to go on: {command}")
        return
    fits = [line["own_nearest"] for line in progress.metrics[-2:] if "own_nearest" in line]
    if len(fits) == 2:
        print(f"the own image of {few[0]} is nearest to {fits[0]:.0%} of drawings of captions "
              f"trained on, of {few[1]} to {fits[1]:.0%} of those held out")  # fmt: skip
    if best and best["images"] < seen:
        print(f"the weights of image {best['images']:,} drew held-out captions best: they are kept")
    name, file = shlex.quote(folder.name), shlex.quote(f"{folder.name}.pth")
    smoke = config.preset == "smoke"  # is drawn from or kept only where that is asked for
    print(f"done: see {folder}/samples and {folder}/loss.png; to draw: python generate.py "
          f'--input "..."{f" --model {shlex.quote(str(folder))}" * smoke}; to keep the weights: '
          f"python save_model.py --run {name} --output {file}{' --force' * smoke}")  # fmt: skip


if __name__ == "__main__":
    run(main, TrainConfig, __doc__, PRESETS)
