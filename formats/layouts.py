"""Which captions belong to which images? A reader for each layout that collections come in.

    imagefolder   metadata.jsonl, .csv or .parquet with file_name and text, in any folder
    sidecar       a .txt or .caption beside each image
    kohya         the same in folders called <repeats>_<words>, the words standing in for captions
    coco          annotations/captions_*.json, or Karpathy's json
    webdataset    tar shards of images and texts with the same key, as img2dataset writes them
    c10           CUB birds or Oxford flowers with text_c10/ (Reed) or text/ (AttnGAN, DF-GAN)
    table         one .csv, .tsv, .jsonl or .json with a path and a caption in each row
    names         names of folders or files, where --caption-from asks for it

All but webdataset may lie in a .zip.
"""

import multiprocessing
import pickletools
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from config import DataConfig, UserError
from formats.images import Box, is_image_name
from formats.places import MISSING, OUTSIDE, Folder, Place, Skipped, Zip
from formats.tars import NO_CAPTION, NO_IMAGE, read_shard
from formats.texts import (
    BROKEN,
    CAPTION_COLUMNS,
    NOT_UTF8,
    PATH_COLUMNS,
    caption_cell,
    clean_caption,
    is_text,
    lines_of,
    load_json,
    read_text,
    rows_of,
)

DAMAGED_BOXES = "bounding boxes that are damaged"
DAMAGED_LIST = "lists of test pictures that are damaged"
TARS = (".tar", ".tar.gz", ".tgz")  # the last two are to be unpacked before
FEW_SHARDS = 8  # up to so many are read by one process
METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
TEXT_SUFFIXES = (".txt", ".caption")  # of sidecars; the first is read where both are there
SPLITS = {"train": "train", "training": "train", "restval": "train", "test": "test",
          "testing": "test", "eval": "test", "evaluation": "test", "validation": "validation",
          "valid": "validation", "val": "validation", "dev": "validation"}  # fmt: skip
# What COCO's annotations and Karpathy's are called, where they lie at the top or in annotations/.
ANNOTATIONS = re.compile(r"((.*/)?annotations/(.*/)?)?(captions|dataset)_[^/]+\.json", re.I)
# How they usually begin.
IMAGES = re.compile(rb'\s*\{\s*("info"\s*:\s*\{[^{}]*\}\s*,\s*)?"images"\s*:\s*\[')
REPEATED = re.compile(r"([1-9]\d{0,2})_(\S.*)")  # kohya's name of a folder


class Record(NamedTuple):
    path: str  # of the image, relative to the root of the collection, with forward slashes
    captions: tuple[str, ...]  # at least one, none empty
    split: str | None = None  # train, validation, test, ...; None: decided by a hash of the path
    span: tuple[str, int, int] | None = None  # in a tar: which, its first byte there, how many
    box: Box | None = None  # around what the captions are about
    repeats: int = 1  # how often an epoch shows it


@dataclass
class Collection:
    """Captioned images, and where they lie; or, where `place` is None, what draws them."""

    name: str
    layout: str
    place: Place | None
    records: Sequence[Record]
    skipped: Skipped = field(default_factory=lambda: defaultdict(list))
    draw: Callable[[Record, int], np.ndarray] | None = None  # record, S -> (S, S, 3) uint8
    stamp: int = 0  # changes when what `draw` draws does

    def skipped_line(self) -> str:
        """What was left out and why, counted, with one example each; "nothing" if so."""
        line = "; ".join(f"{len(v):,} {k} (e.g. {v[0][:200]})" for k, v in self.skipped.items())
        return line.encode(errors="backslashreplace").decode() or "nothing"


@dataclass(frozen=True)
class Source:
    """Where a reader begins."""

    name: str  # of the collection
    layout: str
    place: Place  # of the images
    texts: Place  # of the captions; the same, but for --image-dir
    entry: str = ""  # the file that tells all, where there is one
    whole: bool = True  # all of the place belongs to it: an image that nothing names is counted
    caption_from: str = ""


def read_collection(source: Source) -> Collection:
    """Read what `find_source` found. Raises UserError where no image has a caption."""
    collection = READERS[source.layout](source)
    collection.records.sort(key=lambda record: record.path)
    for place in {id(p): p for p in (source.place, source.texts)}.values():
        for reason, found in place.skipped.items():
            collection.skipped[reason] += found
    if not collection.records:
        raise nothing_found(source, collection)
    return collection


