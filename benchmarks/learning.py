"""What learns faster? Equal time for each, several seeds, on the scenes.

    python benchmarks/learning.py                70 minutes on 2 CPU cores

One picture a caption, as in sharpness.py. A run in miniature of train.py's own settings and one of
a variant's, one after the other, tell how many images the variant has time for. Repeat the command
to go on where it stopped. Writes results_short/learning.json, a row for each run, and the table of
their means in results_short/learning.md; remove them to measure anew.
"""

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import make_dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from objectives import RECORDS, replacing, table, train_for
from sharpness import NUM, NUMBERS, TextAdversary, measure, with_text

import checkpoint
import held_out_scenes
import judges
import train
from command_line import provenance
from dataset import CaptionedImages
from model import ModelConfig
from runs import new_state

CALIBRATION = 3_200  # images of a run in miniature


def channels(*widths: int) -> dict[str, Callable]:
    """Other feature maps at 4, 8, 16, 32 px."""
    config = make_dataclass(
        "Channels", [("channels", tuple, widths)], bases=(ModelConfig,), frozen=True
    )
    return {"runs.ModelConfig": lambda: config}


def plain_colours(layers: Tensor, sharpness: float) -> Tensor:
    """model.compose without layers: twelve of the maps are the colours at four sub-pixels."""
    return F.pixel_shuffle(layers.flatten(1, 2)[:, :12], 2)  # (B, 3, H, W)


def alike(config: train.TrainConfig, fingerprints: dict[str, str], captions: list[str]) -> dict:
    """runs.new_state, where the four sub-pixels of a colour start alike, without a checkerboard
    (ICNR, Aitken et al. 2017); steps of Muon may soon tell them apart."""
    state = new_state(config, fingerprints, captions)
    weights = state["model"]
    weights["to_layers.weight"][:12] = weights["to_layers.weight"][:3].repeat_interleave(4, dim=0)
    weights["to_layers.bias"].zero_()
    return state


SUB_PIXELS = {
    "model.NUM_LAYERS": lambda: 2,
    "model.compose": lambda: plain_colours,
    "train.compose": lambda: plain_colours,
    "runs.new_state": lambda: alike,
}


class CheapAdversary(TextAdversary):
    """Penalties by finite differences, on a quarter of the batch (Lin et al. 2025, approximated
    R1); several steps of its own for each of the generator's at first."""

    STEP = 0.01  # of the differences
    STEPS, EARLY = 4, 0.7  # so many, until this share of the run

    def batch(self, dataset, model, config: train.TrainConfig, clock: int) -> tuple[Tensor, ...]:
        self.steps = self.STEPS if clock < self.EARLY * config.images else 1
        return super().batch(dataset, model, config, clock)

    def penalty(self, pictures: Tensor, logits: Tensor, generator: torch.Generator) -> Tensor:
        some = pictures[: len(pictures) // 4].detach()
        noise = torch.randn(some.shape, generator=generator)
        change = self.logits(some + self.STEP * noise) - logits[: len(some)]
        return (change / self.STEP).square().mean()

    def learn(self, drawn: Tensor, real: Tensor, generator: torch.Generator) -> None:
        for _ in range(self.steps):
            super().learn(drawn, real, generator)


def growing(*shares: float) -> dict[str, Callable]:
    """Pictures become twice as large at these shares of the run."""
    return {"train.GROW_AT": lambda: shares}


def full_size(make: Callable[..., dict] = dict, *args) -> Callable[[], dict]:
    """What makes the replacements of `make`, and learns at full size from the first image on."""
    return lambda: make(*args) | growing(0.0)


NOTHING = dict  # is replaced, so that an image costs what it costs in train.py
# Name -> settings of train.py, and what makes the replacements in the code, anew for each run.
VARIANTS = {
    "python train.py --noise-dim 0": ({}, NOTHING),
    "half the size until 40 %": ({}, partial(growing, 0.4)),
    "full size": ({}, full_size()),
    "full size, 1.5 times the channels": ({}, full_size(channels, 256, 192, 128, 80, 48, 32)),
    "full size, twice the learning rate": ({"lr": 3e-3}, full_size()),
    "full size, sub-pixel colours, no layers": ({}, full_size(lambda: SUB_PIXELS)),
    "full size, an adversary that reads": ({}, full_size(with_text, CheapAdversary)),
    "full size, two thirds of the channels": ({}, full_size(channels, 112, 84, 56, 36, 24, 16)),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", type=int, default=60_800, help="that train.py has time for (default: 60800)"
    )
    parser.add_argument("--seeds", type=int, default=2, help="runs of each (default: 2)")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=VARIANTS, help="of these")
    args = parser.parse_args()
    record = RECORDS / "learning.json"
    rows = json.loads(record.read_text()) if record.exists() else []
    tests = held_out_scenes.draw_scenes("validation", NUM, 2, (1, 2))
    _, reference, _ = held_out_scenes.draw_scenes("validation", NUM, 1, (1, 2))
    panel = judges.load(CaptionedImages(image_size=judges.SIDE))
    about = provenance("cpu") | {"judges": panel.fingerprint}
    for seed in range(args.seeds):
        default = train.TrainConfig(run="learning", seed=seed, noise_dim=0, device="cpu")
        for variant in args.only:
            settings, replaces = VARIANTS[variant]
            if any((row["variant"], row["seed"]) == (variant, seed) for row in rows):
                continue
            config = dataclasses.replace(default, **settings)
            known = [row["images"] for row in rows if row["variant"] == variant]
            images = known[0] if known else args.images
            if replaces is not NOTHING and not known:
                runs = ((default, {}), (config, replaces()))
                base, own = (train_for(0, CALIBRATION, *run)[2] for run in runs)
                images = int(images * base / own / config.batch_size) * config.batch_size
            replaced = replaces()
            folder, images, seconds = train_for(0, images, config, replaced)
            row = {"variant": variant, "seed": seed, "images": images, "seconds": round(seconds)}
            with replacing(replaced):
                model = checkpoint.load_model(checkpoint.find_weights(str(folder)))
                row |= measure(model, panel, tests, reference)
            shutil.rmtree(folder)  # else generate.py would draw from it
            rows.append(row | {"about": about})
            record.write_text(json.dumps(rows, indent=1) + "\n")
            (RECORDS / "learning.md").write_text(table(rows, NUMBERS))
    print(table(rows, NUMBERS))


if __name__ == "__main__":
    main()
