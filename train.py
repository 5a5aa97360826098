"""How does the model learn? One loop over captioned pictures.

    python train.py                         the built-in scenes, 10 to 20 minutes on 2 CPU cores
    python train.py --data FOLDER           your own captioned pictures
    python train.py --preset smoke          a minute, to see that everything works

Everything is left in results/<run>/. Repeat the command to resume; see README.md.
"""

import copy
import dataclasses
import json
import math
import re
import shlex
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

import checkpoint
import figures
import runs
from batches import NOISES, generator_for, items_at, training_batch
from command_line import (
    UserError,
    choose_device,
    choose_precision,
    provenance,
    run,
    setting,
)
from dataset import FEW, CaptionedImages
from files import locked, write_text
from layouts import DataConfig, reading
from losses import colour_loss, kl_divergence, regression_loss, sliced_wasserstein_loss
from metrics import validate
from model import IMAGE_SIZES, TEXT_ENCODERS, TextToImageModel, compose, to_uint8
from tokenizer import SPECIAL_TOKENS, split_words

WARM_UP = 3_000  # images over which the learning rate rises; at most a tenth of the run
FINAL_LR = 0.03  # share of the learning rate that the cosine ends on
GRADIENT_CLIP = 1.0  # largest norm of the gradient
EMA_SHARE = 0.05  # half-life of the averaged weights, as a share of the images seen so far
# Shares of the run at which pictures become twice as large, since small ones teach content sooner
# (progressive growing, Karras et al. 2018; here by the same weights, and no fading in). Not tuned
# further than results_short/learning.md tells.
GROW_AT = (0.2, 0.4)
# Shares of the run over which latents and sharpness are ramped in, once content is learnt.
LATENT_RAMP = (0.45, 0.55)
SHARPEN_RAMP = (0.6, 0.8)
SHARPNESS = 2.0  # of the masks that the sharpness term sees; drawing goes beyond it
OVERFIT = 1.03  # times the lowest loss or score of held-out captions: where training warns
FLOW_WEIGHT = 0.01  # keeps it out of the gradient clip's way; no other loss reaches the flow
LOGS_PER_SAMPLE = 10  # lines of metrics.jsonl for each sample sheet
LOOKED_AT = 10_000  # pictures whose captions are measured before training starts
NUM_SAMPLES = 16  # captions of the sample sheets
RESERVED = ("cache", "evaluation", "judges")  # folders of results/ that are no runs


@dataclass(frozen=True)
class TrainConfig(DataConfig):
    preset: str = setting("default", "settings to start from", ("smoke", "default", "gpu-128"))
    run: str = setting("", "name of the folder in results/; none: named after the data")
    images: int = setting(120_000, "length of the run, in images seen")
    batch_size: int = setting(64, "images a step")
    lr: float = setting(1.5e-3, "largest learning rate")
    image_size: int = setting(64, "width and height in pixels", IMAGE_SIZES)
    seed: int = setting(0, "decides everything that is random; same seed, same bits on a CPU")
    device: str = setting("auto", "where to compute", ("auto", "cpu", "cuda"))
    precision: str = setting("auto", "of convolutions", ("auto", "float32", "bfloat16"))
    text_encoder: str = setting("both", "what reads captions", TEXT_ENCODERS)
    noise_dim: int = setting(64, "width of the noise; 0: one picture a caption")
    latent: float = setting(7e-4, "price of a nat that a latent tells; higher: less varied")
    sharpen: float = setting(3.0, "weight of sharpness and plain colours; 0: blurred")
    augment: float = setting(0.3, "share of the training pictures that are varied; 0: none")
    flip: bool = setting(False, "mirror half of the training pictures")
    word_dropout: float = setting(0.02, "share of words that training hides; teaches <unk>")
    caption_dropout: float = setting(0.02, "share of captions that training hides; teaches ''")
    min_count: int = setting(2, "captions' words rarer than this are unknown")
    shuffle_tags: bool = setting(False, "shuffle what commas separate in captions")
    sample_every: int = setting(10_000, "images between sample sheets, validations, checkpoints")
    init_from: str = setting("", "weights or run to begin with, in a new run with a "
                            "schedule of its own; its words are kept")  # fmt: skip
    keep_every: int = setting(0, "images between checkpoints that are kept for good; 0: none")
    stop_after: int = setting(0, "images seen after which to save and stop; 0: at the end")

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("images", "batch_size", "lr", "sample_every")
        shares = ("augment", "word_dropout", "caption_dropout")
        for name in (*positive, *shares, "seed", "noise_dim", "latent", "sharpen", "stop_after",
                     "keep_every"):  # fmt: skip
            value, flag = getattr(self, name), "--" + name.replace("_", "-")
            if name in shares and not 0 <= value <= 1:
                raise UserError(f"{flag} must be a share, within 0 and 1, not {value}")
            if not 0 <= value < 2**63 or (name in positive and value == 0):
                least = "more than 0" if name in positive else "0 or more"
                raise UserError(f"{flag} must be {least}, not {value}")
        name = self.run_name()
        if name in ("", ".", "..", *RESERVED) or Path(name).name != name:
            raise UserError(f"--run {name!r} must be a plain name, and none of {RESERVED}")

    def run_name(self) -> str:
        preset = f"-{self.preset}" if self.preset != "default" else ""
        return self.run or (Path(self.data).resolve().name if self.data else "scenes") + preset


