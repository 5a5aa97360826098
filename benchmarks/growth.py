"""What does it cost as work grows? One table: what was measured, beside the law that was expected.

    python benchmarks/growth.py              some 15 minutes on 2 CPU cores, when nothing else runs
    python benchmarks/growth.py --quick      a minute, to see that it works

Writes results_short/growth.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import checkpoint
from benchmarks.data import in_own_process, make_tars
from benchmarks.speed import ROOT, Run, medians, operations, painted, rounded
from config import RESULTS, ModelConfig, TrainConfig, choose_device, provenance

RECORD = ROOT / "results_short" / "growth.json"
CPU = torch.device("cpu")
PLACE = 0.8  # of a run, where all losses count
MEMORY = """
import json, re, sys
from pathlib import Path
from benchmarks.growth import CPU, PLACE
from benchmarks.speed import Run
from config import TrainConfig
run = Run(TrainConfig(run="growth", batch_size=int(sys.argv[1])), json.loads(sys.argv[2]), CPU)
given = run.given()
for _ in range(2):
    run.step(given, PLACE)
status = Path("/proc/self/status").read_text()  # getrusage tells the parent's, if that had more
print(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
"""


def timed(what: dict[str, Callable[[], object]], repeats: int) -> dict:
    """Milliseconds and billions of operations of each."""
    times = medians(what, repeats, CPU)
    return {name: {"ms": times[name], "gflop": operations(what[name])} for name in what}


def step_of(captions: list[str], **settings: object) -> Callable[[], object]:
    """A step of training with all losses."""
    run = Run(TrainConfig(run="growth", **settings), captions, CPU)
    return partial(run.step, run.given(), PLACE)


def of_records(folder: Path, most: int) -> dict:
    """Finding captioned images in tars, opening them again, and reading a batch."""
    rows, num = {}, 1_000
    while num <= most:
        data, cache = folder / f"{num}", folder / f"cache-{num}"
        make_tars(data, num)
        index, again = (in_own_process(data, cache, step) for step in ("index", "stream"))
        rows[f"{num:,}"] = {"first_seconds": index["seconds"], "again_seconds": again["seconds"],
                            "batch_ms": 64_000 / again["images_per_second"]}  # fmt: skip
        shutil.rmtree(data)
        num *= 10
    return rows


def of_processes(folder: Path, images: int) -> dict:
    """Images a second of one process with one and with two threads, and of two with one each, of
    the same run; as it is written in its metrics."""
    rows = {}
    flags = ["--data", "scenes", "--latents", "on", "--device", "cpu", "--images", str(images),
             "--sample-every", str(images)]  # fmt: skip
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for name, threads, before in (("1 process, 1 thread", 1, []), ("1 process, 2 threads", 2, []),
                                  ("2 processes, 1 thread each", 1, torchrun)):  # fmt: skip
        run = name.replace(",", "").replace(" ", "-")
        command = [sys.executable, *before, str(ROOT / "train.py"), *flags, "--set", f"run={run}"]
        subprocess.run(command, cwd=folder, check=True, env=os.environ | {
            "OMP_NUM_THREADS": str(threads)}, capture_output=True)  # fmt: skip
        lines = (folder / "results" / run / "metrics.jsonl").read_text().splitlines()
        speeds = [json.loads(line).get("images_per_second") for line in lines]
        rows[name] = {"images_per_second": [speed for speed in speeds if speed][-1]}
    return rows


def of_memory(captions: list[str], batches: tuple[int, int]) -> dict:
    """Megabytes: a process that trains, and what each image of a batch adds. On Linux alone."""

    def peak(batch: int) -> float:
        command = [sys.executable, "-c", MEMORY, str(batch), json.dumps(captions[:64])]
        out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        return int(out.split()[-1]) / 1024

    small, large = map(peak, batches)
    each = (large - small) / (batches[1] - batches[0])
    return {"without_images_mb": small - batches[0] * each, "each_image_mb": each,
            "batches": list(batches)}  # fmt: skip


def wider(factor: int) -> dict:
    """Settings with all widths times so much."""
    config = ModelConfig()
    return {"channels": tuple(factor * c for c in config.channels),
            **{name: factor * getattr(config, name)
               for name in ("text_dim", "completer_dim", "prior_dim")}}  # fmt: skip


def table(result: dict) -> str:
    """Markdown: how much more each takes, and how much more was expected."""
    lines = [["what grows", "from", "to", "times as much", "takes, times as long", "expected"]]
    lines.append(["---"] * 6)

    def add(name: str, rows: dict, key: str, expected: Callable[[dict, dict], float]) -> None:
        (first, a), (last, b) = list(rows.items())[0], list(rows.items())[-1]
        grows = float(last.replace(",", "")) / float(first.replace(",", ""))
        numbers = (grows, b[key] / a[key], expected(a, b))
        told = (f"{x:,.0f}" if x >= 100 else f"{x:.3g}" for x in numbers)
        lines.append([name, first, last, *told])

    def counted(a: dict, b: dict) -> float:
        return b["gflop"] / a["gflop"]

    records = result["records"]
    first, *_, last = (int(name.replace(",", "")) for name in records)
    add("records: found first", records, "first_seconds", lambda *_: last / first)
    add("records: a batch", records, "batch_ms", lambda *_: 1.0)
    for name, rows in result["computed"].items():
        add(name, rows, "ms", counted)
    speeds = [row["images_per_second"] for row in result["processes"].values()]
    lines.append(["processes of one thread", "1", "2", "2", f"{speeds[0] / speeds[2]:.3g}", "0.5"])
    lines.append(["threads of one process", "1", "2", "2", f"{speeds[0] / speeds[1]:.3g}", "0.5"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="little of everything")
    parser.add_argument("--output", type=Path, help=f"default: {RECORD.name}")
    args = parser.parse_args()
    output = args.output or (RESULTS / "growth-quick.json" if args.quick else RECORD)
    output.parent.mkdir(exist_ok=True)
    about, began = provenance(choose_device("cpu")), time.monotonic()
    about["threads"] = torch.get_num_threads()
    repeats, quick = (1, True) if args.quick else (3, False)
    with tempfile.TemporaryDirectory(dir=output.parent) as name:
        folder = Path(name)
        captions = painted(folder / "scenes", 64, 32).captions()
        long = [" ".join((caption + " and ").split() * 32) for caption in captions]
        model = checkpoint.load_model(checkpoint.SHIPPED_WEIGHTS)
        written = model.complete(["a red circle"] * 256, range(256))
        draws = {f"{num}": partial(model.draw, written[:num], range(num))
                 for num in ((1, 4) if quick else (1, 4, 16, 64, 256))}  # fmt: skip
        sizes = {f"{size}": step_of(captions, image_size=size, batch_size=8)
                 for size in ((32, 64) if quick else (32, 64, 128, 256))}  # fmt: skip
        lengths = {f"{length}": step_of(long, max_tokens=length, batch_size=32)
                   for length in ((4, 16) if quick else (4, 16, 64, 256))}  # fmt: skip
        widths = {f"{factor}": step_of(captions, **wider(factor), batch_size=16)
                  for factor in (1, 2)}  # fmt: skip
        result = {
            "computed": {
                "pictures drawn at once": timed(draws, repeats),
                "image size, px: a step of 8 images": timed(sizes, repeats),
                "tokens of captions: a step of 32": timed(lengths, repeats),
                "widths of all layers: a step of 16": timed(widths, repeats),
            },
            "memory": of_memory(captions, (4, 8) if quick else (16, 64)),
            "processes": of_processes(folder, 128 if quick else 2_560),
            "records": of_records(folder / "tars", 10_000 if quick else 1_000_000),
        }
    about["seconds"] = round(time.monotonic() - began)
    result = rounded(result | {"about": about})
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
