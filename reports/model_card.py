"""What should somebody know who is handed the weights? A page of Markdown beside each export."""

from reports.verdict import FEW_HELD_OUT

MOST_WORDS = 60  # that are named
MEANINGS = {  # of numbers of metrics.jsonl, for people
    "own_nearest": "share of drawings to which the own image is the nearest of up to 100",
    "text_dependence": "how many times as wrong another caption's drawing is; 1: words are ignored",
    "edge_energy": "energy of edges, drawn / real; 1 is as sharp as real ones",
    "noise_dependence": "share of the variance that seeds make",
    "completion_loss": "nats that the completer pays for a full caption",
}


def model_card(
    name: str,
    file: str,
    facts: dict[str, str],
    words: list[str],
    metrics: list[dict],
    best: int,
    record: dict,
    scenes: bool,
) -> str:
    """The page.

    facts: what to put first, by name; words: the vocabulary, the most frequent first; metrics: the
    lines of metrics.jsonl; best: images seen when the weights were as they are exported; record:
    config.json of the run, {} where there is none; scenes: nothing but the built-in scenes was
    learnt from.
    """
    few = record.get("held_out", FEW_HELD_OUT) < FEW_HELD_OUT
    last = {line["split"]: line for line in metrics
            if "text_dependence" in line and line["images"] <= best}  # fmt: skip
    if few:  # what they tell is chance
        last.pop("validation", None)
    rows = [f"| {meaning} | {cell(last.get('train'), key)} | {cell(last.get('validation'), key)} |"
            for key, meaning in MEANINGS.items()
            if any(key in line for line in last.values())]  # fmt: skip
    measured = "\n".join(["| | captions trained on | held out |", "| --- | --- | --- |", *rows])
    more = f" and {len(words) - MOST_WORDS:,} rarer ones" if len(words) > MOST_WORDS else ""
    collection = "\n".join(f"    {line}" for line in record.get("collection", "").splitlines())
    made = {"Command": f"`{record.get('command', 'not recorded')}`",
            "Commit": record.get("commit", "not recorded"),
            "Hardware": record.get("hardware", "not recorded"),
            "Begun": record.get("time", "not recorded")}  # fmt: skip
    licence = (
        "The scenes are drawn by this project's code (MIT); nothing else was learnt from."
        if scenes
        else "Licence of the images and captions: **to be filled in by whoever trained on them.** "
        "Weights can give back much of what they learnt from, whole images where there are few."
    )
    return f"""# Model card: {name}

{listed(facts)}

## How it was made

{listed(made)}

## Data

{collection or ("    the built-in scenes" if scenes else "    not recorded")}

{licence}

## Words

{len(words):,}, the most frequent first: {", ".join(words[:MOST_WORDS])}{more}.
Others are unknown: they are named, and do not count.

## Measured

{measured if rows else "Nothing was measured in training."}

At the validation of these weights in training{"; too few images were held out" * few}.
More: `python evaluate.py --model {file}`.

## Limits

- It draws what captions of its data told, in their words; it knows nothing else of the world.
- What a prompt leaves open is made up: it is no evidence of how anything looks.
- Drawings of captions that it learnt by heart are near copies of the images.
- Not tried: anything but drawing small images of the kind above.
"""


def listed(facts: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def cell(line: dict | None, key: str) -> str:
    return f"{line[key]:.3g}" if line and key in line else ""
