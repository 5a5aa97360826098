"""What of a collection is kept on the disk, so that it is read and decoded only once?

    results/cache/<name>-index-<hash>/     the index: which captions belong to which images
    results/cache/<name>-64px-<hash>/      the decoded images

Both hold what they were made from. Where a file has changed, or was added or removed, the index is
read again, and of the images those that changed. Each is written under another name and renamed
when it is whole, by one process at a time.
"""

import gc
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing.pool import AsyncResult, ThreadPool
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from config import DataConfig, UserError
from files import locked
from formats.detect import CANNOT_BE_READ, find_source, read_collection
from formats.images import TOO_LARGE, NotUsable, load_image
from formats.layouts import Collection, Record, Source

INDEX_VERSION = 4  # raise it when the same files would give other records
IMAGES_VERSION = 2  # raise it when the same file would give other pixels
UNREADABLE = "files that are no readable pictures"
MANY_TO_PAINT = 1_000  # images; for fewer, other processes do not pay
POINTERS = "pointers of git-lfs instead of pictures; git lfs pull fetches these"
LFS = b"version https://git-lfs"
ROW = np.dtype([
    ("start", "i8"),  # of the record's line in records.jsonl
    ("key", "u8"),  # changes when the file, its place or its bounding box does
    ("path", "u8"),  # a hash of the path, that the split is made of
    ("captions", "u8"),  # a hash of them
    ("split", "i4"),  # number of its name; 0: none told
    ("num_captions", "u4"),
    ("repeats", "u2"),
])  # fmt: skip

Rows = np.ndarray  # (N,) of ROW
Settings = dict  # DataConfig.decoding
Content = TypeVar("Content")
Kept = tuple[np.ndarray, dict[int, str], np.ndarray]  # images, which are unreadable, keys


class Records(Sequence):
    """The records of an index, read from the disk one at a time."""

    def __init__(self, path: Path, starts: np.ndarray):
        self.path, self.starts = path, starts
        self.lines = np.memmap(path, np.uint8, mode="r")

    def __reduce__(self):  # for another process: not the lines, but where they are
        return Records, (self.path, np.asarray(self.starts))

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: int) -> Record:
        if not 0 <= i < len(self):
            raise IndexError(i)
        end = self.starts[i + 1] if i + 1 < len(self) else len(self.lines)
        line = json.loads(self.lines[self.starts[i] : end].tobytes())
        path, captions, split, span, box, repeats = line
        return Record(
            path, tuple(captions), split, span and tuple(span), box and tuple(box), repeats
        )


def hash_of(*values: object) -> int:
    """64 bits, the same in every process."""
    text = "\n".join(map(str, values)).encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def digest_of(keys: np.ndarray) -> str:
    return hashlib.blake2b(keys.tobytes(), digest_size=16).hexdigest()


def span_of(record: Record) -> tuple[str, tuple[int, int] | None]:
    """What to open: a file, and which part of it."""
    return (record.span[0], record.span[1:]) if record.span else (record.path, None)


def describe(collection: Collection, file: BinaryIO | None = None) -> tuple[Rows, list[str]]:
    """A row for each record, and the names of the splits that they count. With a file, each record
    becomes a line of it, and is forgotten: there may be millions."""
    records, splits, start = collection.records, [""], 0
    rows = np.zeros(len(records), ROW)
    for i, record in enumerate(records):
        split = record.split or ""
        if split not in splits:
            splits.append(split)
        # It changes when the file that holds the image does, or what draws it.
        place, stamp = collection.place, collection.stamp
        key = hash_of(record.path, place.stamp(span_of(record)[0]) if place else stamp,
                      record.span, record.box)  # fmt: skip
        counts = (splits.index(split), len(record.captions), record.repeats)
        rows[i] = (start, key, hash_of(record.path), hash_of(*record.captions), *counts)
        if file:
            start += file.write(json.dumps(record).encode() + b"\n")
            records[i] = None
    return rows, splits


