"""Where are the pictures and captions, and how is any of them read? A reader for each layout."""

import csv
import io
import json
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from command_line import UserError

PICTURE_SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm",
    ".pgm", ".tga", ".avif",
}  # fmt: skip
CAPTION_COLUMNS = ("text", "caption", "prompt")
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test",
          "validation": "validation", "valid": "validation", "val": "validation",
          "dev": "validation"}  # fmt: skip
METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
RESIZE_FILTERS = {"lanczos": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST}
FITS = ("crop", "pad")


@dataclass(frozen=True)
class Record:
    path: str  # of the picture, relative to the root of the collection, with forward slashes
    captions: tuple[str, ...]  # at least one, none empty
    split: str | None = None  # train, validation, test, ...; None: decided by a hash of the path


@dataclass
class Collection:
    name: str
    layout: str
    root: Path | None  # None: the paths of the records are complete
    records: list[Record]
    skipped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    # reason -> what was skipped for it

    def skipped_line(self) -> str:
        """What was left out and why, counted, with one example each; "nothing" if so."""
        line = "; ".join(f"{len(v)} {k} (e.g. {v[0]})" for k, v in self.skipped.items())
        return line.encode(errors="backslashreplace").decode() or "nothing"


def find_collection(path: str | Path) -> Collection:
    """Find out which layout lies at `path` and read it. Raises UserError where none is found."""
    root = Path(path)
    if not root.exists():
        raise UserError(f"{root} does not exist; --data takes a folder of captioned pictures")
    if not root.is_dir():
        raise UserError(f"{root} is a file; --data takes a folder of captioned pictures")
    read = read_imagefolder if _metadata_files(root) else read_sidecar
    collection = read(root)
    if not collection.records:
        seen = Counter(p.suffix.lower() or "no suffix" for p in _walk(root))
        what = ", ".join(f"{n} x {suffix}" for suffix, n in seen.most_common(5)) or "nothing"
        raise UserError(
            f"no captioned pictures in {root} (it holds {what}; skipped: "
            f"{collection.skipped_line()}); put a "
            'metadata.jsonl with lines like {"file_name": "1.png", "text": "a red bird"} there, or '
            "a .txt with the same name beside each picture"
        )
    return collection


def read_imagefolder(root: Path) -> Collection:
    """Hugging Face imagefolder: metadata.jsonl or metadata.csv, in the folder or one level down.

    Columns: file_name, relative to the folder of the metadata file; text, caption or prompt: a
    string or (jsonl) a list of strings; and, if there, split: train, validation, test or another
    name, of a picture's first row; else a folder of such a name tells it. Rows of one file are put
    together. Cells stay text: a caption "007" or "None" is kept as it is.
    """
    collection = Collection(root.resolve().name, "imagefolder", root, [])
    captions: dict[str, list[str]] = {}
    splits: dict[str, str | None] = {}
    for metadata in _metadata_files(root):
        folder = PurePosixPath(metadata.parent.relative_to(root).as_posix())
        for line, row in _rows(metadata):
            where = f"{metadata.relative_to(root)}, line {line}"
            name = row.get("file_name")
            text = next((row[c] for c in CAPTION_COLUMNS if row.get(c)), None)
            if not isinstance(name, str) or not name:
                collection.skipped["rows without file_name"].append(where)
                continue
            path = (folder / name.replace("\\", "/")).as_posix()
            texts = text if isinstance(text, list) else [text]
            found = [t for t in map(clean_caption, texts) if t]
            if not is_inside(root, path):
                collection.skipped["paths that leave the folder"].append(where)
            elif not os.path.isfile(root / path):  # Path.is_file raises for too long names
                collection.skipped["pictures missing"].append(f"{name} ({where})")
            elif not found:
                collection.skipped["rows without a caption"].append(where)
            else:
                captions.setdefault(path, []).extend(found)
                told = clean_caption(row.get("split")).lower()
                of_folder = SPLITS.get(folder.name.lower())
                splits.setdefault(path, SPLITS.get(told, told) or of_folder)
    collection.records = [
        Record(path, tuple(captions[path]), splits[path]) for path in sorted(captions)
    ]
    return collection


