"""How does a collection become one of another layout? Read back, it gives the same records.

jsonl      Hugging Face imagefolder: pictures and a metadata.jsonl
sidecar    pictures with a .txt beside each
tar        webdataset shards
"""

import io
import json
import posixpath
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from tqdm import tqdm

from cache import decode, open_index, span_of
from command_line import UserError
from layouts import SPLITS, Collection, Record, split_of_folders

if TYPE_CHECKING:
    from check import CheckConfig

SHARD = 10_000  # samples, as img2dataset does


def main(config: "CheckConfig") -> None:
    """Write the collection in the layout of --export; nothing is left where that fails."""
    out = Path(config.out)
    if out.exists():
        raise UserError(f"{out} exists already; remove it, or choose another name")
    collection, *_ = open_index(Path(config.data), config, Path("results/cache"))
    names = {r.split for r in collection.records if r.split} - set(SPLITS.values())
    if names and config.export != "jsonl":
        raise UserError(f"{config.export} cannot tell the splits {', '.join(sorted(names))}; use "
                        "--export jsonl")  # fmt: skip
    settings = {"image_size": config.image_size, "resize": config.resize, "fit": config.fit,
                "max_megapixels": config.max_megapixels,
                "crop_boxes": config.crop_boxes}  # fmt: skip
    bar = tqdm(collection.records, "exporting", unit="img")
    samples = read(collection, bar, settings if config.resized else None)
    unfinished = out.with_name(f"{out.name}.unfinished")
    try:
        unfinished.mkdir(parents=True)
        WRITERS[config.export](unfinished, samples)
        unfinished.rename(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    skipped = sum(map(len, collection.skipped.values()))
    told = f"; {skipped:,} were left out: {collection.skipped_line()}" if skipped else ""
    print(f"{bar.n:,} pictures in {out} ({config.export}){told}")


Sample = tuple[str, bytes, Record]  # path to write to, with the right suffix; bytes of the picture


def read(collection: Collection, records, settings: dict | None) -> Iterator[Sample]:
    """The pictures as they are, or, with settings, as training sees them; no two paths without
    their suffix are the same."""
    used = set()
    for i, record in enumerate(records):
        path = re.sub(r"\.tar/", "/", record.path)
        if collection.place is not None and posixpath.isabs(path):
            path = path.lstrip("/")
        stem, suffix = posixpath.splitext(path)
        if settings is None:
            with collection.place.open(*span_of(record)) as file:
                data = file.read()
        else:
            pixels = decode(collection, settings, i)
            if isinstance(pixels, str):
                collection.skipped[pixels].append(record.path)
                continue
            picture, suffix = io.BytesIO(), ".png"
            Image.fromarray(pixels.transpose(1, 2, 0)).save(picture, "PNG")
            data = picture.getvalue()
        number = 2
        while stem.lower() in used:
            stem, number = f"{posixpath.splitext(path)[0]}_{number}", number + 1
        used.add(stem.lower())
        yield stem + suffix, data, record


def write_jsonl(out: Path, samples: Iterator[Sample]) -> None:
    with open(out / "metadata.jsonl", "w", encoding="utf-8") as file:
        for path, data, record in samples:
            write(out / path, data)
            split = {"split": record.split} if record.split else {}
            row = {"file_name": path, "text": list(record.captions)} | split
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_sidecar(out: Path, samples: Iterator[Sample]) -> None:
    for path, data, record in samples:
        if record.split and record.split != split_of_folders(posixpath.dirname(path)):
            path = f"{record.split}/{path}"
        write(out / path, data)
        text = "".join(f"{caption}\n" for caption in record.captions)
        write((out / path).with_suffix(".txt"), text.encode())


def write_tar(out: Path, samples: Iterator[Sample]) -> None:
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


WRITERS: dict[str, Callable[[Path, Iterator[Sample]], None]] = {
    "jsonl": write_jsonl, "sidecar": write_sidecar, "tar": write_tar,
}  # fmt: skip


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