def nothing_found(source: Source, collection: Collection) -> UserError:
    """What there is, why none of it is a captioned image, and what to do."""
    if source.layout == "table":
        return UserError(
            f"no captioned pictures in {source.texts.root / source.entry} (skipped: "
            f"{collection.skipped_line()}); a table needs a column with paths ("
            f"{', '.join(PATH_COLUMNS)}) and one with captions ({', '.join(CAPTION_COLUMNS)}); "
            "where the pictures lie elsewhere, --image-dir says where"
        )
    files = source.place.files
    seen = Counter(posixpath.splitext(name)[1].lower() or "no suffix" for name in files)
    what = ", ".join(f"{n:,} x {suffix}" for suffix, n in seen.most_common(5)) or "nothing"
    return UserError(
        f"no captioned pictures in {source.texts.root} ({source.layout}; it holds {what}; "
        f"skipped: {collection.skipped_line()}); put a "
        'metadata.jsonl with lines like {"file_name": "1.png", "text": "a red bird"} there, or '
        "a .txt with the same name beside each picture; or take names of folders or files as "
        "captions: --caption-from dirname or filename"
    )


def find_source(path: Path, config: DataConfig) -> Source:
    """Where images and captions lie, and in which layout.

    Raises UserError where there is nothing to read, or not in the layout of --format.
    """
    takes = ("--data takes a folder of captioned pictures, a .zip, .tar, .csv, .tsv, .jsonl or "
             ".json")  # fmt: skip
    if not path.exists():
        raise UserError(f"{path} does not exist; {takes}")
    name, suffix, entry = path.resolve().name, path.suffix.lower(), ""
    if path.is_dir():
        texts = Folder(path, config.follow_links)
    elif suffix == ".zip":
        texts = Zip(path)
    elif suffix in (".tar", *TABLE_SUFFIXES):
        parent = path.absolute().parent
        root = parent.parent if parent.name == "annotations" else parent
        texts = Folder(root, config.follow_links, listed=suffix != ".tar")
        entry = path.absolute().relative_to(root).as_posix()
    else:
        raise UserError(f"{path} is a file of a kind that cannot be read; {takes}")
    layout, found = detect(texts, entry, config)
    place = texts
    if config.image_dir:
        if layout not in ("coco", "table"):
            raise UserError(f"--image-dir is for tables and annotations; {path} is {layout}")
        if not Path(config.image_dir).is_dir():
            raise UserError(f"--image-dir {config.image_dir} is no folder")
        place = Folder(Path(config.image_dir), config.follow_links)
    whole = not entry and place is texts
    return Source(name, layout, place, texts, entry or found, whole, config.caption_from)


def detect(texts: Place, entry: str, config: DataConfig) -> tuple[str, str]:
    """(layout, the file that it begins with or ""). Raises UserError for two kinds of metadata."""
    images: list[str] = []
    names: list[str] = []  # of other files
    for name in [entry] if entry else texts.files:
        (images if is_image_name(name) else names).append(name)
    folders = {posixpath.dirname(n) for n in chain(images, names)}
    tops = {f.partition("/")[0] for f in folders}  # one of them: a zip of a folder
    base = f"{next(iter(tops))}/" if len(tops) == 1 else ""
    top = [n for n in names if n.lower().endswith(TABLE_SUFFIXES)
           and (entry or "/" not in n.removeprefix(base))]  # fmt: skip
    annotations = [n for n in names if is_coco(texts, n, bool(entry))]
    metadata = [n for n in names if posixpath.basename(n) in METADATA_NAMES]
    outer = {part for f in folders for part in f.split("/")[:2]}
    if config.format != "auto":
        layout = config.format
    elif config.caption_from:
        layout = "names"
    elif isinstance(texts, Folder) and any(n.lower().endswith(TARS) for n in names):
        layout = "webdataset"
    elif annotations:
        layout = "coco"
    elif metadata and not entry:
        layout = "imagefolder"
    elif "text_c10" in outer or ("text" in outer and outer & {"CUB_200_2011", "images", "jpg"}):
        layout = "c10"
    elif images and all(map(REPEATED.fullmatch, map(folder_name, images))):
        layout = "kohya"
    elif entry or (len(top) == 1 and not has_texts(images, names)):
        layout = "table"
    else:
        layout = "sidecar"
    if layout == "imagefolder" and len({posixpath.splitext(n)[1] for n in metadata}) > 1:
        kinds = " and ".join(sorted({posixpath.basename(n) for n in metadata}))
        raise UserError(f"{texts.root} holds {kinds}; keep one kind of them")
    if layout == "coco" and entry and not annotations:
        raise UserError(f"{entry} holds no list of images with their annotations")
    if layout == "table" and len(top) != 1:
        raise UserError(f"{texts.root} holds {len(top)} tables; name one of them with --data")
    return layout, top[0] if layout == "table" else ""


