"""What does each part of training bring? The same time for each, several seeds, on the scenes.

    python benchmarks/objectives.py              about 4 hours on 2 CPU cores

Repeat the command to go on where it stopped. Writes results_short/objectives.json, a row for each
run, and the table of their means in results_short/objectives.md; remove them to measure anew.
"""

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

import evaluate
import train
from batches import training_batch
from checkpoint import RESULTS
from dataset import CaptionedImages
from losses import regression_loss, sliced_wasserstein_loss
from model import TextToImageModel

RECORDS = Path(__file__).parent.parent / "results_short"
PAIRS_FROM = train.LATENT_RAMP[0]  # share of the run
NEVER = (2.0, 3.0)  # shares of the run
CALIBRATION = 6_400  # images of a whole run in miniature, to learn how many fit into the time
NUMBERS = ("all_attributes", "all_attributes_unseen", "edge_energy", "high_frequency_energy",
           "diversity", "frechet_distance")  # fmt: skip


def only_adamw(networks) -> list[torch.optim.Optimizer]:
    parameters = [p for network in networks for p in network.parameters()]
    groups = [{"params": parameters, "relative_lr": 1}]
    return [torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.01, fused=True)]


class Adversary:
    """The sharpness term, and what a patch discriminator thinks (R3GAN, Huang et al. 2024).

    Relativistic loss of each drawing beside its own picture, exact penalties on both (R1, R2). It
    sees no text: what the caption says is left to the squared error.
    """

    WEIGHT, GAMMA = 0.1, 2.0  # of its opinion, and of the penalties; neither is tuned

    def __init__(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = nn.Sequential(
                nn.Conv2d(3, 32, 4, 2, 1), nn.LeakyReLU(0.2),
                nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(0.2),
                nn.Conv2d(64, 128, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(128, 1, 1),
            )  # fmt: skip
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=4e-4, betas=(0.0, 0.99))

    def logits(self, pictures: Tensor) -> Tensor:
        return self.network(pictures).mean(dim=(1, 2, 3))  # (B,)

    def mismatch(self, real: Tensor) -> Tensor | float:
        """Loss of taking pictures with captions of others for real; nothing without text."""
        return 0.0

    def penalty(self, pictures: Tensor, logits: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared slope of its opinion: R1 of real pictures, R2 of drawn ones."""
        (slope,) = torch.autograd.grad(logits.sum(), pictures, create_graph=True)
        return slope.square().flatten(1).sum(1).mean()

    def learn(self, drawn: Tensor, real: Tensor, generator: torch.Generator) -> None:
        drawn, real = (x.detach().requires_grad_() for x in (drawn, real))
        false, true = map(self.logits, (drawn, real))
        penalty = self.penalty(drawn, false, generator) + self.penalty(real, true, generator)
        loss = F.softplus(false - true).mean() + self.GAMMA / 2 * penalty
        self.optimizer.zero_grad()
        (loss + self.mismatch(real)).backward()
        self.optimizer.step()

    def __call__(self, drawn: Tensor, real: Tensor, generator: torch.Generator) -> Tensor:
        self.learn(drawn, real, generator)
        self.network.requires_grad_(False)
        deceived = F.softplus(self.logits(real) - self.logits(drawn)).mean()
        self.network.requires_grad_(True)
        return sliced_wasserstein_loss(drawn, real, generator) + self.WEIGHT * deceived


def in_pairs(
    dataset: CaptionedImages, model: TextToImageModel, config: train.TrainConfig, clock: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """train.training_batch; once content is learnt, half of it, each caption with two noises.

    Drawings are what a step costs, and what the clock counts.
    """
    real, tokens, noise, changes = training_batch(dataset, model, config, clock)
    if clock < PAIRS_FROM * config.images:
        return real, tokens, noise, changes
    twice = torch.arange(len(real) // 2).repeat(2)
    return real[twice], tokens[twice], noise[:, : len(twice)], changes[twice]


def paired(real: Tensor) -> bool:
    first, second = real.chunk(2)
    return torch.equal(first, second)


def energy_score(drawn: Tensor, real: Tensor) -> Tensor:
    """How far drawings are from the picture, less half of how far the two are from each other."""
    loss = regression_loss(drawn, real)
    return loss - 0.5 * regression_loss(*drawn.chunk(2)) if paired(real) else loss


def best_of_two(drawn: Tensor, real: Tensor) -> Tensor:
    """Of two drawings only the closer one learns: the closer one at a quarter of the size."""
    if not paired(real):
        return regression_loss(drawn, real)
    errors = F.avg_pool2d(drawn - real, 4).square().flatten(1).mean(1)  # (2 B,)
    first, second = errors.chunk(2)
    closer = torch.where((first < second)[:, None, None, None], *drawn.chunk(2))
    return regression_loss(closer, real[: len(closer)])


def seconds_of(run: Path) -> float:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return max(line.get("seconds", 0) for line in lines)


# Noise goes straight into the generator, in training and, all of it, in drawing.
NO_LATENTS = {
    "train.LATENT_RAMP": lambda: NEVER,
    "flow.NUM_COUPLINGS": lambda: 0,
    "model.TRUNCATION": lambda: 1.0,
    "train.training_batch": lambda: in_pairs,
}
# Name -> settings of train.py that differ from the default, and, for each name in the code that is
# replaced, what makes its new value (anew for each training).
VARIANTS = {
    "squared error": ({"noise_dim": 0, "sharpen": 0.0}, {}),
    "+ sliced Wasserstein": ({"noise_dim": 0}, {}),
    "+ latents, drawn as normal noise": ({}, {"flow.NUM_COUPLINGS": lambda: 0}),
    "+ flow": ({}, {}),
    "the same, AdamW for all weights": ({}, {"runs.make_optimizers": lambda: only_adamw}),
    "the same, and an adversary": ({}, {"train.sliced_wasserstein_loss": Adversary}),
    "energy score in place of latents":
        ({}, NO_LATENTS | {"train.regression_loss": lambda: energy_score}),
    "best of two noises in place of latents":
        ({}, NO_LATENTS | {"train.regression_loss": lambda: best_of_two}),
}  # fmt: skip


def replacing(replaced: dict[str, Callable]) -> ExitStack:
    """A context in which these names of the code mean what their makers make."""
    stack = ExitStack()
    for target, make in replaced.items():
        stack.enter_context(patch(target, make()))
    return stack


def train_for(
    minutes: float, images: int, config: train.TrainConfig, replaced: dict[str, Callable]
) -> tuple[Path, int, float]:
    """Train on so many images, or, if 0, for about so many minutes; returns the run's folder, its
    images and its seconds."""

    def train_on(images: int) -> tuple[Path, float]:
        shutil.rmtree(RESULTS / config.run, ignore_errors=True)
        with replacing(replaced):
            run = train.main(dataclasses.replace(config, images=images, sample_every=images))
        return run, seconds_of(run)

    if not images:
        _, seconds = train_on(CALIBRATION)
        steps = int(CALIBRATION * 60 * minutes / seconds / config.batch_size)
        images = steps * config.batch_size
    folder, seconds = train_on(images)
    return folder, images, seconds


def table(rows: list[dict], names: tuple[str, ...] = NUMBERS) -> str:
    """Markdown: a line for each variant, means over its seeds, lowest and highest value."""
    lines = [["", "minutes", "images", *(name.replace("_", " ") for name in names)]]
    lines.append(["---"] * len(lines[0]))
    for variant in dict.fromkeys(row["variant"] for row in rows):
        runs = [row for row in rows if row["variant"] == variant]
        line = [f"{variant} ({len(runs)} seeds)"]
        line.append(f"{sum(run['seconds'] for run in runs) / len(runs) / 60:.1f}")
        line.append(f"{sum(run['images'] for run in runs) / len(runs):,.0f}")
        for name in names:
            values = [run[name][0] for run in runs]
            mean, low, high = sum(values) / len(values), min(values), max(values)
            line.append(f"{mean:.3g} ({low:.3g}..{high:.3g})")
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10, help="of training (default: 10)")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each (default: 2)")
    args = parser.parse_args()
    record = RECORDS / "objectives.json"
    rows = json.loads(record.read_text()) if record.exists() else []
    for seed in range(args.seeds):
        for variant, (settings, replaced) in VARIANTS.items():
            if any((row["variant"], row["seed"]) == (variant, seed) for row in rows):
                continue
            config = train.TrainConfig(run="objectives", seed=seed, **settings)
            images = max((row["images"] for row in rows if row["variant"] == variant), default=0)
            folder, images, seconds = train_for(args.minutes, images, config, replaced)
            output = str(RESULTS / "evaluation")
            with replacing(replaced):
                result = evaluate.main(evaluate.EvaluateConfig(model=str(folder), output=output))
            shutil.rmtree(folder)  # else generate.py would draw from it
            result = result["drawn"] | result
            numbers = {name: evaluate.rounded(result[name]) for name in NUMBERS}
            row = {"variant": variant, "seed": seed, "images": images, "seconds": round(seconds)}
            rows.append(row | numbers | {"about": result["about"]})
            record.write_text(json.dumps(rows, indent=1) + "\n")
            (RECORDS / "objectives.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
