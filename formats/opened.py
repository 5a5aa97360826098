"""How are the images of a collection asked for? By number, whether they are cached or decoded."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from config import RESULTS, DataConfig, UserError
from files import write_text
from formats.cache import (
    IMAGES_VERSION,
    Rows,
    Streamed,
    describe,
    digest_of,
    folder_of,
    hash_of,
    open_images,
    open_index,
    read_json,
)
from formats.layouts import Collection, Record, read_pairs

MAX_HASHED = 65_536  # of more images than these, a fingerprint looks at NUM_SPREAD
NUM_SPREAD = 4_096


@dataclass
class OpenedCollection:
    """Captioned images, each known by the number of its record.

    rows: cache.ROW of each record. images: (N, 3, S, S) uint8, memory-mapped, or Streamed.
    splits: name -> numbers of its images, sorted, without those known to be unreadable.
    folder: where the cache of images lies, or would lie.
    """

    collection: Collection
    rows: Rows
    images: np.ndarray | Streamed
    splits: dict[str, np.ndarray]
    folder: Path
    replaced: set[int] = field(default_factory=set)  # images that turned out to be unreadable

    def __getstate__(self) -> dict:
        """For another process: of the cache not the pixels, but where they are."""
        mapped = isinstance(self.images, np.memmap)
        return vars(self) | ({"images": self.images.filename} if mapped else {})

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        if not isinstance(self.images, Streamed):
            self.images = np.load(self.images, mmap_mode="r")

    def indices(self, split: str) -> np.ndarray:
        """The numbers that an epoch of a split shows, sorted; none where there is no such split.
        With too few images to hold one out, validation sees those trained on."""
        numbers = self.splits.get(split, np.zeros(0, int))
        if split == "validation" and not len(numbers):
            numbers = self.splits["train"]
        return np.repeat(numbers, self.rows["repeats"][numbers]) if split == "train" else numbers

    def captions(self, numbers: np.ndarray, limit: int | None = None) -> list[str]:
        """All captions of these images; with a limit, of so many of them, evenly spread."""
        records = self.collection.records
        return [c for i in numbers[spread(len(numbers), limit)] for c in records[i].captions]

    def prefetch(self, numbers: np.ndarray) -> None:
        """Begin to decode what will be asked for next, where there is no cache."""
        if isinstance(self.images, Streamed):
            self.images.prefetch(numbers.tolist())

    def read(self, numbers: Sequence[int], indices: np.ndarray) -> tuple[np.ndarray, list[Record]]:
        """Images (B, 3, S, S) uint8, and their records.

        indices: sorted numbers, of which the next one stands in for what cannot be decoded.
        Raises UserError where none of them can be.
        """
        records, numbers = self.collection.records, [int(i) for i in numbers]
        if not isinstance(self.images, Streamed):
            return self.images[numbers], [records[i] for i in numbers]  # a copy
        images = self.images.decoded(numbers)
        for n in range(len(numbers)):
            num_tried = 0
            while isinstance(images[n], str):
                if numbers[n] not in self.replaced:
                    self.replaced.add(numbers[n])
                    self.collection.skipped[images[n]].append(records[numbers[n]].path)
                num_tried += 1
                if num_tried > len(indices):
                    told = self.collection.skipped_line()
                    raise UserError(f"none of the pictures can be read: {told}")
                after = np.searchsorted(indices, numbers[n], side="right")
                numbers[n] = int(indices[after % len(indices)])
                (images[n],) = self.images.decoded([numbers[n]])
        return np.stack(images), [records[i] for i in numbers]

    def fingerprint(self, indices: np.ndarray, version: int) -> str:
        """Changes with the captions of these images, with their pixels (of more than MAX_HASHED,
        NUM_SPREAD are looked at), and with `version`. What it was is kept beside the cache."""
        keys, captions = (digest_of(self.rows[name][indices]) for name in ("key", "captions"))
        key = hash_of(IMAGES_VERSION, MAX_HASHED, NUM_SPREAD, version, keys, captions)
        memo = self.folder.with_name(f"{self.folder.name}-fingerprint-{key:016x}.json")
        if known := read_json(memo, {"fingerprint": str, "unreadable": list}):
            unreadable = indices[known["unreadable"]]
            if len(unreadable):
                self.read(unreadable, indices)  # some may be readable by now
            if self.replaced.issuperset(unreadable.tolist()):
                return known["fingerprint"]
        found = self._fingerprint(indices, version)
        at = np.flatnonzero(np.isin(indices, list(self.replaced))).tolist()
        with suppress(OSError, UserError):  # a disk that is full costs only time
            memo.parent.mkdir(parents=True, exist_ok=True)
            write_text(memo, json.dumps({"fingerprint": found, "unreadable": at}))
        return found

    def _fingerprint(self, indices: np.ndarray, version: int) -> str:
        few = len(indices) <= MAX_HASHED
        if few:
            records = self.collection.records
            captions = ["\n".join(records[i].captions) for i in indices]  # without line breaks
        else:
            captions = [hash_of(*self.rows["captions"][indices])]
        digest = hashlib.blake2b(json.dumps([version, captions]).encode(), digest_size=6)
        looked_at = indices[spread(len(indices), None if few else NUM_SPREAD)]
        for start in range(0, len(looked_at), 1024):
            images, _ = self.read(looked_at[start : start + 1024], indices)
            digest.update(images.tobytes())
        return digest.hexdigest()

    def summary(self) -> str:
        """What was found, in a few lines."""
        sizes = {split: len(numbers) for split, numbers in sorted(self.splits.items())}
        fraction = sizes.get("validation", 0) / max(1, sum(sizes.values()))
        num_captions = sum(self.rows["num_captions"][i].sum() for i in self.splits.values())
        repeated = (self.rows["repeats"] - 1).sum()
        more = f"\n  repeats: an epoch shows {repeated:,} more, as folders say" if repeated else ""
        way = "" if not isinstance(self.images, Streamed) else ", decoded each time"
        return (
            f"data: {self.collection.name} ({self.collection.layout}), {sum(sizes.values()):,} "
            f"pictures with {num_captions:,} captions{way}\n"
            + "".join(f"  {found}\n" for found in self.collection.also)
            + f"  skipped: {self.collection.skipped_line()}\n"
            f"  splits: {', '.join(f'{n:,} {s}' for s, n in sizes.items())}"
            + (
                f" (validation {fraction:.1%}){more}"
                if fraction
                else f"; too few to hold any out: validation sees those trained on{more}"
            )
        )


def open_collection(
    data: str | Path | Collection | Sequence[tuple[str | Path, str | Sequence[str]]],
    config: DataConfig,
    image_size: int,
    cache_dir: Path = RESULTS / "cache",
    validation_fraction: float = 0.05,
    show_progress: bool = True,
) -> OpenedCollection:
    """Find out what there is, and decode it unless that is done already.

    data: a folder (or zip, tar, table), a list of (image path, caption or captions), or a
    collection. The rest is as for dataset.CaptionedImages, config.data apart, which is not read.
    Raises UserError where there is no such collection, or nothing in it can be read.
    """
    if isinstance(data, (str, Path)):
        collection, rows, names = open_index(Path(data), config, cache_dir)
    else:
        collection = data if isinstance(data, Collection) else read_pairs(data)
        if not collection.records:
            raise UserError(f"nothing can be read: {collection.skipped_line()}")
        rows, names = describe(collection)
    settings = config.decoding(image_size)
    folder = folder_of(collection, settings, cache_dir)
    images, unreadable = open_images(
        collection, rows, settings, folder, config.cache_bytes(), show_progress
    )
    readable = np.ones(len(rows), bool)
    for i, reason in unreadable.items():
        readable[i] = False
        collection.skipped[reason].append(collection.records[i].path)
    splits = split_rows(rows, names, readable, validation_fraction)
    if not any(len(numbers) for numbers in splits.values()):
        told = collection.skipped_line()
        raise UserError(f"none of the pictures in {collection.name} can be read: {told}")
    return OpenedCollection(collection, rows, images, splits, folder)


def split_rows(
    rows: Rows, names: list[str], readable: np.ndarray, fraction: float
) -> dict[str, np.ndarray]:
    """name -> numbers of its rows; where none is told to be for validation, about `fraction` of
    what is there for training becomes it: at least one image, or none where that is less than one.

    names: of the splits that rows count. readable: (N,) bool.
    """
    told = {name: rows["split"] == i for i, name in enumerate(names)}
    train = told.pop("", False) | told.pop("train", False)
    if not told.get("validation", np.zeros(1, bool)).any():
        drawn = train & held_out(rows["path"], fraction)
        if fraction * train.sum() < 1:
            drawn[:] = False
        elif not drawn.any():  # else it would depend on how few images happen to be called
            drawn[np.flatnonzero(train)[rows["path"][train].argmin()]] = True
        told["validation"], train = drawn, train & ~drawn
    found = {name: np.flatnonzero(those & readable) for name, those in told.items()}
    return {"train": np.flatnonzero(train & readable)} | found


def held_out(hashes: np.ndarray, fraction: float) -> np.ndarray:
    """Which images validation gets, by the hashes of their paths: (N,) uint64 -> (N,) bool."""
    return hashes.astype(np.float64) < fraction * 2.0**64


def spread(num: int, limit: int | None) -> list[int]:
    """Up to `limit` of the numbers 0 .. num - 1, evenly spread."""
    return [i * num // limit for i in range(limit)] if limit and limit < num else list(range(num))