def read_sidecar(root: Path) -> Collection:
    """Pictures with a .txt of the same name beside them; each line of it that is not empty is a
    caption."""
    collection = Collection(root.resolve().name, "sidecar", root, [])
    files = {p.relative_to(root).as_posix(): p for p in _walk(root)}
    texts = {str(PurePosixPath(n).with_suffix("")): n for n, p in files.items()
             if p.suffix.lower() == ".txt"}  # fmt: skip
    used = set()
    for name, path in files.items():
        if path.suffix.lower() not in PICTURE_SUFFIXES:
            continue
        stem = str(PurePosixPath(name).with_suffix(""))
        if stem not in texts:
            collection.skipped["pictures without a .txt"].append(name)
            continue
        used.add(stem)
        if not (is_inside(root, name) and is_inside(root, texts[stem])):
            collection.skipped["links that leave the folder"].append(name)
            continue
        if not (os.path.isfile(path) and os.path.isfile(files[texts[stem]])):
            collection.skipped["links that lead nowhere"].append(name)
            continue
        lines = map(clean_caption, read_text(files[texts[stem]]).splitlines())
        captions = tuple(line for line in lines if line)
        if captions:
            collection.records.append(Record(name, captions))
        else:
            collection.skipped["pictures with an empty .txt"].append(name)
    for stem in sorted(texts.keys() - used):
        collection.skipped[".txt without a picture"].append(texts[stem])
    return collection


def read_pairs(pairs: Iterable[tuple[str | Path, str | Sequence[str]]]) -> Collection:
    """A Python list of (picture path, caption or captions)."""
    collection = Collection("pairs", "list", None, [])
    for path, captions in pairs:
        texts = [captions] if isinstance(captions, str) else captions
        found = tuple(t for t in map(clean_caption, texts) if t)
        if not Path(path).is_file():
            collection.skipped["pictures missing"].append(str(path))
        elif not found:
            collection.skipped["pictures without a caption"].append(str(path))
        else:
            collection.records.append(Record(Path(path).as_posix(), found))
    return collection


def load_picture(
    path: str | Path, image_size: int, resize: str = "lanczos", fit: str = "crop"
) -> np.ndarray:
    """Decode any picture to RGB: (S, S, 3) uint8.

    EXIF orientation applied, transparency over white, 16 bits and floats scaled to 8, first frame
    of animations, cut to its central square or padded with white. Raises what Pillow raises for a
    file that is not a picture: OSError, ValueError, SyntaxError and others.
    """
    picture = Image.open(path)
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.float64)
        # 16 bits -> 8; floats are 0..1 unless they say otherwise
        scale = 255 / 65535 if picture.mode != "F" else 255 if values.max() <= 1 else 1
        picture = Image.fromarray(np.clip(values * scale + 0.5, 0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    picture = picture.convert("RGB")
    square, resample = (image_size, image_size), RESIZE_FILTERS[resize]
    if fit == "crop":
        return np.asarray(ImageOps.fit(picture, square, resample))
    scale = image_size / max(picture.size)
    width, height = (max(1, round(scale * side)) for side in picture.size)
    padded = Image.new("RGB", square, "white")
    corner = (round((image_size - width) / 2), round((image_size - height) / 2))
    padded.paste(picture.resize((width, height), resample), corner)
    return np.asarray(padded)


def clean_caption(text: object) -> str:
    """NFC, without control characters, white space folded; "" for what is not text."""
    if not isinstance(text, str):
        return ""
    text = text.encode(errors="ignore").decode()  # without halves of an emoji
    text = unicodedata.normalize("NFC", text.replace("\0", " ").replace("\ufeff", ""))
    return " ".join(text.split())


def is_inside(root: Path, path: str) -> bool:
    """Whether the relative `path`, links followed, stays below root."""
    if PurePosixPath(path).is_absolute() or ":" in path.split("/")[0] or ".." in path.split("/"):
        return False
    try:
        return Path(os.path.realpath(root / path)).is_relative_to(os.path.realpath(root))
    except ValueError:  # no name of a file: it holds a 0 byte or half a character
        return False


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, byte order mark removed. Raises UserError naming the line."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from None


def _metadata_files(root: Path) -> list[Path]:
    files = [p for name in METADATA_NAMES for p in (root / name, *sorted(root.glob(f"*/{name}")))]
    files = [
        p for p in files if p.is_file() and (p.parent == root or not _is_litter(p.parent.name))
    ]
    if len({p.suffix for p in files}) > 1:
        raise UserError(f"{root} holds both metadata.jsonl and metadata.csv; keep one of them")
    return files


def _rows(metadata: Path) -> Iterator[tuple[int, dict]]:
    """(line number, row) of a metadata file. Raises UserError on a line that cannot be read."""
    text = read_text(metadata)
    if metadata.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise UserError(f"{metadata}, line {reader.line_num}: {error}") from None
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{metadata}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f'{metadata}, line {number}: not an object like {{"file_name": ...}}')
        yield number, row


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db")


def _walk(root: Path) -> Iterator[Path]:
    """All files below root in a fixed order, without the litter of operating systems."""
    for folder, names, files in os.walk(root):
        names[:] = sorted(n for n in names if not _is_litter(n))
        for name in sorted(files):
            if not _is_litter(name):
                yield Path(folder, name)