PRESETS = {
    "default": {},
    # A minute on two cores: blurred places and colours, nothing more.
    "smoke": {"images": 2_048, "sample_every": 1_024},
    # Not yet measured.
    "gpu-128": {"images": 5_000_000, "image_size": 128, "batch_size": 256, "sample_every": 200_000},
}


def learning_rate(config: TrainConfig, clock: int, start: int) -> float:
    """Warm-up, then cosine down to FINAL_LR at the end of the run that began at `start`."""
    done, length = clock - start, config.images - start
    warm_up = min(1.0, (done + config.batch_size) / min(WARM_UP, length / 10))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done / length)))
    return config.lr * warm_up * (FINAL_LR + (1 - FINAL_LR) * cosine)


def num_halvings(config: TrainConfig, clock: int, before: int) -> int:
    """How often the sides of this step's pictures are halved; never more often than before."""
    return min(before, sum(clock < share * config.images for share in GROW_AT))


def ramp(config: TrainConfig, clock: int, start: int, within: tuple[float, float]) -> float:
    """0 before, 1 after these shares of the run; 1 when training goes on after its end."""
    progress = clock / config.images
    return 1.0 if start else min(1.0, max(0.0, (progress - within[0]) / (within[1] - within[0])))


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, clock: int, batch_size: int) -> None:
    """Average of the weights whose half-life is EMA_SHARE of the images seen so far."""
    decay = 0.5 ** (batch_size / max(EMA_SHARE * clock, batch_size))
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)