def has_texts(images: list[str], names: list[str]) -> bool:
    """Whether there are texts beside images."""
    stems = {posixpath.splitext(n)[0] for n in images}
    texts = (n for n in names if n.lower().endswith(TEXT_SUFFIXES))
    return any(posixpath.splitext(n)[0] in stems for n in texts)


# The readers


def read_imagefolder(source: Source) -> Collection:
    """Hugging Face imagefolder: metadata.jsonl, .csv or .parquet, in any folder.

    Columns: file_name, relative to the folder of the metadata file (or several: *_file_name,
    file_names, each of whose images gets the captions of the row); text, caption or prompt: a
    string or a list of strings; and, if there, split: train, validation, test or another name, of
    an image's first row; else a folder of such a name tells it. Rows of one image are put
    together. Cells stay text: a caption "007" or "None" is kept as it is.
    """
    gathered = Gathered(source)
    for metadata in source.texts.files:
        if posixpath.basename(metadata) not in METADATA_NAMES:
            continue
        folders = (posixpath.dirname(metadata),)
        for where, row in rows_of(source.texts, metadata, gathered.skip):
            names = [name for column, cell in row.items()
                     if re.fullmatch(r"(.+_)?file_names?", column)
                     for name in (cell if isinstance(cell, list) else [cell])]  # fmt: skip
            if "file_name" in row:
                names = [row["file_name"]]
            gathered.add_row(where, folders, names, caption_cell(row), row.get("split"))
    return gathered.collection()


def read_table(source: Source) -> Collection:
    """A .csv, .tsv, .jsonl or .json with a path (file_name, image, path, ...) and a caption (text,
    caption, prompt, or tags) in each row, and perhaps a split. A json is a list of rows, or an
    object {path: caption or row}, as kohya's fine-tuning takes. A .csv without a header line has
    two columns: path, caption. Paths are relative to the table, or to --image-dir.
    """
    gathered = Gathered(source)
    folders = (posixpath.dirname(source.entry), "") if source.place is source.texts else ("",)
    for where, row in rows_of(source.texts, source.entry, gathered.skip):
        names = [row[column] for column in PATH_COLUMNS if row.get(column)][:1]
        gathered.add_row(where, folders, names, caption_cell(row), row.get("split"))
    return gathered.collection()


def read_coco(source: Source) -> Collection:
    """COCO captions: annotations/captions_*.json, {"images": [{"id", "file_name"}], "annotations":
    [{"image_id", "caption"}]}; or Karpathy's {"images": [{"filepath", "filename", "split",
    "sentences": [{"raw"}]}]}. Images are looked for in <split><year>/, images/<split><year>/,
    images/ and the root. COCO's split is told by the name of the file.
    """
    gathered = Gathered(source)
    found = (name for name in source.texts.files if is_coco(source.texts, name, False))
    for name in [source.entry] if source.entry else found:
        data = load_json(source.texts, name)
        if not isinstance(data, dict) or not isinstance(data.get("images"), list):
            gathered.skip("annotations without a list of images", name)
            continue
        part = posixpath.splitext(posixpath.basename(name))[0].split("_")[-1]  # train2014
        split = SPLITS.get(part.rstrip("0123456789").lower())
        folders = (part, f"images/{part}", "images", "")
        known: dict[object, str] = {}
        for i, image in enumerate(data["images"]):
            where = f"{name}, images[{i}]"
            if not isinstance(image, dict):
                gathered.skip("entries that are no JSON objects", where)
                continue
            file_name = image.get("file_name") or image.get("filename")
            if isinstance(file_name, str) and isinstance(image.get("sentences"), list):
                below = image.get("filepath") if isinstance(image.get("filepath"), str) else ""
                texts = [s.get("raw") for s in image["sentences"] if isinstance(s, dict)]
                places = [f"{folder}/{below}".strip("/") for folder in ("", "images")]
                gathered.add_row(where, (*places, *folders), [file_name], texts, image.get("split"))
            elif isinstance(file_name, str) and isinstance(image.get("id"), (int, str)):
                if known.setdefault(image["id"], file_name) != file_name:
                    gathered.skip("images with the id of another", where)
            else:
                gathered.skip("images without id or file_name", where)
        undescribed = dict(known)
        annotations = data.get("annotations")
        for i, annotation in enumerate(annotations if isinstance(annotations, list) else []):
            where = f"{name}, annotations[{i}]"
            number = annotation.get("image_id") if isinstance(annotation, dict) else None
            if not isinstance(number, (int, str)) or number not in known:
                gathered.skip(NO_IMAGE, where)
                continue
            undescribed.pop(number, None)
            gathered.add_row(where, folders, [known[number]], annotation.get("caption"), split)
        if not source.whole:  # else counted below, with all that no annotation names
            for file_name in undescribed.values():
                gathered.skip(NO_CAPTION, file_name)
    return gathered.collection()


