"""Which term makes drawings sharp? One beginning by squared error, then the same images for each.

    python benchmarks/sharpness.py               40 minutes on 2 CPU cores

One picture a caption, so that there is nothing but sharpness to compare. All but the first are
drawn with sharpened masks, and have the loss of plain colours, with its weight in training. Repeat
the command to go on where it stopped. Writes results_short/sharpness.json, a row for each run, and
the table of their means in results_short/sharpness.md; remove them to measure anew.
"""

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from objectives import NEVER, RECORDS, Adversary, replacing, seconds_of, table

import checkpoint
import evaluate
import held_out_scenes
import judges
import metrics
import train
from batches import training_batch
from checkpoint import RESULTS
from command_line import provenance
from dataset import CaptionedImages
from losses import sliced_wasserstein_loss
from model import TextToImageModel
from tokenizer import PAD

BEGINNING = 0.4  # share of a run that all of one seed have in common
NUM = 1_024  # held-out captions that say it all
NUMBERS = ("all_attributes", "edge_energy", "high_frequency_energy", "frechet_distance")


def sliced_wasserstein(weight: float = 1.0, **settings) -> dict[str, Callable]:
    """The sharpness term with another weight, in that of training, or other settings."""

    def loss(drawn: Tensor, real: Tensor, generator: torch.Generator) -> Tensor:
        return weight * sliced_wasserstein_loss(drawn, real, generator, **settings)

    return {"train.sliced_wasserstein_loss": lambda: loss}


class TextAdversary(Adversary):
    """Patches are judged without text; whether a picture is that of its caption, from 16 px alone.

    Projection of the caption's words (Miyato and Koyama 2018), and real pictures with others'
    captions as bad examples.
    """

    DIM, NUM_WORDS, MISMATCH = 64, 1_024, 0.5  # the last: weight of the bad examples

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.words = nn.EmbeddingBag(self.NUM_WORDS, self.DIM, padding_idx=PAD)
            self.small = nn.Sequential(
                nn.Conv2d(3, 64, 3, padding=1), nn.LeakyReLU(0.2),
                nn.Conv2d(64, 128, 4, 2, 1), nn.LeakyReLU(0.2),
                nn.Conv2d(128, 128, 4, 2, 1), nn.LeakyReLU(0.2),
                nn.Flatten(), nn.Linear(128 * 4 * 4, 1 + self.DIM),
            )  # fmt: skip
        self.patches, self.tokens = self.network, None
        self.network = nn.ModuleList([self.patches, self.words, self.small])
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=4e-4, betas=(0.0, 0.99))

    def batch(self, *args) -> tuple[Tensor, ...]:
        """train.training_batch, whose captions are kept in mind."""
        batch = training_batch(*args)
        self.tokens = batch[1]
        return batch

    def text_logits(self, pictures: Tensor, tokens: Tensor) -> Tensor:
        seen = self.small(F.avg_pool2d(pictures, 4))
        return seen[:, 0] + (seen[:, 1:] * self.words(tokens)).sum(1) / self.DIM**0.5  # (B,)

    def logits(self, pictures: Tensor) -> Tensor:
        patches = self.patches(pictures).mean(dim=(1, 2, 3))
        return patches + self.text_logits(pictures, self.tokens[: len(pictures)])  # (B,)

    def mismatch(self, real: Tensor) -> Tensor:
        own, others = (self.text_logits(real, t) for t in (self.tokens, self.tokens.roll(1, 0)))
        return self.MISMATCH * F.softplus(others - own).mean()


def with_text(adversary_class: type[TextAdversary] = TextAdversary) -> dict[str, Callable]:
    adversary = adversary_class()
    return {
        "train.sliced_wasserstein_loss": lambda: adversary,
        "train.training_batch": lambda: adversary.batch,
    }


ALONE = "squared error alone"
# Name -> what to replace in the code, as objectives.VARIANTS does, made anew for each run.
VARIANTS = {
    ALONE: lambda: {"train.SHARPEN_RAMP": lambda: NEVER},
    "sliced Wasserstein": dict,
    "a third of the weight": partial(sliced_wasserstein, 1 / 3),
    "three times the weight": partial(sliced_wasserstein, 3),
    "12 filters, not 4": partial(sliced_wasserstein, num_filters=12),
    "full size alone, with twice the weight": partial(sliced_wasserstein, 2, num_scales=1),
    "from 40 % of the run on, not 60": lambda: {"train.SHARPEN_RAMP": lambda: (0.4, 0.6)},
    "and an adversary that reads": with_text,
}


def begin(config: train.TrainConfig) -> Path:
    """The folder of a run that has learnt by squared error alone, for the share BEGINNING."""
    name, images = f"{config.run}-beginning", round(BEGINNING * config.images)
    shutil.rmtree(RESULTS / name, ignore_errors=True)
    return train.main(dataclasses.replace(config, run=name, stop_after=images))


def measure(
    model: TextToImageModel, panel: judges.Judges, tests: held_out_scenes.TestSet, reference: Tensor
) -> dict[str, list[float]]:
    """NUMBERS of a model, each [value, low, high]."""
    captions, _, asked = tests
    drawn = evaluate.draw(model, captions, list(range(len(captions))))
    numbers = evaluate.Evaluation(panel.encoder, tests, reference).measure(drawn)
    right = held_out_scenes.attribute_rates(panel.recogniser, drawn, asked)["all"]
    numbers["all_attributes"] = metrics.bootstrap(metrics.mean, right)
    numbers["frechet_distance"] = numbers["frechet_distance_judge"]
    return {name: evaluate.rounded(numbers[name]) for name in NUMBERS}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=25_600, help="of a run (default: 25600)")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each (default: 2)")
    args = parser.parse_args()
    record = RECORDS / "sharpness.json"
    rows = json.loads(record.read_text()) if record.exists() else []
    if any(row["images"] != args.images for row in rows):
        raise SystemExit(f"error: {record} holds runs of another length; remove it first")
    tests = held_out_scenes.draw_scenes("validation", NUM, 2, (1, 2))
    _, reference, _ = held_out_scenes.draw_scenes("validation", NUM, 1, (1, 2))
    panel = judges.load(CaptionedImages(image_size=judges.SIDE))
    about = provenance("cpu") | {"judges": panel.fingerprint}
    for seed in range(args.seeds):
        config = train.TrainConfig(
            run="sharpness",
            seed=seed,
            noise_dim=0,
            images=args.images,
            sample_every=args.images,
            device="cpu",
        )
        done = {row["variant"] for row in rows if row["seed"] == seed}
        missing = [variant for variant in VARIANTS if variant not in done]
        beginning = begin(config) if missing else None
        for variant in missing:
            folder = RESULTS / config.run
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(beginning, folder)
            with replacing(VARIANTS[variant]()):
                train.main(config)
            row = {"variant": variant, "seed": seed, "images": args.images}
            model = checkpoint.load_model(checkpoint.find_weights(str(folder)))
            if variant == ALONE:  # what is blurred is drawn so, as --sharpen 0 does
                model.config = dataclasses.replace(model.config, sharpness=1.0)
            numbers = measure(model, panel, tests, reference)
            row |= {"seconds": round(seconds_of(folder))} | numbers
            shutil.rmtree(folder)  # else generate.py would draw from it
            rows.append(row | {"about": about})
            record.write_text(json.dumps(rows, indent=1) + "\n")
            (RECORDS / "sharpness.md").write_text(table(rows, NUMBERS))
        if beginning:
            shutil.rmtree(beginning)
    print(table(rows, NUMBERS))


if __name__ == "__main__":
    main()
