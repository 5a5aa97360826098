"""Which pictures and captions does training see? A torch Dataset over one cache of pixels.

    CaptionedImages("folder")                          found by layouts.py
    CaptionedImages([("a.png", "a red bird"), ...])    a Python list
    CaptionedImages()                                  the built-in scenes

Each picture is decoded once, into a memory-mapped file; epochs after that cost nothing.
"""

import copy
import hashlib
import json
import os
import shutil
import warnings
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

import scenes
from command_line import UserError
from files import locked
from layouts import (
    FITS,
    RESIZE_FILTERS,
    Collection,
    Record,
    find_collection,
    load_picture,
    read_pairs,
)

CACHE_VERSION = 1  # raise it when the same file would give other pixels
MAX_HASHED = 65_536  # pictures that a fingerprint looks at
NUM_SCENES = {"train": 32_768, "validation": 1_024, "unseen": 1_024}


class CaptionedImages(Dataset):
    """Pictures with their captions.

    dataset[i] is (picture (3, S, S) uint8 tensor, list of captions, relative path).

    Args:
        data: a folder, a list of (picture path, caption or captions), or None for the scenes.
        split: "train", "validation" or another that the collection has (scenes: "unseen"). Where
            it tells nothing of validation, that is picked by a hash of the path, so that a picture
            stays where it is when files are added.
        image_size: S, in pixels.
        resize: "lanczos", or "nearest" for pixel art.
        fit: "crop" the middle of pictures that are not square, or "pad" them with white.
        validation_share: share of the pictures kept out of training, 0..1.
        cache_dir: folder of the pixels' cache.
        show_progress: draw a bar while the cache is built.

    Raises:
        UserError: no captioned pictures, none of them readable, no such split, or the cache cannot
            be written.
    """

    def __init__(
        self,
        data: str | Path | Sequence[tuple[str | Path, str | Sequence[str]]] | None = None,
        split: str = "train",
        image_size: int = 64,
        resize: str = "lanczos",
        fit: str = "crop",
        validation_share: float = 0.05,
        cache_dir: str | Path = "results/cache",
        show_progress: bool = True,
    ):
        if resize not in RESIZE_FILTERS or fit not in FITS:
            raise ValueError(f"resize is one of {tuple(RESIZE_FILTERS)}, fit of {FITS}")
        if data is None:
            self.collection = list_scenes()
        elif isinstance(data, (str, Path)):
            self.collection = find_collection(data)
        else:
            self.collection = read_pairs(data)
        self.pictures, unreadable = open_cache(
            self.collection, (image_size, resize, fit), Path(cache_dir), show_progress
        )  # (N, 3, S, S) uint8, memory-mapped
        self.splits = defaultdict(list)  # split -> numbers of its records
        told = any(record.split == "validation" for record in self.collection.records)
        for i, record in enumerate(self.collection.records):
            if i in unreadable:
                self.collection.skipped[unreadable[i]].append(record.path)
                continue
            part = record.split or "train"
            if part == "train" and not told:
                part = split_of(record.path, validation_share)
            self.splits[part].append(i)
        if not any(self.splits.values()):
            raise UserError(
                f"none of the pictures in {data} can be read: {self.collection.skipped_line()}"
            )
        if split not in (*self.splits, "train", "validation"):
            has = ", ".join(sorted(self.splits))
            raise UserError(f"{data or 'the scenes'} has no split {split!r}; it has {has}")
        self.indices = self.splits[split]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, list[str], str]:
        record = self.collection.records[self.indices[i]]
        picture = torch.from_numpy(self.pictures[self.indices[i]].copy())
        return picture, list(record.captions), record.path

    def other_split(self, split: str) -> "CaptionedImages":
        """The same collection, another split of it."""
        other = copy.copy(self)
        other.indices = self.splits.get(split, [])
        return other

    def batch(self, numbers: Sequence[int]) -> tuple[torch.Tensor, list[tuple[str, ...]]]:
        """The pictures (B, 3, S, S) uint8 and the captions of several items at once."""
        indices = [self.indices[i] for i in numbers]
        captions = [self.collection.records[i].captions for i in indices]
        return torch.from_numpy(self.pictures[indices]), captions

    def captions(self) -> list[str]:
        """All captions of this split."""
        return [c for i in self.indices for c in self.collection.records[i].captions]

    def fingerprint(self, version: int = 1) -> str:
        """Changes with the captions of this split, with its pictures (the first MAX_HASHED of them,
        as they are trained on), and with `version`."""
        records = self.collection.records
        captions = ["\n".join(records[i].captions) for i in self.indices]  # none holds a line break
        digest = hashlib.blake2b(json.dumps([version, captions]).encode(), digest_size=6)
        for start in range(0, min(len(self), MAX_HASHED), 1024):
            pictures, _ = self.batch(range(start, min(start + 1024, len(self), MAX_HASHED)))
            digest.update(pictures.numpy().tobytes())
        return digest.hexdigest()

    def summary(self) -> str:
        """What was found, in a few lines."""
        sizes = {split: len(indices) for split, indices in sorted(self.splits.items())}
        share = sizes.get("validation", 0) / max(1, sum(sizes.values()))
        num_captions = sum(
            len(self.collection.records[i].captions) for v in self.splits.values() for i in v
        )
        return (
            f"data: {self.collection.name} ({self.collection.layout}), {sum(sizes.values()):,} "
            f"pictures with {num_captions:,} captions\n"
            f"  splits: {', '.join(f'{n:,} {s}' for s, n in sizes.items())}"
            f" (validation {share:.1%})\n"
            f"  skipped: {self.collection.skipped_line()}"
        )


