"""How does a collection become one of another layout? Read back, it gives the same records.

    jsonl      Hugging Face imagefolder: images and a metadata.jsonl
    sidecar    images with a .txt beside each
    tar        webdataset shards

Images, captions and splits are kept; how often kohya's folders are repeated, and bounding boxes,
are not, which is said.
"""

import io
import json
import posixpath
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from config import RESULTS, CheckConfig, UserError
from formats.cache import decode, open_index, span_of
from formats.images import is_image_name, open_image
from formats.layouts import SPLITS, Collection, Record, split_of
from formats.places import join

SHARD = 10_000  # samples, as img2dataset does
Sample = tuple[str, bytes, Record]  # path to write to; bytes of the image


def export_collection(config: CheckConfig) -> None:
    """Write the collection in the layout of --export; nothing is left where that fails."""
    out = Path(config.out)
    unfinished = out.with_name(f"{out.name}.unfinished")
    if out.exists() or unfinished.exists():
        raise UserError(f"{out if out.exists() else unfinished} exists already; remove it, or "
                        "choose another name")  # fmt: skip
    collection, rows, names = open_index(Path(config.data), config, RESULTS / "cache")
    unknown = set(names) - {"", *SPLITS.values()}
    if unknown and config.export != "jsonl":
        raise UserError(f"{config.export} cannot tell the splits {', '.join(sorted(unknown))}; use "
                        "--export jsonl")  # fmt: skip
    settings = config.decoding(config.image_size) if config.resized else None
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}") from error
    try:
        num = WRITERS[config.export](unfinished, read(collection, settings, config.export))
        unfinished.rename(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    print(f"{num:,} pictures in {out} ({config.export})")
    if config.export == "tar" and "validation" not in names:
        print("no picture is told to be for validation: from the shards, others will be drawn for "
              "it than from here, since that depends on their names")  # fmt: skip
    if collection.skipped:
        print(f"left out: {collection.skipped_line()}")
    if (rows["repeats"] > 1).any():
        print("left out: how often folders are repeated")
    if not config.resized and any(record.box for record in collection.records):
        print("left out: bounding boxes; --crop-boxes --resized exports what they surround")


def read(collection: Collection, settings: dict | None, kind: str) -> Iterator[Sample]:
    """The images as they are, or, with settings, as training sees them; no two paths are the
    same, whatever their suffix."""
    used = set()
    for i, record in enumerate(tqdm(collection.records, "exporting", unit="img", disable=None)):
        path = record.path.removeprefix(f"{record.span[0]}/" if record.span else "")  # of its tar
        path = path.encode(errors="surrogateescape").decode(errors="replace")
        stem, suffix = posixpath.splitext(path)
        if settings is None:
            try:
                with collection.place.open(*span_of(record)) as file:
                    data = file.read()
                image = open_image(io.BytesIO(data))
                image.load()  # what is broken is not handed on
            except Exception as error:  # of the disk, the zip, or Pillow, which raises any kind
                reason = "pictures that cannot be read"
                collection.skipped[reason].append(f"{record.path} ({error})")
                continue
            if not is_image_name("x" + suffix):  # in tars some are called .img
                suffix = f".{image.format.lower()}"
        else:
            pixels, suffix = decode(collection, settings, i), ".png"
            if isinstance(pixels, str):
                collection.skipped[pixels].append(record.path)
                continue
            file = io.BytesIO()
            Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "PNG")
            data = file.getvalue()
        stem = with_split(stem, record.split, kind)
        path, number = stem, 2
        while path.lower() in used:
            path, number = f"{stem}_{number}", number + 1
        used.add(path.lower())
        yield path + suffix, data, record


def with_split(stem: str, split: str | None, kind: str) -> str:
    """A path that tells this split by its folders, or, where metadata tell it, none by mistake."""
    if split and kind == "sidecar" and split != split_of(stem):
        return f"{split}/{stem}"
    if not split and split_of(stem):
        *folders, name = stem.split("/")
        return "/".join([*(f"{f}_" if split_of(f"{f}/") else f for f in folders), name])
    return stem


def write_jsonl(out: Path, samples: Iterator[Sample]) -> int:
    num = 0
    with open(out / "metadata.jsonl", "w", encoding="utf-8") as file:
        for path, data, record in samples:
            write(out, path, data)
            split = {"split": record.split} if record.split else {}
            row = {"file_name": path, "text": list(record.captions)} | split
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            num += 1
    return num


def write_sidecar(out: Path, samples: Iterator[Sample]) -> int:
    num = 0
    for path, data, record in samples:
        write(out, path, data)
        text = "".join(f"{caption}\n" for caption in record.captions)
        write(out, posixpath.splitext(path)[0] + ".txt", text.encode())
        num += 1
    return num


def write_tar(out: Path, samples: Iterator[Sample]) -> int:
    shards: dict[str, tuple[tarfile.TarFile, int]] = {}  # split -> open shard, samples so far
    try:
        for path, data, record in samples:
            split = record.split or ""
            archive, num = shards.get(split, (None, 0))
            if num % SHARD == 0:
                if archive:
                    archive.close()
                name = f"{split}-{num // SHARD:05d}.tar".lstrip("-")
                archive = tarfile.open(out / name, "w")  # noqa: SIM115 (closed below)
            shards[split] = (archive, num + 1)
            about = {"caption": record.captions[0], "captions": list(record.captions)}
            for suffix, content in {
                posixpath.splitext(path)[1].lower(): data,
                ".txt": record.captions[0].encode(),
                ".json": json.dumps(about).encode(),
            }.items():
                member = tarfile.TarInfo(f"{num:09d}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    finally:
        for archive, _ in shards.values():
            archive.close()
    return sum(num for _, num in shards.values())


WRITERS: dict[str, Callable[[Path, Iterator[Sample]], int]] = {
    "jsonl": write_jsonl, "sidecar": write_sidecar, "tar": write_tar,
}  # fmt: skip


def write(out: Path, path: str, data: bytes) -> None:
    """A file below out; raises OSError where the path leads elsewhere."""
    if join("", path) != path:
        raise OSError(f"{path} leads out of {out}")
    (out / path).parent.mkdir(parents=True, exist_ok=True)
    (out / path).write_bytes(data)
