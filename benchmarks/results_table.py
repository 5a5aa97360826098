"""Which numbers stand in the README? Those of the records, put there by this command.

    python evaluate.py --model results_short/text_to_image_model.pth --output results/shipped
    python evaluate.py --model results/scenes --output results/default_run
    cp results/shipped/evaluation* results_short/shipped        (after both: records name a commit)
    cp results/default_run/evaluation* results_short/default_run
    python benchmarks/results_table.py

Writes results_short/evaluation.json (the shipped weights', with the default run's inside) and the
table between the markers in README.md.
"""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "results_short"
BEGIN, END = "<!-- results_table.py -->", "<!-- end -->"
HEADLINES = {
    "all_attributes": "all attributes right",
    "all_attributes_unseen": "the same, pairs of colour and shape never trained on",
    "edge_energy": "edge energy, drawn / real",
    "high_frequency_energy": "the same of the highest frequencies",
    "diversity": "variance over seeds, drawn / real",
    "frechet_distance": "Frechet distance",
}
SYSTEMS = {
    "drawn": "drawn",
    "real": "real",
    "shuffled": "captions shuffled",
    "repeated": "one real picture repeated",
    "retrieved": "nearest training caption",
}


def cell(value: list[float] | None) -> str:
    """[value, low, high] for people."""
    if value is None:
        return ""
    digits = 3 if abs(value[0]) < 2 else 1 if abs(value[0]) < 100 else 0
    number, low, high = (f"{x:.{digits}f}" for x in value)
    return number if low == high else f"{number} ({low}..{high})"


def headline(evaluation: dict, system: str, name: str) -> list[float] | None:
    """A number of HEADLINES, of one of the systems."""
    row = evaluation[system]
    if name.startswith("all_attributes"):
        return row.get("attributes", {}).get(name, {}).get("all")
    return row.get({"frechet_distance": "frechet_distance_judge"}.get(name, name))


def table(shipped: dict, default_run: dict) -> str:
    """Markdown: a line for each headline; the default run, the shipped weights, controls."""
    lines = [
        ["", "`python train.py`", "shipped weights", *list(SYSTEMS.values())[1:]],
        ["---"] * (2 + len(SYSTEMS)),
    ]
    for name, label in HEADLINES.items():
        values = [headline(default_run, "drawn", name)]
        values += [headline(shipped, system, name) for system in SYSTEMS]
        lines.append([label, *map(cell, values)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    shipped, default_run = (
        json.loads((RECORDS / folder / "evaluation.json").read_text())
        for folder in ("shipped", "default_run")
    )
    about = [record["about"] for record in (shipped, default_run)]
    if about[0]["judges"] != about[1]["judges"] or any(a["quick"] for a in about):
        raise SystemExit("error: both evaluations must be full ones by the same judges")
    merged = shipped | {"default_run": default_run}
    (RECORDS / "evaluation.json").write_text(json.dumps(merged, indent=1) + "\n")
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{table(shipped, default_run)}\n{END}{after}")
    print(table(shipped, default_run))


if __name__ == "__main__":
    main()
