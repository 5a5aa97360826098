"""Which pictures and captions does training see? A torch Dataset over one cache of pixels.

    python dataset.py PATH                             check a collection (check.py)
    python dataset.py PATH --export jsonl OUT          write it in another layout (export.py)

    CaptionedImages("folder")                          found by layouts.py
    CaptionedImages([("a.png", "a red bird"), ...])    a Python list
    CaptionedImages()                                  the built-in scenes

Each picture is decoded once, into a memory-mapped file; epochs after that cost nothing.
"""

import copy
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

import scenes
from cache import Streamed, describe, hash_of, open_index, open_pictures
from command_line import UserError
from layouts import Collection, DataConfig, Record, read_pairs

MAX_HASHED = 65_536  # of more pictures than these, a fingerprint looks at NUM_SPREAD
NUM_SPREAD = 4_096
FEW = 100  # pictures; fewer are not enough to learn from
NUM_SCENES = {"train": 32_768, "validation": 1_024, "unseen": 1_024}


class CaptionedImages(Dataset):
    """Pictures with their captions.

    dataset[i] is (picture (3, S, S) uint8 tensor, list of captions, relative path).

    Args:
        data: a folder (or zip, tar, table), a list of (picture path, caption or captions), or None
            for the scenes.
        split: "train", "validation" or another that the collection has (scenes: "unseen"). Where
            it tells nothing of validation, that is picked by a hash of the path, so that a picture
            stays where it is when files are added.
        image_size: S, in pixels.
        validation_share: share of the pictures kept out of training, 0..1.
        cache_dir: folder of the caches of captions and pixels.
        options: how to read and resize, the fields of layouts.DataConfig: resize="nearest", ...

    Raises UserError where there is no such collection or split, or nothing in it can be read.
    """

    def __init__(
        self,
        data: str | Path | Sequence[tuple[str | Path, str | Sequence[str]]] | None = None,
        split: str = "train",
        image_size: int = 64,
        validation_share: float = 0.05,
        cache_dir: str | Path = "results/cache",
        show_progress: bool = True,
        **options,
    ):
        config, cache_dir = DataConfig(**options), Path(cache_dir)
        if isinstance(data, (str, Path)):
            self.collection, self.rows, names = open_index(Path(data), config, cache_dir)
        else:
            self.collection = list_scenes() if data is None else read_pairs(data)
            if not self.collection.records:
                raise UserError(f"nothing can be read: {self.collection.skipped_line()}")
            self.rows, names = describe(self.collection)
        self.pictures, unreadable = open_pictures(
            self.collection, self.rows, config.decoding(image_size), cache_dir,
            config.cache_bytes(), show_progress
        )  # (N, 3, S, S) uint8  # fmt: skip
        self.seconds_waited = 0.0  # for pictures, by all that asked for batches
        self.replaced: set[int] = set()  # numbers of pictures that turned out to be unreadable
        readable = np.ones(len(self.rows), bool)
        for i, reason in unreadable.items():
            readable[i] = False
            self.collection.skipped[reason].append(self.collection.records[i].path)
        self.splits = self._splits(names, readable, validation_share)  # -> numbers of its records
        if not any(len(numbers) for numbers in self.splits.values()):
            raise UserError(
                f"none of the pictures in {data} can be read: {self.collection.skipped_line()}"
            )
        if split not in (*self.splits, "train", "validation"):
            has = ", ".join(sorted(self.splits))
            raise UserError(f"{data or 'the scenes'} has no split {split!r}; it has {has}")
        self.indices = self._indices(split)

    def _splits(self, names: list[str], readable: np.ndarray, share: float) -> dict:
        told = {name: self.rows["split"] == i for i, name in enumerate(names)}
        train = told.pop("", False) | told.pop("train", False)
        if not told.get("validation", np.zeros(1, bool)).any():
            drawn = held_out(self.rows["path"], share)
            told["validation"], train = train & drawn, train & ~drawn
        found = {name: np.flatnonzero(those & readable) for name, those in told.items()}
        return {"train": np.flatnonzero(train & readable)} | found

    def _indices(self, split: str) -> np.ndarray:
        numbers = self.splits.get(split, np.zeros(0, int))
        return np.repeat(numbers, self.rows["repeats"][numbers]) if split == "train" else numbers

    def __getstate__(self) -> dict:
        """For another process: of the cache not the pixels, but where they are."""
        state = vars(self).copy()
        if isinstance(self.pictures, np.memmap):
            state["pictures"] = self.pictures.filename
        return state

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        if not isinstance(self.pictures, Streamed):
            self.pictures = np.load(self.pictures, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, list[str], str]:
        pictures, (record,) = self._read([self.indices[i]])
        return torch.from_numpy(pictures[0]), list(record.captions), record.path

    def other_split(self, split: str) -> "CaptionedImages":
        """The same collection, another split of it."""
        other = copy.copy(self)
        other.indices = self._indices(split)
        return other

    def once(self) -> "CaptionedImages":
        """The same pictures, each once, however often an epoch shows it."""
        other = copy.copy(self)
        other.indices = np.unique(self.indices)
        return other

    def batch(self, numbers: Sequence[int]) -> tuple[torch.Tensor, list[tuple[str, ...]]]:
        """The pictures (B, 3, S, S) uint8 and the captions of several items at once."""
        pictures, records = self._read(self.indices[list(numbers)])
        return torch.from_numpy(pictures), [record.captions for record in records]

    def prefetch(self, numbers: Sequence[int]) -> None:
        """Begin to decode the batch that will be asked for next, where there is no cache."""
        if isinstance(self.pictures, Streamed):
            self.pictures.prefetch(self.indices[list(numbers)].tolist())

    def _read(self, numbers: Sequence[int]) -> tuple[np.ndarray, list[Record]]:
        began = time.monotonic()
        numbers = [int(i) for i in numbers]
        if isinstance(self.pictures, Streamed):
            pixels = self.pictures.decoded(numbers)
            for n, picture in enumerate(pixels):
                tried = 0
                while isinstance(picture, str):  # the next one stands in for what cannot be read
                    if numbers[n] not in self.replaced:
                        self.replaced.add(numbers[n])
                        path = self.collection.records[numbers[n]].path
                        self.collection.skipped[picture].append(path)
                    tried += 1
                    if tried > len(self):
                        told = self.collection.skipped_line()
                        raise UserError(f"none of the pictures can be read: {told}")
                    after = int(np.searchsorted(self.indices, numbers[n], side="right"))
                    numbers[n] = int(self.indices[after % len(self)])
                    (picture,) = self.pictures.decoded([numbers[n]])
                pixels[n] = picture
            pictures = np.stack(pixels)
        else:
            pictures = self.pictures[numbers]  # a copy
        self.seconds_waited += time.monotonic() - began
        return pictures, [self.collection.records[i] for i in numbers]

    def captions(self, limit: int | None = None) -> list[str]:
        """All captions of this split; with a limit, those of so many pictures, evenly spread."""
        records = self.collection.records
        return [c for i in self.indices[spread(len(self), limit)] for c in records[i].captions]

    def fingerprint(self, version: int = 1) -> str:
        """Changes with the captions of this split, with its pictures as they are trained on (of
        more than MAX_HASHED, NUM_SPREAD are looked at), and with `version`."""
        few = len(self) <= MAX_HASHED
        if few:
            records = self.collection.records
            captions = ["\n".join(records[i].captions) for i in self.indices]  # without line breaks
        else:
            captions = [hash_of(*self.rows["captions"][self.indices])]
        digest = hashlib.blake2b(json.dumps([version, captions]).encode(), digest_size=6)
        looked_at = spread(len(self), None if few else NUM_SPREAD)
        for start in range(0, len(looked_at), 1024):
            pictures, _ = self.batch(looked_at[start : start + 1024])
            digest.update(pictures.numpy().tobytes())
        return digest.hexdigest()

    def summary(self) -> str:
        """What was found, in a few lines."""
        sizes = {split: len(indices) for split, indices in sorted(self.splits.items())}
        share = sizes.get("validation", 0) / max(1, sum(sizes.values()))
        num_captions = sum(self.rows["num_captions"][i].sum() for i in self.splits.values())
        shown = (self.rows["repeats"] - 1).sum()
        more = f"\n  repeats: an epoch shows {shown:,} more, as folders say" if shown else ""
        way = "" if not isinstance(self.pictures, Streamed) else ", decoded each time"
        return (
            f"data: {self.collection.name} ({self.collection.layout}), {sum(sizes.values()):,} "
            f"pictures with {num_captions:,} captions{way}\n"
            f"  splits: {', '.join(f'{n:,} {s}' for s, n in sizes.items())}"
            f" (validation {share:.1%}){more}\n"
            f"  skipped: {self.collection.skipped_line()}"
        )


def held_out(hashes: np.ndarray, share: float) -> np.ndarray:
    """Which pictures validation gets, by the hashes of their paths: (N,) uint64 -> (N,) bool."""
    return hashes.astype(np.float64) < share * 2.0**64


def spread(num: int, limit: int | None) -> list[int]:
    """Up to `limit` of the numbers 0 .. num - 1, evenly spread."""
    return [i * num // limit for i in range(limit)] if limit and limit < num else list(range(num))


def list_scenes() -> Collection:
    """The built-in scenes as a collection; the pictures are drawn when the cache is built."""
    records = [
        Record(f"{split}/{i:06d}", (scenes.compose(0, i, split)[1],), split)
        for split, num in NUM_SCENES.items()
        for i in range(num)
    ]
    return Collection("scenes", "built-in", None, records)


if __name__ == "__main__":
    import check

    check.start()