def open_index(path: Path, config: DataConfig, cache_dir: Path) -> tuple[Collection, Rows, list]:
    """A collection, a row for each of its records, and the names of the splits that rows count."""
    source = find_source(path, config)
    wanted = digest(source)
    roots = (source.texts.root.resolve(), source.place.root.resolve())
    where = (*roots, source.entries, source.layout, config.caption_from, config.follow_links,
             config.image_column, config.caption_column)  # fmt: skip
    folder = cache_dir / f"{source.name}-index-{hash_of(*where):016x}"

    def opened() -> tuple[Collection, Rows, list] | None:
        kinds = {"digest": str, "layout": str, "splits": list, "bytes": int, "skipped": dict,
                 "also": list}  # fmt: skip
        about, rows = read_json(folder / "about.json", kinds), read_array(folder / "rows.npy", ROW)
        if about is None or rows is None or about["digest"] != wanted:
            return None
        if CANNOT_BE_READ in about["skipped"] and not built:  # it may be by now
            return None
        try:
            records = Records(folder / "records.jsonl", rows["start"])
        except (OSError, ValueError):  # it is missing or empty
            return None
        if len(records.lines) != about["bytes"]:
            return None
        collection = Collection(source.name, about["layout"], source.place, records)
        collection.also = about["also"]
        collection.skipped.update(about["skipped"])
        return collection, rows, about["splits"]

    built: list[Path] = []

    def build(unfinished: Path) -> None:
        built.append(unfinished)
        gc.disable()  # it would look at millions of records again and again
        try:
            collection = read_collection(source)
        finally:
            gc.enable()
        with open(unfinished / "records.jsonl", "wb") as file:
            rows, splits = describe(collection, file)
            size = file.tell()
        np.save(unfinished / "rows.npy", rows)
        about = {"digest": wanted, "layout": collection.layout, "splits": splits, "bytes": size,
                 "skipped": collection.skipped, "also": collection.also}  # fmt: skip
        (unfinished / "about.json").write_text(json.dumps(about))

    return open_or_build(folder, opened, build)


def read_json(path: Path, kinds: dict[str, type]) -> dict | None:
    """An object with entries of these kinds; None where it is missing, damaged or another."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    fits = isinstance(found, dict) and all(isinstance(found.get(k), t) for k, t in kinds.items())
    return found if fits else None


def read_array(path: Path, dtype: np.dtype) -> np.ndarray | None:
    """A .npy, memory-mapped; None where it is missing, cut short, damaged or of another type."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError):
        return None
    return array if array.dtype == dtype else None


def digest(source: Source) -> str:
    """Changes when a file that the reader looks at does, or is added or removed."""
    content = hashlib.blake2b(digest_size=16)
    content.update(repr((INDEX_VERSION, source.layout, source.entries)).encode())
    for place in {id(p): p for p in (source.texts, source.place)}.values():
        names = place.files or {name: place.stamp(name) for name in source.entries}
        content.update("\0".join([*names, ""]).encode(errors="surrogateescape"))
        content.update(np.fromiter(names.values(), np.int64, len(names)).tobytes())
    return content.hexdigest()


def folder_of(collection: Collection, settings: Settings, cache_dir: Path) -> Path:
    """Where pixels that are decoded with these settings are kept."""
    paths = [] if collection.layout != "list" else [r.path for r in collection.records]
    root = collection.place.root.resolve() if collection.place else ""
    place = hash_of(root, collection.name, collection.layout, *paths, sorted(settings.items()))
    return cache_dir / f"{collection.name}-{settings['image_size']}px-{place:016x}"


def open_images(
    collection: Collection,
    rows: Rows,
    settings: Settings,
    folder: Path,
    limit: float,
    show_progress: bool,
) -> tuple["np.ndarray | Streamed", dict[int, str]]:
    """The pixels of all records, (N, 3, S, S) uint8 memory-mapped, and {record number: reason} for
    those that cannot be read (their pixels are 0). `folder` is that of `folder_of`.

    Where they would take more than `limit` bytes of disk, they are decoded when they are asked for.
    """
    num, size = len(rows), settings["image_size"]
    if num * 3 * size * size > limit:
        return Streamed(collection, settings), {}

    def kept() -> Kept | None:
        kinds = {"version": int, "unreadable": dict, "keys": str}
        about = read_json(folder / "about.json", kinds)
        keys = read_array(folder / "keys.npy", ROW["key"])
        images = read_array(folder / "pictures.npy", np.dtype(np.uint8))
        if about is None or keys is None or images is None or about["version"] != IMAGES_VERSION:
            return None
        # Another process may have put a new cache in its place meanwhile.
        same = read_json(folder / "about.json", kinds) == about and about["keys"] == digest_of(keys)
        if not same or images.shape != (len(keys), 3, size, size):
            return None
        return images, {int(i): why for i, why in about["unreadable"].items()}, keys

    def opened() -> tuple[np.ndarray, dict[int, str]] | None:
        found = kept()
        return found[:2] if found and np.array_equal(found[2], rows["key"]) else None

    def build(unfinished: Path) -> None:
        path, shape = unfinished / "pictures.npy", (num, 3, size, size)
        start = np.lib.format.open_memmap(path, "w+", np.uint8, shape).offset
        # Written as a file, not as memory: then a full disk is an error, and memory stays free.
        with open(path, "r+b") as file, ExitStack() as workers:

            def write(i: int, pixels: np.ndarray) -> None:
                file.seek(start + int(i) * 3 * size * size)
                file.write(pixels.tobytes())

            missing, unreadable = np.arange(num), {}
            if old := kept():
                missing = copy_known(rows["key"], old, write)
            work = partial(decode, collection, settings)
            if collection.place is not None:  # decoding leaves Python's lock
                jobs = workers.enter_context(ThreadPool()).imap(work, missing, chunksize=16)
            elif len(missing) < MANY_TO_PAINT:
                jobs = map(work, missing)
            else:  # painting does not; the records alone are sent to other processes
                some = (collection.records[i] for i in missing)
                processes = workers.enter_context(ProcessPoolExecutor(initializer=ignore_ctrl_c))
                jobs = processes.map(partial(paint, collection.draw, size), some, chunksize=64)
            shown = {"unit": "img", "disable": None if show_progress else True}
            jobs = tqdm(jobs, "reading pictures", len(missing), **shown)
            for i, pixels in zip(missing.tolist(), jobs, strict=True):
                if isinstance(pixels, str):
                    unreadable[i] = pixels
                else:
                    write(i, pixels)
        np.save(unfinished / "keys.npy", rows["key"])
        about = {"version": IMAGES_VERSION, "unreadable": unreadable,
                 "keys": digest_of(rows["key"])}  # fmt: skip
        (unfinished / "about.json").write_text(json.dumps(about))

    return open_or_build(folder, opened, build)


