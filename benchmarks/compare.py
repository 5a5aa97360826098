"""What does each part of training bring? The same time, or the same images, for each variant.

    python benchmarks/compare.py                    10 minutes for each run, and 3 to measure it
    python benchmarks/compare.py --minutes 4 --only "python train.py" "without latents"
    python benchmarks/compare.py --images 25600 --output results_short/compare_images.json

A variant is settings of train.py, nothing else. How many images it has time for is told by a whole
run in miniature, once for all seeds. Runs are measured by evaluate.py, on validation scenes, since
what is compared here is chosen by. Repeat the command to go on where it stopped; remove the record
to measure anew. Prints a markdown table.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import evaluate
import train
from config import RESULTS, EvaluateConfig, TrainConfig

RECORD = Path(__file__).parent.parent / "results_short" / "compare.json"
RUN = "benchmark-compare"  # its folder in results/, removed after each run
CALIBRATION = 6_400  # images of a run in miniature
NUMBERS = ("fully_told", "unseen_pairs", "place_open", "relations", "counts", "edge_energy",
           "diversity", "frechet_distance")  # fmt: skip
VARIANTS: dict[str, dict] = {
    "python train.py": {},
    # Losses. Without the second, masks are not sharpened when drawing either.
    "without latents": {"noise_dim": 0},
    "squared error alone": {"noise_dim": 0, "swd_weight": 0.0},
    "a third of the price of a latent": {"kl_weight": 7e-4 / 3},
    "three times the price of a latent": {"kl_weight": 7e-4 * 3},
    "a third of swd_weight": {"swd_weight": 1.0},
    "three times swd_weight": {"swd_weight": 9.0},
    "12 filters, not 4": {"swd_filters": 12},
    "full size of images alone, twice swd_weight": {"swd_scales": 1, "swd_weight": 6.0},
    "swd_weight from 40 % of the run on, not 60": {"swd_ramp": (0.4, 0.6)},
    "losses see masks as they are, not x2": {"late_mask_scale": 1.0},
    # The schedule and the optimizers.
    "full size from the first image on": {"grow_at": ()},
    "half the size until 40 %": {"grow_at": (0.4,)},
    "twice the learning rate": {"lr": 3e-3},
    "half the learning rate of Muon": {"muon_lr_ratio": 6.5},
    # Captions.
    "each caption of an image for itself": {"pairs": "each"},
    # The model.
    "words looked at on 4x4 and 8x8 alone": {"word_attentions": 2},
    "no convolution before the layers": {"refine": False},
    "1.5 times the channels": {"channels": (256, 192, 128, 80, 48, 32)},
    "two thirds of the channels": {"channels": (112, 84, 56, 36, 24, 16)},
    "an LSTM without attention": {"text_encoder": "lstm"},
    "attention without an LSTM": {"text_encoder": "attention"},
}


def train_on(images: int, config: dict) -> tuple[Path, float]:
    """A run from its first image to its last; returns its folder and its seconds."""
    shutil.rmtree(RESULTS / RUN, ignore_errors=True)
    folder = train.main(TrainConfig(run=RUN, images=images, sample_every=images, **config))
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return folder, max(line.get("seconds", 0.0) for line in lines)


def images_within(minutes: float, config: dict) -> int:
    """How many images a variant has time for."""
    _, seconds = train_on(CALIBRATION, config)
    return int(CALIBRATION * 60 * minutes / seconds)


def measure(folder: Path, quick: bool) -> dict:
    """NUMBERS of a run, each [value, low, high], and about its measurement."""
    output = RESULTS / "evaluation"
    settings = {"model": str(folder), "split": "validation", "output": str(output)}
    evaluate.main(EvaluateConfig(**settings, quick=quick))
    result = json.loads((output / "evaluation.json").read_text())
    result = result["drawn"] | result
    return {name: result[name] for name in (*NUMBERS, "about")}


def table(rows: list[dict]) -> str:
    """Markdown: a line for each variant, means over its seeds, lowest and highest value."""
    lines = [["", "seeds", "images", "minutes", *(name.replace("_", " ") for name in NUMBERS)]]
    lines.append(["---"] * len(lines[0]))
    for variant in dict.fromkeys(row["variant"] for row in rows):
        runs = [row for row in rows if row["variant"] == variant]
        line = [variant, str(len(runs)), f"{runs[0]['images']:,}"]
        line.append(f"{sum(run['seconds'] for run in runs) / len(runs) / 60:.1f}")
        for name in NUMBERS:
            values = [run[name][0] for run in runs]
            mean, low, high = sum(values) / len(values), min(values), max(values)
            line.append(f"{mean:.3g} ({low:.3g}..{high:.3g})")
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10, help="of training (default: 10)")
    parser.add_argument("--images", type=int, default=0, help="in place of --minutes")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each (default: 2)")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=VARIANTS, help="of these")
    parser.add_argument("--output", type=Path, default=RECORD, help=f"default: {RECORD.name}")
    parser.add_argument("--quick", action="store_true", help="measure few images")
    args = parser.parse_args()
    for settings in VARIANTS.values():
        TrainConfig(**settings)  # a mistake shows before the first run, not after hours
    length = f"{args.images} images" if args.images else f"{args.minutes:g} minutes"
    rows = json.loads(args.output.read_text()) if args.output.exists() else []
    if any(row["length"] != length for row in rows):
        raise SystemExit(f"error: {args.output} holds runs of {rows[0]['length']}, not {length}; "
                         "name another file with --output")  # fmt: skip
    for seed in range(args.seeds):
        for variant in args.only:
            done = {row["seed"]: row["images"] for row in rows if row["variant"] == variant}
            if seed in done:
                continue
            config = VARIANTS[variant] | {"seed": seed}
            images = args.images or max(done.values(), default=0)
            images = images or images_within(args.minutes, config)
            folder, seconds = train_on(images, config)
            row = {"variant": variant, "settings": VARIANTS[variant], "length": length}
            row |= {"seed": seed, "images": images, "seconds": round(seconds)}
            rows.append(row | measure(folder, args.quick))
            shutil.rmtree(folder)
            args.output.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