def read_sidecar(source: Source) -> Collection:
    """Images with a .txt or .caption of the same name beside them; each line of it that is not
    empty is a caption. A folder called train, validation or test tells the split.

    The same for kohya, whose folders are called <repeats>_<words>: an epoch shows their images so
    often, and the words are the caption of those that have no text beside them.
    """
    collection = Collection(source.name, source.layout, source.place, [])
    skipped = collection.skipped
    texts: dict[str, str] = {}  # path without suffix -> path of the text
    for suffix in TEXT_SUFFIXES:
        for name in source.place.files:
            stem, its_suffix = posixpath.splitext(name)
            if its_suffix.lower() == suffix and texts.setdefault(stem, name) != name:
                skipped["texts beside another of the same name"].append(name)
    used = set()
    for name in source.place.files:
        if not is_image_name(name):
            continue
        stem = posixpath.splitext(name)[0]
        of_folder = source.layout == "kohya" and REPEATED.fullmatch(folder_name(name))
        if stem in texts:
            used.add(stem)
            captions = lines_of(source.place, texts[stem], skipped)
        elif of_folder:
            captions = (clean_caption(of_folder[2]),)
        else:
            skipped["pictures without a .txt"].append(name)
            continue
        if captions:
            repeats = int(of_folder[1]) if of_folder else 1
            collection.records.append(Record(name, captions, split_of(name), repeats=repeats))
        elif captions is not None:
            skipped["pictures with an empty .txt"].append(name)
    for stem in sorted(texts.keys() - used):
        skipped[".txt without a picture"].append(texts[stem])
    return collection


def read_names(source: Source) -> Collection:
    """The caption is what the image or its folder is called: "001.Black_footed_Albatross" is
    "Black footed Albatross", "a_red-bird (2).png" is "a red bird"."""
    collection = Collection(source.name, f"{source.caption_from}s as captions", source.place, [])
    for name in filter(is_image_name, source.place.files):
        stem = posixpath.splitext(posixpath.basename(name))[0]
        words = folder_name(name) if source.caption_from == "dirname" else stem
        caption = clean_caption(re.sub(r"[_-]+", " ", words))
        caption = re.sub(r"^\d+[. ] *(?=\S)|(?<=\S)(?: +\d+| *\(\d+\))$", "", caption)
        if caption:
            collection.records.append(Record(name, (caption,), split_of(name)))
        else:
            collection.skipped["pictures whose name, or folder's name, says nothing"].append(name)
    return collection


