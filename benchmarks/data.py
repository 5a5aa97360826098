"""How long do a million captioned pictures take to be found, opened again, and read?

    python benchmarks/data.py                        some 20 minutes on 2 CPU cores, 12 GB of disk
    python benchmarks/data.py --records 20000        a minute, to see that it works

Makes small pictures in tar shards, and the same in folders with a metadata.jsonl. Each step is
measured in a process of its own, when nothing else runs: `index` opens them for the first time and
decodes nothing, `stream` opens them again with the cache off, `decode` fills the cache, `start`
opens them again. Writes results_short/data.json.
"""

import argparse
import io
import json
import random
import resource
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

from config import choose_device, provenance
from dataset import CaptionedImages

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "results_short" / "data.json"
SHARD = 10_000  # pictures in a tar, as img2dataset makes them
FOLDER = 1_000  # in a folder
SIDE = 48  # of the pictures
PATTERNS = 256  # different pictures
BATCHES = 100  # whose reading is timed
TRAINED = 1_280  # images of the run whose waiting is measured
WORDS = ["red", "green", "blue", "small", "big", "old", "new", "round", "flat", "tall", "bird",
         "boat", "house", "tree", "cup", "hat"]  # fmt: skip


def jpegs() -> list[bytes]:
    """PATTERNS different small pictures."""
    rng, found = random.Random(0), []
    for _ in range(PATTERNS):
        image = Image.new("RGB", (SIDE, SIDE), tuple(rng.choices(range(256), k=3)))
        for _ in range(6):
            x, y, r = rng.uniform(0, SIDE), rng.uniform(0, SIDE), rng.uniform(2, SIDE / 3)
            colour = tuple(rng.choices(range(256), k=3))
            ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill=colour)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


def caption(number: int) -> str:
    rng = random.Random(number)
    return f"a {' '.join(rng.choices(WORDS, k=8))}, number {number}"


def make_tars(folder: Path, num: int) -> None:
    folder.mkdir(parents=True)
    contents = jpegs()
    for start in tqdm(range(0, num, SHARD), "making tars"):
        with tarfile.open(folder / f"{start // SHARD:05d}.tar", "w") as archive:
            for i in range(start, min(num, start + SHARD)):
                files = {".jpg": contents[i % PATTERNS], ".txt": caption(i).encode()}
                for suffix, data in files.items():
                    member = tarfile.TarInfo(f"{i:09d}{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


def make_folders(folder: Path, num: int) -> None:
    folder.mkdir(parents=True)
    contents = jpegs()
    with open(folder / "metadata.jsonl", "w") as file:
        for i in tqdm(range(num), "making files"):
            name = f"{i // FOLDER:05d}/{i:09d}.jpg"
            if i % FOLDER == 0:
                (folder / name).parent.mkdir()
            (folder / name).write_bytes(contents[i % PATTERNS])
            file.write(json.dumps({"file_name": name, "text": caption(i)}) + "\n")


def measure(data: Path, cache: Path, step: str) -> dict:
    """One step, in this process, with everything imported."""
    began = time.monotonic()
    size = "off" if step in ("index", "stream") else "100"
    dataset = CaptionedImages(data, image_size=32, cache_dir=cache, cache=size)
    if step == "index":
        found = {"seconds": time.monotonic() - began, "records": len(dataset.collection.records)}
    else:
        dataset.batch([0])
        found = {"seconds": time.monotonic() - began}
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
        began = time.monotonic()
        for i in range(BATCHES):
            dataset.batch([order[j % len(order)] for j in range(64 * i, 64 * (i + 1))])
        found["images_per_second"] = 64 * BATCHES / (time.monotonic() - began)
    if step == "start":
        began = time.monotonic()
        dataset.fingerprint()
        found["fingerprint_seconds"] = time.monotonic() - began
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    peaks = [resource.getrusage(who).ru_maxrss / unit
             for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]  # fmt: skip
    return found | {"peak_resident_mb": round(peaks[0]), "largest_child_mb": round(peaks[1])}


def in_own_process(data: Path, cache: Path, step: str) -> dict:
    command = [sys.executable, __file__, "--measure", step, str(data), str(cache)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


def waiting(data: Path, folder: Path, cache: str) -> float:
    """The fraction of its time that training at 64 pixels waits for pictures, the first epoch's
    decoding apart."""
    shutil.rmtree(folder / "results" / "waiting", ignore_errors=True)
    flags = ["--data", str(data), "--set", f"cache={cache}", "--images", str(TRAINED),
             "--run", "waiting", "--sample-every", str(TRAINED)]  # fmt: skip
    subprocess.run([sys.executable, ROOT / "train.py", *flags], cwd=folder, check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    lines = (folder / "results" / "waiting" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == "train"]
    found = [v for row in rows for k, v in row.items() if k.endswith("seconds_waiting_for_data")]
    return sum(found) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path("results/data_benchmark"))
    parser.add_argument("--measure", nargs=3, metavar=("STEP", "DATA", "CACHE"))
    args = parser.parse_args()
    if args.measure:
        step, data, cache = args.measure
        print(json.dumps(measure(Path(data), Path(cache), step)))
        return
    about, began = provenance(choose_device("cpu")), time.monotonic()
    result = {"records": args.records}
    for name, make in {"tars": make_tars, "folders": make_folders}.items():
        data, cache = args.folder / name, args.folder / "cache"
        small = args.folder / f"{name}-small"
        for folder, num in ((data, args.records), (small, 20_000)):
            if not folder.exists():
                make(folder, num)
        shutil.rmtree(cache, ignore_errors=True)
        rows = {}
        for step in ("index", "stream", "decode", "start"):
            rows[step] = in_own_process(data, cache, step)
            print(name, step, rows[step], flush=True)
        rows["waiting_share_cached"] = waiting(small.resolve(), args.folder, "100")
        rows["waiting_share_streamed"] = waiting(small.resolve(), args.folder, "off")
        result[name] = rows
        print(json.dumps(rows, indent=1))
        shutil.rmtree(cache, ignore_errors=True)
        about["seconds"] = round(time.monotonic() - began)
        RECORD.write_text(json.dumps(result | {"about": about}, indent=1) + "\n")


if __name__ == "__main__":
    main()
