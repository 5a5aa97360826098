"""What does each part of training bring? The same time for each, several seeds, on the scenes.

    python benchmarks/objectives.py              about 80 minutes on 2 CPU cores

Repeat the command to go on where it stopped. Writes results_short/objectives.json, a row for each
run, and the table of their means in results_short/objectives.md.
"""

import argparse
import dataclasses
import json
import shutil
import sys
from pathlib import Path
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import evaluate
import train
from checkpoint import RESULTS

RECORDS = Path(__file__).parent.parent / "results_short"
CALIBRATION = 6_400  # images of a whole run in miniature, to learn how many fit into the time
NUMBERS = ("all_attributes", "all_attributes_unseen", "edge_energy", "diversity",
           "frechet_distance")  # fmt: skip


def only_adamw(networks) -> list[torch.optim.Optimizer]:
    parameters = [p for network in networks for p in network.parameters()]
    groups = [{"params": parameters, "relative_lr": 1}]
    return [torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.01, fused=True)]


# Name -> settings of train.py that differ from the default, and what is replaced in the code.
VARIANTS = {
    "squared error": ({"noise_dim": 0, "sharpen": 0.0}, {}),
    "+ sliced Wasserstein": ({"noise_dim": 0}, {}),
    "+ latents, drawn as normal noise": ({}, {"flow.NUM_COUPLINGS": 0}),
    "+ flow (python train.py)": ({}, {}),
    "the same, AdamW for all weights": ({}, {"runs.make_optimizers": only_adamw}),
}


def train_for(minutes: float, config: train.TrainConfig) -> tuple[Path, int, float]:
    """Train for about so many minutes; returns the run's folder, its images and its seconds."""

    def seconds_of(run: Path) -> float:
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return max(line.get("seconds", 0) for line in lines)

    small = dataclasses.replace(config, images=CALIBRATION, sample_every=CALIBRATION)
    folder = train.main(small)
    images = int(CALIBRATION * 60 * minutes / seconds_of(folder))
    shutil.rmtree(folder)
    folder = train.main(dataclasses.replace(config, images=images, sample_every=images))
    return folder, images, seconds_of(folder)


def table(rows: list[dict]) -> str:
    """Markdown: a line for each variant, means over its seeds, lowest and highest value."""
    lines = [["", "minutes", "images", *(name.replace("_", " ") for name in NUMBERS)]]
    lines.append(["---"] * len(lines[0]))
    for variant in VARIANTS:
        runs = [row for row in rows if row["variant"] == variant]
        if not runs:
            continue
        line = [f"{variant} ({len(runs)} seeds)"]
        line.append(f"{sum(run['seconds'] for run in runs) / len(runs) / 60:.1f}")
        line.append(f"{sum(run['images'] for run in runs) / len(runs):,.0f}")
        for name in NUMBERS:
            values = [run[name][0] for run in runs]
            mean, low, high = sum(values) / len(values), min(values), max(values)
            line.append(f"{mean:.3g} ({low:.3g}..{high:.3g})")
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=6, help="of training (default: 6)")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each (default: 2)")
    args = parser.parse_args()
    record = RECORDS / "objectives.json"
    rows = json.loads(record.read_text()) if record.exists() else []
    for seed in range(args.seeds):
        for variant, (settings, replaced) in VARIANTS.items():
            if any((row["variant"], row["seed"]) == (variant, seed) for row in rows):
                continue
            config = train.TrainConfig(run="objectives", seed=seed, **settings)
            shutil.rmtree(RESULTS / config.run, ignore_errors=True)  # of a command cut short
            patches = [patch(target, value) for target, value in replaced.items()]
            for each in patches:
                each.start()
            folder, images, seconds = train_for(args.minutes, config)
            output = str(RESULTS / "evaluation")
            result = evaluate.main(evaluate.EvaluateConfig(model=str(folder), output=output))
            patch.stopall()
            numbers = {name: evaluate.rounded(result[name]) for name in NUMBERS}
            row = {"variant": variant, "seed": seed, "images": images, "seconds": round(seconds)}
            rows.append(row | numbers | {"about": result["about"]})
            record.write_text(json.dumps(rows, indent=1) + "\n")
            (RECORDS / "objectives.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
