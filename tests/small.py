"""Small captioned images for tests, made afresh, and what a collection gives of them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from config import DataConfig
from formats import open_collection

# Settings of a model that trains several times as fast, and of a run of six steps.
SMALL = {"text_dim": 64, "channels": (64, 48, 32, 24), "prior_dim": 32}
TINY = SMALL | {"images": 96, "batch_size": 16, "image_size": 32, "sample_every": 48,
                "precision": "float32", "device": "cpu"}  # fmt: skip
SIZE = 8  # of the images that `make_folder` makes; they come back unchanged at that size


def make_flags(folder: Path, num: int = 60) -> None:
    """Small images, left half one colour and right half another, with captions that say so."""
    colours = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 70, 220),
               "gold": (240, 200, 40)}  # fmt: skip
    folder.mkdir(parents=True)
    lines = []
    for i in range(num):
        left, right = list(colours)[i % 4], list(colours)[i // 4 % 4]
        image = Image.new("RGB", (32, 32), colours[left])
        image.paste(colours[right], (16, 0, 32, 32))
        image.save(folder / f"{i:02d}.png")
        lines.append(json.dumps({"file_name": f"{i:02d}.png", "text": f"{left} and then {right}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Noise, uint8."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def make_folder(folder: Path, num: int = 5) -> Path:
    """0.png, 1.png ... of SIZE pixels, each with two captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(num):
        saved(folder, pixels(SIZE, SIZE, 3, seed=i), f"{i}.png")
    write_captions(folder, num)
    return folder


def write_captions(folder: Path, num: int, word: str = "picture") -> None:
    rows = [
        json.dumps({"file_name": f"{i}.png", "text": [f"{word} {i}", f"number {i}"]})
        for i in range(num)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")


def change_rows(folder: Path, change: Callable[[int], dict]) -> list[dict]:
    """Add to each row of the metadata what `change` gives for its number."""
    path = folder / "metadata.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row | change(i) for i, row in enumerate(rows)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return rows


def saved(folder: Path, image: Image.Image | np.ndarray, name: str = "a.png", **options) -> Path:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(folder / name, **options)
    return folder / name


def opened(data, cache_dir: Path, image_size: int = SIZE, fraction: float = 0.0, **options):
    """`open_collection`, all of it for training."""
    return open_collection(data, DataConfig(**options), image_size, cache_dir, fraction, False)


def items_of(found, split: str = "train") -> list[tuple[np.ndarray, list[str], str]]:
    """Image (S, S, 3) uint8, captions and path of all that an epoch shows of an open collection."""
    indices = found.indices(split)
    images, records = found.read(indices, indices)
    return [(image.transpose(1, 2, 0), list(record.captions), record.path)
            for image, record in zip(images, records, strict=True)]  # fmt: skip