def copy_known(keys: np.ndarray, old: Kept, write: Callable[[int, np.ndarray], None]) -> np.ndarray:
    """Write the images whose key is an old one. Returns the numbers of all others, and of those
    that could not be read, which may have had a passing reason."""
    old_images, old_unreadable, old_keys = old
    order = np.argsort(old_keys)
    at = np.searchsorted(old_keys, keys, sorter=order).clip(max=len(order) - 1)
    known = old_keys[order[at]] == keys
    known &= ~np.isin(order[at], list(old_unreadable))
    for i in np.flatnonzero(known):
        write(i, old_images[order[at[i]]])
    return np.flatnonzero(~known)


def open_or_build(
    folder: Path, opened: Callable[[], Content | None], build: Callable[[Path], None]
) -> Content:
    """What lies in a folder, built first if need be: `build` fills another one, which is renamed
    when it is whole. One process builds, others wait for it."""
    if found := opened():
        return found
    with locked(folder.with_name(folder.name + ".lock"), wait=True):
        if found := opened():
            return found
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        try:
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
            unfinished.mkdir(parents=True)
            build(unfinished)
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        except UserError:
            raise
        except OSError as error:
            raise UserError(f"the cache {folder} cannot be written: {error}; make room, or for "
                            "pictures, use --set cache=off") from error  # fmt: skip
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        if found := opened():
            return found
    raise UserError(f"the cache {folder} cannot be read back; remove it and try again")


def decode(collection: Collection, settings: Settings, i: int) -> np.ndarray | str:
    """The pixels (3, S, S) uint8 of record i, or why there are none."""
    record = collection.records[i]
    if collection.place is None:
        return paint(collection.draw, settings["image_size"], record)
    settings = settings.copy()
    box = record.box if settings.pop("crop_boxes") else None
    try:
        with collection.place.open(*span_of(record)) as file:
            if file.read(len(LFS)) == LFS:
                return POINTERS
            file.seek(0)
            return load_image(file, **settings, box=box).transpose(2, 0, 1)
    except NotUsable as error:
        return str(error)
    except Image.DecompressionBombError:
        return TOO_LARGE
    except MemoryError:
        raise
    except Exception:  # Pillow raises any kind: OSError, struct.error, SyntaxError, ...
        return UNREADABLE


def ignore_ctrl_c() -> None:
    """It is for the process that began this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def paint(draw: Callable[[Record, int], np.ndarray], size: int, record: Record) -> np.ndarray:
    """The pixels (3, S, S) uint8 of a record that is drawn."""
    return draw(record, size).transpose(2, 0, 1)


class Streamed:
    """Images that are decoded when they are asked for, by all cores."""

    def __init__(self, collection: Collection, settings: Settings):
        self.decode = partial(decode, collection, settings)
        self.process, self.threads = 0, None
        self.expected: list[int] = []
        self.coming: AsyncResult | None = None

    def __getstate__(self) -> dict:  # threads stay with their process
        return vars(self) | {"process": 0, "threads": None, "coming": None}

    def prefetch(self, numbers: list[int]) -> None:
        """Begin to decode what will be asked for next."""
        if self.process != os.getpid():  # threads do not survive a fork
            self.process, self.threads = os.getpid(), ThreadPool()
        self.expected, self.coming = numbers, self.threads.map_async(self.decode, numbers)

    def decoded(self, numbers: list[int]) -> list[np.ndarray | str]:
        """Of each its pixels (3, S, S) uint8, or why there are none."""
        if self.process != os.getpid() or self.coming is None or self.expected != numbers:
            self.prefetch(numbers)
        coming, self.coming = self.coming, None
        return coming.get()
