"""Does a run survive kill -9? Killed at random moments, gone on with by the same command, compared
with a run that nothing happened to.

    python benchmarks/kills.py --kills 200        20 minutes on 2 CPU cores

Writes results_short/kills.json. Needs Linux or macOS.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

import checkpoint
import scenes
import train
from config import TrainConfig, choose_device, provenance

RECORD = Path(__file__).parent.parent / "results_short" / "kills.json"
IMAGES = 60  # in the folder that is trained on
# A model that trains several times as fast as the default one.
CONFIG = TrainConfig(
    data="scenes", run="run", text_dim=64, channels=(64, 48, 32, 24), prior_dim=32, images=192,
    batch_size=16, image_size=32, sample_every=48, keep_every=64, precision="float32", device="cpu",
)  # fmt: skip
LONGEST = 1.5  # the latest kill, in times of a whole run
LATER = "second"  # in the names of what may differ: seconds, images a second


def make_scenes(folder: Path) -> None:
    """Small captioned images, as a folder with a metadata.jsonl."""
    folder.mkdir(parents=True)
    lines = []
    for i in range(IMAGES):
        pixels, caption, _ = scenes.render(0, i, "train", CONFIG.image_size)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
        lines.append(json.dumps({"file_name": f"{i:02d}.png", "text": caption}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))


def train_in(folder: Path) -> None:
    """What the child process does."""
    os.chdir(folder)
    torch.set_num_threads(1)  # the model is too small for more
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    train.main(CONFIG)


def outcome(folder: Path) -> dict:
    """All that must be the same: state, metrics and sample sheets; times apart."""
    run = folder / "results" / CONFIG.run
    state = checkpoint.load(run / "checkpoint.pth")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    state["lines"] = [{k: v for k, v in line.items() if LATER not in k} for line in lines]
    state["sheets"] = {p.name: p.read_bytes() for p in (run / "samples").iterdir()}
    state["files"] = sorted(p.relative_to(run).as_posix() for p in run.rglob("*"))
    return {k: v for k, v in state.items() if k not in ("seconds", "metrics")}


def differences(a: object, b: object, name: str = "") -> list[str]:
    """Where two nested values differ, bit for bit."""
    if type(a) is not type(b):
        return [name]
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [name]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [name]
        return [d for k in a for d in differences(a[k], b[k], f"{name}/{k}")]
    if isinstance(a, (list, tuple)) and len(a) == len(b):
        return [d for i, x in enumerate(a) for d in differences(x, b[i], f"{name}/{i}")]
    return [] if a == b else [name]


def kill_often(folder: Path, kills: int, seed: int) -> dict:
    """Kill runs `kills` times; as soon as one is through, compare it and begin another.

    Returns how many kills and runs there were, and where runs differed from the one left alone.
    """
    context, rng = multiprocessing.get_context("forkserver"), random.Random(seed)
    context.set_forkserver_preload(["train", "torch._dynamo"])  # processes start in a moment

    def start(name: str) -> multiprocessing.Process:
        if not (folder / name).exists():
            make_scenes(folder / name / CONFIG.data)
        process = context.Process(target=train_in, args=(folder / name,))
        process.start()
        return process

    start("whole").join()
    began = time.monotonic()
    start("again").join()  # with everything imported
    longest = LONGEST * (time.monotonic() - began)
    expected, done, runs, differ, failed = outcome(folder / "whole"), 0, 0, [], 0
    with tqdm(total=kills, desc="killing", unit="kill") as bar:
        while done < kills:
            process = start(f"killed-{runs}")
            process.join(rng.random() * longest)
            if process.is_alive():
                process.kill()
                process.join()
                killed = process.exitcode == -signal.SIGKILL
                done += killed
                bar.update(killed)
                if done < kills:
                    continue
                process = start(f"killed-{runs}")
                process.join()
            failed += process.exitcode != 0
            differ += differences(expected, outcome(folder / f"killed-{runs}"), f"run {runs}")
            runs += 1
    return {"kills": done, "runs": runs, "runs_failed": failed, "differences": differ}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="how often (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--output", type=Path, default=RECORD, help=f"default: {RECORD.name}")
    args = parser.parse_args()
    began, about = time.monotonic(), provenance(choose_device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        result = kill_often(Path(folder), args.kills, args.seed)
    about |= {"seconds": round(time.monotonic() - began)}
    args.output.write_text(json.dumps(result | {"about": about}, indent=1) + "\n")
    print(json.dumps(result))
    sys.exit(bool(result["differences"] or result["runs_failed"]))


if __name__ == "__main__":
    main()