def save_samples(path: Path, model: TextToImageModel, dataset: CaptionedImages, title: str) -> None:
    """Pictures never trained on, spread evenly over the validation set; nothing is picked."""
    num = min(NUM_SAMPLES, len(dataset))
    pictures, several = dataset.batch([i * len(dataset) // num for i in range(num)])
    captions = [c[0] for c in several]
    rows = {"real": pictures}
    for seed in (0, 1):
        rows[f"drawn, seed {seed}"] = to_uint8(model.draw(captions, [seed] * num))
    figures.save_samples(path, rows, captions, title)


class Stop:
    """Ctrl-C, SIGTERM and a closed terminal ask to stop after the step; `signal` is then the
    signal's number, else 0. A second one stops at once."""

    def __enter__(self) -> "Stop":
        self.signal = 0
        names = ("SIGINT", "SIGTERM", "SIGHUP")  # the last: a terminal is closed; not on Windows
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        self.before = {number: signal.signal(number, self.ask) for number in numbers}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def ask(self, number: int, _) -> None:
        if self.signal:
            sys.exit(128 + number)
        self.signal = number


def open_data(config: TrainConfig) -> tuple[CaptionedImages, CaptionedImages]:
    """Training and validation pictures."""
    dataset = CaptionedImages(config.data or None, image_size=config.image_size, **reading(config))
    validation = dataset.other_split("validation")
    if not len(dataset) or not len(validation):
        raise UserError(
            f"{config.data} gives {len(dataset)} pictures to train on and {len(validation)} to "
            "validate with: too few; add some, to 100 or more in all"
        )
    if config.flip:
        sided = [c for c in dataset.captions() if {"left", "right"} & set(split_words(c))]
        if sided:
            raise UserError(f"--flip would falsify captions that name sides: {sided[0]!r}")
    return dataset, validation


def describe(config: TrainConfig, model: TextToImageModel, dataset: CaptionedImages) -> str:
    """What a person wants to know before training starts."""
    captions = dataset.captions(LOOKED_AT)
    lengths = [len(model.tokenizer.encode(caption)) for caption in captions]
    limit = model.config.max_tokens
    num_cut = sum(length > limit for length in lengths)
    num_words = len(model.tokenizer) - len(SPECIAL_TOKENS)
    few = f"  few pictures: {FEW} are the least that makes sense\n" if len(dataset) < FEW else ""
    return (
        f"{dataset.summary()}\n{few}"
        f"  vocabulary: {num_words:,} words; {num_cut:,} of {len(captions):,} captions cut to "
        f"{limit} tokens (the longest has {max(lengths)})\n"
        f"model: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, "
        f"{config.image_size} px"
    )


def passed(before: int, after: int, interval: float) -> bool:
    """Whether a multiple of interval lies in (before, after]."""
    return after // interval > before // interval


def non_finite(
    what: str, config: TrainConfig, folder: Path, dataset: CaptionedImages, clock: int
) -> UserError:
    """The error to stop with; leaves what it takes to look at that step again."""
    items = items_at(config, len(dataset), clock)
    paths = [dataset.collection.records[dataset.indices[i]].path for i in items]
    step = {"what": what, "images_seen": clock, "seed": config.seed, "pictures": paths}
    with suppress(UserError):  # that the disk is full, too, is the smaller trouble
        write_text(folder / "non_finite.json", json.dumps(step, indent=1) + "\n")
    return UserError(
        f"{what} after {clock:,} images; the last checkpoint is kept, and {folder}/non_finite.json "
        f"names the pictures of that step; to go on more gently: --run NAME --init-from {folder} "
        f"--lr {config.lr / 3:.1g}"
    )


def overfitting(clock: int, name: str, now: float, best: dict) -> str:
    """The warning, for people: what is called `name` was lower after best["images"]."""
    return (
        f"{clock:,} images: overfitting, held-out captions were drawn best after "
        f"{best['images']:,} ({name.replace('_', ' ')} {best[name]:.4f}, now {now:.4f})"
    )


def main(config: TrainConfig) -> Path:
    """Train, or go on training; returns the run's folder."""
    folder = checkpoint.RESULTS / config.run_name()
    dataset, validation = open_data(config)
    with locked(folder / "lock", wait=False):
        for litter in folder.rglob("*.tmp"):  # of a process that was killed
            litter.unlink()
        return train(config, folder, dataset, validation)


def train(
    config: TrainConfig, folder: Path, dataset: CaptionedImages, validation: CaptionedImages
) -> Path:
    """`main` on opened data, in a folder that no other process uses."""
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    fingerprints = {"train": dataset.fingerprint(), "validation": validation.fingerprint()}
    state = runs.resume(config, folder, fingerprints)
    if state and state["images_seen"] >= config.images:
        seen = state["images_seen"]
        print(f"{folder} is finished: {seen:,} images seen; to train on: --images {2 * seen}")
        return folder
    state = state or runs.new_state(config, fingerprints, dataset.captions())
    clock, start = state["images_seen"], state["start"]
    sums, metrics, best = state["sums"], state["metrics"], state["best"]
    end = min(config.images, config.stop_after or config.images)
    if clock >= end:
        told = f"{clock:,} images are seen; raise it or leave it out"
        if clock < end + config.batch_size:
            print(f"{folder} is as far as --stop-after {config.stop_after} lets it go: {told}")
            return folder
        raise UserError(f"--stop-after {config.stop_after} lies behind: {told}")

    path = folder / "checkpoint.pth"
    networks, optimizers = runs.networks_of(state, path, device)
    model, ema, encoder = networks.values()
    parameters = [*model.parameters(), *encoder.parameters()]
    about = provenance(device)
    print(f"{describe(config, model, dataset)}, {device}, {precision}")
    print(f"run: {folder}, {config.images:,} images, from image {clock:,}")
    settings = {"train": asdict(config), "model": asdict(model.config), "precision": str(precision)}
    del settings["model"]["halvings"]  # changes with the clock
    write_text(folder / "config.json", json.dumps(about | settings, indent=2) + "\n")

    def write_metrics() -> None:
        lines = "".join(json.dumps(line) + "\n" for line in metrics)
        write_text(folder / "metrics.jsonl", lines)

    def log(split: str, values: dict[str, float]) -> None:
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        metrics.append({"images": clock, "split": split, "image_size": real.shape[2]} | rounded)
        write_metrics()

    write_metrics()  # without what a crash left behind the last checkpoint
    first, earlier, began = clock, state["seconds"], time.monotonic()
    waited, logged = dataset.seconds_waited, earlier
    bar = tqdm(total=config.images, initial=clock, unit="img", desc="training", smoothing=0.05)
    stopping = False
    with Stop() as stop, bar:
        while not stopping:
            # Data
            real, tokens, noise, changes = training_batch(dataset, model, config, clock)
            halvings = num_halvings(config, clock, model.config.halvings)
            if halvings != model.config.halvings:
                model.config = ema.config = dataclasses.replace(model.config, halvings=halvings)
            real = F.avg_pool2d(real, 2**halvings)  # (B, 3, h, w)

            # Losses
            losses = {}
            latent_share = ramp(config, clock, start, LATENT_RAMP) if config.noise_dim else 0
            sharpen_share = ramp(config, clock, start, SHARPEN_RAMP) if config.sharpen else 0
            with torch.autocast(device, torch.bfloat16, enabled=precision == torch.bfloat16):
                text, latents = model.encode(tokens), noise
                if latent_share > 0:  # not noise, but what the caption leaves open
                    mean, log_std = encoder(real, ema.guess(tokens, changes))
                    latents = mean + log_std.exp() * noise  # (R, B, Z)
                    losses["latent_loss"] = kl_divergence(mean, log_std)
                layers, _ = model.decode(text, latents[0], changes)
            if latent_share > 0:
                losses["flow_loss"] = model.flow.negative_log_likelihood(
                    latents.detach().flatten(0, 1), text.caption.detach().repeat(NOISES, 1)
                )
            losses["regression_loss"] = regression_loss(compose(layers, sharpness=1), real)
            if sharpen_share > 0:
                drawn = compose(layers, SHARPNESS)  # (B, 3, H, W)
                filters = generator_for(config.seed, 3, clock)
                losses["sharpness_loss"] = sliced_wasserstein_loss(drawn, real, filters)
                losses["colour_loss"] = colour_loss(drawn, real)
            weights = {
                "regression_loss": 1,
                "latent_loss": latent_share * config.latent,
                "flow_loss": FLOW_WEIGHT,
                "sharpness_loss": sharpen_share * config.sharpen,
                "colour_loss": sharpen_share * config.sharpen,
            }
            total = sum(weights[name] * loss for name, loss in losses.items())

            # Update
            rate = learning_rate(config, clock, start)
            for optimizer in optimizers:
                optimizer.zero_grad()
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["relative_lr"]
            total.backward()
            norm = nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
            checked = {**losses, "gradient norm": norm}
            if all(math.isfinite(value.item()) for value in checked.values()):
                for optimizer in optimizers:
                    optimizer.step()
                checked["norm of the weights"] = sum(torch._foreach_norm(parameters))
            for name, value in checked.items():
                if not math.isfinite(value.item()):
                    what = f"{name} became {value.item()}"
                    raise non_finite(what, config, folder, dataset, clock)
            before, clock = clock, clock + len(real)
            update_ema(ema, model, clock, len(real))

            # Log
            for name, loss in losses.items():
                sums.setdefault(name, []).append(loss.item())
            sums.setdefault("total", []).append(total.item())
            seconds = earlier + time.monotonic() - began
            bar.update(len(real))
            bar.set_postfix(loss=f"{sums['total'][-1]:.4f}", refresh=False)
            finished = clock == config.images
            if finished or passed(before, clock, config.sample_every / LOGS_PER_SAMPLE):
                means = {"largest_total": max(sums.pop("total"))}  # spikes that recover show here
                means |= {name: sum(values) / len(values) for name, values in sums.items()}
                speed = (clock - first) / (seconds - earlier)
                share = (dataset.seconds_waited - waited) / max(1e-9, seconds - logged)
                waited, logged = dataset.seconds_waited, seconds
                clocks = {"lr": rate, "seconds": seconds, "images_per_second": speed}
                clocks["share_of_seconds_waiting_for_data"] = share
                log("train", means | clocks)
                sums = {}

            # Validation, samples, checkpoint
            due = finished or passed(before, clock, config.sample_every)
            if due:
                measured = validate(ema, validation, device)
                log("validation", measured)
                score = measured["energy_score"]
                if ramp(config, clock, start, SHARPEN_RAMP) == 1:  # from here on, scores compare
                    if not best or score <= best["energy_score"]:
                        best = {"images": clock, "energy_score": score}
                        best["weights"] = copy.deepcopy(ema.state_dict())
                    elif best["images"] > start and score > OVERFIT * best["energy_score"]:
                        warning = overfitting(clock, "energy_score", score, best)
                        bar.write(f"{warning}; those weights are kept")
                else:
                    loss = measured["regression_loss"]
                    lines = [line for line in metrics if line["split"] == "validation"
                             and line.get("image_size") == real.shape[2]]  # fmt: skip
                    lowest = min(lines, key=lambda line: line["regression_loss"])
                    if loss > OVERFIT * lowest["regression_loss"]:
                        warning = overfitting(clock, "regression_loss", loss, lowest)
                        shorter = f"a new run with --images {lowest['images']}"
                        bar.write(f"{warning}; more pictures help, or {shorter}")
                title = f"{folder.name}: {clock:,} images seen; pictures held out, none picked"
                save_samples(folder / f"samples/{clock:09d}.png", ema, validation, title)
                figures.save_loss_curves(folder / "loss.png", metrics)
            keep = config.keep_every and passed(before, clock, config.keep_every)
            stopping = clock >= end or stop.signal != 0
            if due or keep or stopping:
                state = {"config": asdict(config), "data": fingerprints, "images_seen": clock,
                         "start": start, "seconds": seconds, "sums": sums, "metrics": metrics,
                         "best": best}  # fmt: skip
                state |= {name: network.state_dict() for name, network in networks.items()}
                state["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
                if keep:  # first, since a run that goes on from `path` does not come here again
                    milestone = folder / f"checkpoint-{clock:09d}.pth"
                    checkpoint.save(state, milestone, keep_previous=False)
                checkpoint.save(state, path)
    if clock == config.images and best and best["images"] < clock:
        print(f"the weights of image {best['images']:,} drew held-out captions best: they are kept")
    if clock == config.images:
        name, file = shlex.quote(folder.name), shlex.quote(f"{folder.name}.pth")
        print(f"done: see {folder}/samples and {folder}/loss.png; to draw: python generate.py "
              '--input "..."; to keep the weights: python save_model.py '
              f"--run {name} --output {file}")  # fmt: skip
    else:
        command = about["command"]
        if clock == end:
            command = re.sub(r" --stop-after[ =]\d+", "", command)
        print(f"saved after {clock:,} of {config.images:,} images; to go on: {command}")
    if stop.signal:
        sys.exit(128 + stop.signal)
    return folder


if __name__ == "__main__":
    run(main, TrainConfig, __doc__, PRESETS)
