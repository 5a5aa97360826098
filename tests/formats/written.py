"""Collections that the tests of formats/ write in any layout, and what is read of them."""

import csv
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import SIZE, pixels

from config import DataConfig, UserError
from formats.detect import find_source, read_collection
from formats.layouts import Collection, Record

OLD = 1_000_000_000  # seconds; files changed just now are looked at twice, which costs time
Files = str | dict[str, str | bytes | list | dict]  # name of an image, or name -> content


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def noise(seed: int = 0, size: int = SIZE) -> np.ndarray:
    """(S, S, 3) uint8."""
    return pixels(size, size, 3, seed=seed)


PNG = png(noise())


def contents(*files: Files) -> Iterable[tuple[str, bytes]]:
    """(name, bytes) of each. Lists and objects become JSON; in a .jsonl, each row of a list has a
    line, and rows that are text stay as they are."""
    for group in files:
        for name, content in ({group: PNG} if isinstance(group, str) else group).items():
            if isinstance(content, list) and name.lower().endswith(".jsonl"):
                rows = [row if isinstance(row, str) else json.dumps(row) for row in content]
                content = "".join(f"{row}\n" for row in rows)
            elif isinstance(content, (list, dict)):
                content = json.dumps(content)
            yield name, content.encode() if isinstance(content, str) else content


def csv_of(rows: Iterable[tuple[str, str]], delimiter: str = ",") -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows([("file_name", "text"), *rows])
    return file.getvalue()


def coco(names: dict[int, str], *captions: tuple[int, str]) -> dict:
    """COCO's annotations: id -> file_name, and (id of an image, caption)."""
    images = [{"id": i, "file_name": name, "height": SIZE} for i, name in names.items()]
    annotations = [{"id": n, "image_id": i, "caption": c} for n, (i, c) in enumerate(captions)]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations}


def tar_of(*files: Files) -> bytes:
    """Members in this order; a name may come twice."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in contents(*files):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def zip_of(*files: Files, method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents(*files):  # ZipInfo: without the time of day
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return file.getvalue()


def write(root: Path, *files: Files) -> Path:
    """Images and other files, from long ago: write(root, "a.png", {"a.txt": "a red bird"})."""
    root.mkdir(parents=True, exist_ok=True)
    for name, content in contents(*files):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (OLD, OLD))
    return root


def write_tar(path: Path, *files: Files) -> Path:
    return write(path.parent, {path.name: tar_of(*files)}) / path.name


def write_zip(path: Path, *files: Files) -> Path:
    return write(path.parent, {path.name: zip_of(*files)}) / path.name


def link(root: Path, name: str, target: Path | str) -> None:
    """A symbolic link, or no test where the system has none."""
    try:
        os.symlink(target, root / name)
    except OSError:
        pytest.skip("this system cannot make links")


def record(path: str, *captions: str, **others) -> Record:
    return Record(path, captions, **others)


def find_collection(path: Path | str, **options) -> Collection:
    return read_collection(find_source(Path(path), DataConfig(**options)))


def expect(
    path: Path | str,
    records: list[Record] | dict[str, str | tuple[str, ...]],
    skipped: dict[str, int | list[str]] | None = None,
    layout: str = "",
    **options,
) -> Collection:
    """The collection at `path`, of which these are all records (path -> caption or captions, where
    they tell no more), and all that is skipped: reason -> what, or how many."""
    found, skipped = find_collection(path, **options), skipped or {}
    if isinstance(records, dict):
        records = [record(p, *([c] if isinstance(c, str) else c)) for p, c in records.items()]
    assert [r._replace(span=None) for r in found.records] == records
    numbers = {reason for reason, what in skipped.items() if isinstance(what, int)}
    assert {k: len(v) if k in numbers else v for k, v in found.skipped.items()} == skipped
    assert layout in ("", found.layout)
    return found


def refused(path: Path | str, match: str, **options) -> None:
    with pytest.raises(UserError, match=match):
        find_collection(path, **options)


def splits_of(path: Path) -> dict[str, str | None]:
    return {found.path: found.split for found in find_collection(path).records}
