"""Which numbers stand in the README? Those of the records, put there by this command.

    python evaluate.py --model results/scenes --output results/default_run
    cp results/default_run/*.{json,png} results_short/default_run_0
    python benchmarks/results_table.py            write the table between the markers of README.md
    python benchmarks/results_table.py --check    exit with status 1 if another table is there

Every results_short/default_run* with an evaluation.json is a seed. Evaluate all before copying any,
since records name a commit without changes.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "results_short"
BEGIN, END = "<!-- results_table.py -->", "<!-- end -->"
HEADLINES = {
    "fully_told": "all told",
    "unseen_pairs": "pairs of colour and shape never trained on",
    "three_objects": "three objects",
    "place_open": "place left open",
    "colour_and_shape_alone": "*a red circle*",
    "shape_alone": "*star*",
    "relations": "*a circle left of a star*",
    "counts": "*two red circles*",
    "other_patterns": "sentences and words never trained on",
    "small_shapes": "single small objects",
    "smallest": "the worst shape of these",
    "edge_energy": "edge energy, drawn / real",
}
COLUMNS = {"drawn": "shipped weights", "as typed": "as typed"}


def headline(evaluation: dict, system: str, name: str) -> list[float] | None:
    """[value, low, high], or [value]: a number of HEADLINES, of the drawings or of another system;
    None where that has none."""
    row = evaluation[system]
    if name in row.get("attributes", {}):
        return row["attributes"][name]["share"]
    rates = [rate[0] for rate in row.get("small_shapes", {}).values()]
    if rates and name in ("small_shapes", "smallest"):
        return [statistics.mean(rates) if name == "small_shapes" else min(rates)]
    return row.get(name)


def digits(value: float) -> int:
    return 3 if abs(value) < 2 else 1 if abs(value) < 100 else 0


def interval(value: list[float] | None) -> str:
    """A value with its interval over captions."""
    if value is None:
        return ""
    number, *limits = (f"{x:.{digits(value[0])}f}" for x in value)
    return f"{number} ({'..'.join(limits)})" if len(set(limits)) > 1 else number


def over_seeds(values: list[list[float]]) -> str:
    """Mean and standard deviation of several runs; of one, its interval."""
    numbers = [value[0] for value in values]
    if len(numbers) == 1:
        return interval(values[0])
    mean, std = statistics.mean(numbers), statistics.stdev(numbers)
    return f"{mean:.{digits(mean)}f} ± {std:.{digits(mean)}f}"


def length_of(folder: Path) -> tuple[int, float, str]:
    """Images seen, minutes of training, and hardware with the precision, of a run."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    last = [line for line in lines if line["split"] == "train"][-1]
    record = json.loads((folder / "config.json").read_text())
    hardware = f"{record['hardware']} in {record['precision'].removeprefix('torch.')}"
    return last["images"], last["seconds"] / 60, hardware


def table() -> str:
    """Markdown: a line for each headline, and below what the columns are.

    Raises SystemExit where the evaluations cannot stand beside each other.
    """
    folders = sorted(path.parent for path in RECORDS.glob("default_run*/evaluation.json"))
    folders.append(RECORDS / "shipped")
    runs = [json.loads((folder / "evaluation.json").read_text()) for folder in folders]
    about = [run["about"] for run in runs]
    same = all(len({a[name] for a in about}) == 1 for name in ("judges", "split"))
    if not same or any(a["quick"] or "dirty" in a["commit"] for a in about):
        raise SystemExit("error: all evaluations must be full ones, of one split, by the same "
                         "judges, at commits without changes")  # fmt: skip
    *seeds, shipped = runs
    lines = [["", "`python train.py`", *COLUMNS.values()], ["---"] * (2 + len(COLUMNS))]
    for name, label in HEADLINES.items():
        values = [headline(shipped, system, name) for system in COLUMNS]
        first = over_seeds([headline(run, "drawn", name) for run in seeds])
        lines.append([label, first, *map(interval, values)])
    images, minutes, hardware = zip(*map(length_of, folders), strict=True)
    weights = torch.load(RECORDS / "text_to_image_model.pth", weights_only=True)
    size = sum(w.numel() for w in weights.values() if isinstance(w, torch.Tensor)) / 1e6
    over = f"{len(seeds)} seeds, mean ± standard deviation" if len(seeds) > 1 else "one seed"
    below = (
        f"Shares of drawings with all that the caption names and nothing else, by a strict rule; "
        f"of real scenes: 1. `python train.py`: {images[0]:,} images, "
        # The fastest: runs beside each other take longer.
        f"{min(minutes[:-1]):.0f} minutes on {hardware[0]}, {over}. Shipped: {images[-1]:,} "
        f"images, one seed. In brackets: 95 % intervals over captions. {size:.1f} M parameters. "
        f"Scenes of the {about[0]['split']} split."
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{below}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check, readme = parser.parse_args().check, ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    found, after = rest.split(END)
    if check and found.strip() != table():
        raise SystemExit("error: README.md holds another table than results_short; write it with: "
                         "python benchmarks/results_table.py")  # fmt: skip
    if not check:
        readme.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")
        print(table())


if __name__ == "__main__":
    main()
