"""Does all of it work on a GPU, and how fast? One JSON, in less than 8 minutes on one card.

    python benchmarks/gpu.py              writes results_short/gpu.json
    python benchmarks/gpu.py --device cpu --seconds 60     to see that it works

Each step is a process of its own with a time limit; one that fails is told, and the others go on.
The record is written after each.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import checkpoint
from config import RESULTS, choose_device, provenance

ROOT = Path(__file__).parent.parent
RUNS_AT = ROOT / RESULTS
RECORD = ROOT / "results_short" / "gpu.json"
SECONDS = 480
PROMPTS = ["a small red circle at the top on a white background", "a big blue star"]
RUNS = {  # name -> settings of a default run, each to its end
    "default": [],
    "default, graphs": ["--set", "graphs=true"],
}
LARGE = {  # name -> settings of short runs at 128 px, of all stages
    "128 px, batch 256": ["--preset", "gpu-128", "--images", "100000"],
    "128 px, batch 256, graphs": ["--preset", "gpu-128", "--images", "100000",
                                  "--set", "graphs=true"],
}  # fmt: skip


def python(arguments: list[str], seconds: float) -> dict:
    """Run a script; how long it took, and where it failed, the end of what it told."""
    began = time.monotonic()
    try:
        done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True,
                              text=True, timeout=max(1.0, seconds))  # fmt: skip
        failed, told = done.returncode != 0, done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        failed, told = True, f"stopped after {error.timeout:.0f} s"
    row: dict = {"seconds": round(time.monotonic() - began, 1), "worked": not failed}
    return row | ({"told": told[-2_000:]} if failed else {})


def trained(name: str, flags: list[str], device: str, seconds: float) -> dict:
    """A run, and its speed in each phase."""
    run = "gpu-" + "".join(c if c.isalnum() else "-" for c in name)
    shutil.rmtree(RUNS_AT / run, ignore_errors=True)
    row = python(["train.py", "--run", run, "--device", device, *flags], seconds)
    metrics = RUNS_AT / run / "metrics.jsonl"
    if metrics.exists():
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
        lines = [line for line in lines if line["split"] == "train"]
        pairs = zip(lines, lines[1:], strict=False)
        row["images_per_second"] = {
            f"{b['images']:,}": round((b["images"] - a["images"]) / (b["seconds"] - a["seconds"]))
            for a, b in pairs
        }
    return row


def resumed(device: str, seconds: float) -> dict:
    """Half of a smoke run and the rest of it, beside one in one go: the largest difference of the
    weights, which not all kernels of a GPU leave at 0."""
    flags = ["--preset", "smoke", "--device", device]
    for name in ("whole", "halves"):
        shutil.rmtree(RUNS_AT / f"gpu-{name}", ignore_errors=True)
    row = python(["train.py", "--run", "gpu-whole", *flags], seconds)
    for stop in (["--set", "stop_after=1024"], []):
        again = python(["train.py", "--run", "gpu-halves", *flags, *stop], seconds)
        row = again if not again["worked"] else row
    if row["worked"]:
        whole, halves = (checkpoint.load_model(RUNS_AT / f"gpu-{name}/checkpoint.pth").state_dict()
                         for name in ("whole", "halves"))  # fmt: skip
        row["largest_difference"] = max(
            (whole[n] - halves[n]).abs().max().item() for n in whole if n != "_extra_state"
        )
    return row


def drawn(device: str, _: float) -> dict:
    """The same words and codes on this device and on the CPU: the largest difference of 255."""
    model = checkpoint.load_model(checkpoint.SHIPPED_WEIGHTS)
    seeds = list(range(len(PROMPTS)))
    here = model.draw(PROMPTS, seeds)
    there = model.to(device).draw(PROMPTS, seeds).cpu()
    return {"worked": True, "largest_difference_of_255": (here - there).abs().max().item() * 127.5}


def tested(device: str, seconds: float) -> dict:
    """The test suite, in which device "auto" is the card; which tests fail."""
    out = RUNS_AT / "gpu-tests.txt"
    command, row = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"], {"worked": False}
    with open(out, "w") as file:
        suite = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=file, start_new_session=True
        )
        try:
            row["worked"] = suite.wait(timeout=max(1.0, seconds)) == 0
        except subprocess.TimeoutExpired:
            os.killpg(suite.pid, signal.SIGKILL)
            row["told"] = "stopped: no time left"
    text = out.read_text() if out.exists() else ""
    row["failed"] = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all of it")
    parser.add_argument("--output", type=Path, default=RECORD, help=f"default: {RECORD.name}")
    args = parser.parse_args()
    device, began = choose_device(args.device), time.monotonic()
    name, speed = str(device), str(RUNS_AT / "gpu-speed.json")
    RUNS_AT.mkdir(exist_ok=True)
    steps: dict[str, Callable[[float], dict]] = {
        "drawing": lambda left: drawn(name, left),
        "smoke run, resumed": lambda left: resumed(name, left),
        "speed": lambda left: python(["benchmarks/speed.py", "--device", name,
                                      "--output", speed], left),
    }  # fmt: skip
    for title, flags in (RUNS | LARGE).items():
        steps[title] = lambda left, t=title, f=flags: trained(t, f, name, min(left, 150.0))
    steps["evaluate"] = lambda left: python(
        ["evaluate.py", "--quick", "--model", str(RUNS_AT / "gpu-default"), "--device", name], left
    )
    steps["tests"] = lambda left: tested(name, left)
    about = provenance(device)
    result: dict = {}
    for title, step in steps.items():
        left = args.seconds - (time.monotonic() - began)
        try:
            result[title] = step(left) if left > 5 else {"worked": False, "told": "no time left"}
        except Exception as error:  # the next step may well work
            result[title] = {"worked": False, "told": f"{type(error).__name__}: {error}"[:2_000]}
        print(title, json.dumps(result[title]), flush=True)
        if title == "speed" and result[title]["worked"]:
            result[title] |= json.loads(Path(speed).read_text())
        about["seconds"] = round(time.monotonic() - began)
        args.output.write_text(json.dumps(result | {"about": about}, indent=1) + "\n")


if __name__ == "__main__":
    main()