def read_c10(source: Source) -> Collection:
    """CUB birds and Oxford flowers with ten captions an image: text_c10/<class>/<name>.txt (Reed
    et al. 2016) or text/<class>/<name>.txt (Xu et al. 2018, AttnGAN), and the images as their
    authors pack them: [CUB_200_2011/]images/<class>/<name>.jpg or jpg/<name>.jpg.

    Splits: testclasses.txt (Reed), else test/filenames.pickle (AttnGAN), of which only the names
    are read, nothing is unpickled. Bounding boxes: CUB_200_2011/bounding_boxes.txt.
    """
    place = source.place
    collection = Collection(source.name, source.layout, place, [])
    skipped = collection.skipped
    images = {}  # <class>/<name>, and <name> where there is one of it -> path
    for name in filter(is_image_name, place.files):
        parts = posixpath.splitext(name)[0].split("/")
        images.setdefault("/".join(parts[-2:]), name)
        images[parts[-1]] = None if parts[-1] in images else name
    test: set[str] = set()
    for name in place.files:
        if posixpath.basename(name) == "testclasses.txt":
            test.update(read_text(place, name).split())
        elif name.endswith("test/filenames.pickle"):
            test |= names_in_pickle(place, name, skipped)
    boxes = read_boxes(place, skipped)
    used = set()
    for name in place.files:
        parts = name.split("/")
        if parts[-1].endswith(".txt") and len(parts) > 1 and {"text", "text_c10"} & set(parts[:-1]):
            stem = parts[-1][: -len(".txt")]
            key = f"{parts[-2]}/{stem}"
            path = images.get(key) or images.get(stem)
            if path is None:
                skipped[NO_IMAGE].append(name)
                continue
            captions = lines_of(place, name, skipped)
            if captions == ():
                skipped["pictures with an empty .txt"].append(name)
            elif captions and path in used:
                skipped["texts beside another of the same name"].append(name)
            elif captions:
                split = ("test" if test & {key, stem, parts[-2]} else "train") if test else None
                collection.records.append(Record(path, captions, split, box=boxes.get(key)))
            used.add(path)
    for name in filter(is_image_name, place.files):
        if name not in used:
            skipped[NO_CAPTION].append(name)
    return collection


def names_in_pickle(place: Place, name: str, skipped: Skipped) -> set[str]:
    """The strings in a pickle, read as text: nothing in it is run. Up to where it is damaged."""
    names = set()
    try:
        with place.open(name) as file:
            for _, argument, _ in pickletools.genops(file.read()):
                if isinstance(argument, str):
                    names.add(argument)
    except Exception as error:  # bytes that are no pickle
        skipped[DAMAGED_LIST].append(f"{name} ({error})")
    return names


def read_boxes(place: Place, skipped: Skipped) -> dict[str, Box]:
    """<class>/<name> -> bounding box, of CUB's images.txt and bounding_boxes.txt."""
    boxes: dict[str, Box] = {}
    for name in place.files:
        if posixpath.basename(name) != "bounding_boxes.txt":
            continue
        names = posixpath.join(posixpath.dirname(name), "images.txt")
        lines = read_text(place, names).splitlines() if names in place.files else []
        of = dict(line.split() for line in lines if len(line.split()) == 2)
        for i, line in enumerate(read_text(place, name).splitlines(), start=1):
            try:
                number, x, y, width, height = line.split()
                path = posixpath.splitext(of.get(number, ""))[0]
                boxes[path] = (float(x), float(y), float(width), float(height))
            except ValueError:
                skipped[DAMAGED_BOXES].append(f"{name}, line {i}")
    return boxes


def read_webdataset(source: Source) -> Collection:
    """Tar shards, in which consecutive files with one key (the path up to the first dot of its last
    part) are a sample: an image (jpg, png, webp, ...), its caption (txt, cap, caption, text), or a
    json with "captions" or "caption". They are read in place. A folder or a word of a shard's name
    (train-00000.tar) tells the split.
    """
    collection = Collection(source.name, source.layout, source.place, [])
    shards = [source.entry] if source.entry else [
        name for name in source.place.files if name.lower().endswith(".tar")
    ]  # fmt: skip
    for name in source.place.files:
        if name.lower().endswith(TARS[1:]):
            collection.skipped["packed tars, which are to be unpacked to .tar first"].append(name)
    paths = [source.place.root / shard for shard in shards]
    # Python reads some 20,000 headers a second on each core.
    with nullcontext() if len(shards) <= FEW_SHARDS else multiprocessing.Pool() as processes:
        found = processes.imap(read_shard, paths) if processes else map(read_shard, paths)
        for shard, (samples, skipped) in zip(shards, found, strict=True):
            folder, _, name = shard.rpartition("/")
            split = split_of(f"{folder}/{re.sub('[-._ 0-9]+', '/', name)}/")
            for path, captions, *span in samples:
                record = Record(f"{shard}/{path}", captions, split, (shard, *span))
                collection.records.append(record)
            for reason, names in skipped.items():
                collection.skipped[reason] += [f"{shard}/{name}" for name in names]
    return collection