def split_of(path: str, validation_share: float) -> str:
    """The split of a file, by a hash of its relative path."""
    digest = hashlib.blake2b(path.encode(errors="surrogateescape"), digest_size=8).digest()
    return "validation" if int.from_bytes(digest, "big") < validation_share * 2**64 else "train"


def list_scenes() -> Collection:
    """The built-in scenes as a collection; the pictures are drawn when the cache is built."""
    records = [
        Record(f"{split}/{i:06d}", (scenes.compose(0, i, split)[1],), split)
        for split, num in NUM_SCENES.items()
        for i in range(num)
    ]
    return Collection("scenes", "built-in", None, records)


def decode(collection: Collection, settings: tuple[int, str, str], i: int) -> np.ndarray | str:
    """The pixels (S, S, 3) uint8 of record i, or why there are none."""
    path = collection.records[i].path
    if collection.layout == "built-in":
        split, index = path.split("/")
        return scenes.render(0, int(index), split, settings[0])[0]
    try:
        return load_picture(Path(collection.root or "", path), *settings)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return "pictures with too many pixels"
    except Exception:  # Pillow raises any kind: OSError, struct.error, SyntaxError, ...
        return "files that are no readable pictures"


def fingerprint(collection: Collection, settings: tuple[int, str, str]) -> str:
    """Changes when a file, the list of files or a setting changes; not when a caption does."""
    if collection.layout == "built-in":
        files = [hashlib.blake2b(Path(scenes.__file__).read_bytes()).hexdigest(), NUM_SCENES]
    else:
        stats = [(r.path, os.stat(Path(collection.root or "", r.path))) for r in collection.records]
        files = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    content = json.dumps([CACHE_VERSION, settings, files])
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def open_cache(
    collection: Collection, settings: tuple[int, str, str], cache_dir: Path, show_progress: bool
) -> tuple[np.ndarray, dict[int, str]]:
    """The pixels of all records, (N, 3, S, S) uint8 memory-mapped, and {record number: reason} for
    those that cannot be read (their pixels are 0).

    A cache of other files or settings is rebuilt. It is written under another name and renamed when
    it is whole, so that a run cut short leaves nothing that looks like a cache.
    """
    origin = str((collection.root or Path()).resolve())
    paths = [] if collection.root else [record.path for record in collection.records]
    place = hashlib.blake2b(repr((origin, paths, settings)).encode(), digest_size=4).hexdigest()
    folder = cache_dir / f"{collection.name}-{settings[0]}px-{place}"
    wanted = fingerprint(collection, settings)

    def cached() -> tuple[np.ndarray, dict[int, str]] | None:
        try:
            about = json.loads((folder / "about.json").read_text())
            pictures = np.load(folder / "pictures.npy", mmap_mode="r")  # ValueError if cut short
            unreadable = {int(i): reason for i, reason in about["unreadable"].items()}
            return (pictures, unreadable) if about["fingerprint"] == wanted else None
        except (OSError, EOFError, ValueError, KeyError):
            return None

    if found := cached():
        return found
    # One process builds, others wait for it.
    with locked(folder.with_name(folder.name + ".lock"), wait=True):
        if not cached():
            _build_cache(collection, settings, folder, wanted, show_progress)
        if found := cached():
            return found
    raise UserError(f"the cache {folder} cannot be read back; remove it and try again")


def _build_cache(
    collection: Collection,
    settings: tuple[int, str, str],
    folder: Path,
    wanted: str,
    show_progress: bool,
) -> None:
    num, size = len(collection.records), settings[0]
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    unreadable = {}
    try:
        shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
        unfinished.mkdir(parents=True)
        pictures = np.lib.format.open_memmap(
            unfinished / "pictures.npy", "w+", dtype=np.uint8, shape=(num, 3, size, size)
        )
        if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a crash later
            with open(unfinished / "pictures.npy", "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        with ThreadPool() as threads, warnings.catch_warnings():  # decoding leaves Python's lock
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            results = threads.imap(partial(decode, collection, settings), range(num), chunksize=64)
            bar = tqdm(results, "reading pictures", num, unit="img", disable=not show_progress)
            for i, pixels in enumerate(bar):
                if isinstance(pixels, str):
                    unreadable[i] = pixels
                else:
                    pictures[i] = pixels.transpose(2, 0, 1)
        pictures.flush()
        del pictures  # Windows renames no folder with an open file in it
        about = {"fingerprint": wanted, "unreadable": unreadable}
        (unfinished / "about.json").write_text(json.dumps(about))
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    except OSError as error:
        raise UserError(f"the cache {folder} cannot be written: {error}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