READERS: dict[str, Callable[[Source], Collection]] = {
    "imagefolder": read_imagefolder, "sidecar": read_sidecar, "kohya": read_sidecar,
    "coco": read_coco, "webdataset": read_webdataset, "c10": read_c10, "table": read_table,
    "names": read_names,
}  # fmt: skip


def read_pairs(pairs: Iterable[tuple[str | Path, str | Sequence[str]]]) -> Collection:
    """A Python list of (image path, caption or captions)."""
    collection = Collection("pairs", "list", Folder(Path(), listed=False), [])
    for path, captions in pairs:
        texts = [captions] if isinstance(captions, str) else captions
        found = tuple(t for t in map(clean_caption, texts) if t)
        if not Path(path).is_file():
            collection.skipped[MISSING].append(str(path))
        elif not found:
            collection.skipped[NO_CAPTION].append(str(path))
        else:
            collection.records.append(Record(Path(path).as_posix(), found))
    return collection


# Rows


class Gathered:
    """Captions put together by image, as rows come in; whatever cannot be used is counted."""

    def __init__(self, source: Source):
        self.source = source
        self.captions: dict[str, tuple[str, ...]] = {}
        self.splits: dict[str, str] = {}  # as a column tells
        self.skipped: Skipped = defaultdict(list)

    def skip(self, reason: str, where: str) -> None:
        self.skipped[reason].append(where)

    def add_row(
        self, where: str, folders: tuple[str, ...], names: list, cell: object, split: object
    ) -> None:
        """The images `names`, seen from the first of `folders` that has them, get the captions in
        `cell`, a string or a list."""
        texts = cell if isinstance(cell, list) else [cell]
        texts, names = [*filter(is_text, texts)], [name for name in names if is_text(name) and name]
        if any(map(BROKEN.search, (*texts, *names))):
            return self.skip(NOT_UTF8, where)
        found = [text for text in map(clean_caption, texts) if text]
        if not names:
            return self.skip("rows without file_name", where)
        if not found:
            return self.skip("rows without a caption", where)
        paths = []
        for name in names:
            looked = [self.source.place.find(f, name) for f in folders]
            path, reason = next((found for found in looked if found[0]), looked[0])
            if path:
                paths.append(path)
            else:
                self.skipped[reason].append(where if reason == OUTSIDE else f"{name} ({where})")
        split = clean_caption(split).lower()
        for path in paths:
            self.captions[path] = (*self.captions.get(path, ()), *found)
            if path not in self.splits and split:
                self.splits[path] = SPLITS.get(split, split)

    def collection(self) -> Collection:
        """All of them, and the images that no row names counted."""
        records: list[Record] = []
        source = self.source
        # The names of the place come first, and what is taken over is removed: two lists of
        # millions, or their paths twice, would fill the memory.
        for path in chain(source.place.files, list(self.captions.keys() - source.place.files)):
            captions = self.captions.pop(path, ())
            if captions:
                split = self.splits.get(path) or split_of(path)
                records.append(Record(path, captions, split))
            elif source.whole and is_image_name(path):
                self.skipped[NO_CAPTION].append(path)
        return Collection(source.name, source.layout, source.place, records, self.skipped)


def is_coco(place: Place, name: str, asked: bool) -> bool:
    """Whether it is a json, asked for or called like annotations, with a list of images. It may be
    large: where its beginning tells, the rest is not read."""
    if not (name.lower().endswith(".json") if asked else ANNOTATIONS.fullmatch(name)):
        return False
    try:
        with place.open(name) as file:
            if IMAGES.match(file.read(4096)):
                return True
        data = load_json(place, name)
    except (UserError, OSError):
        return False
    return isinstance(data, dict) and isinstance(data.get("images"), list)


def folder_name(path: str) -> str:
    """What the folder of a file is called; "" for the root."""
    return posixpath.basename(posixpath.dirname(path))


def split_of(path: str) -> str | None:
    """The split that a file is of, as the names of its folders tell, the outermost first."""
    folders = path.lower().split("/")[:-1]
    return next((SPLITS[folder] for folder in folders if folder in SPLITS), None)
