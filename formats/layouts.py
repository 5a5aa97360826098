"""Which captions belong to which images? A reader for each layout that collections come in.

    imagefolder   metadata.jsonl, .csv or .parquet with file_name and text, in any folder
    sidecar       a .txt, .caption or .json beside each image, or in a folder of its own (CUB)
    kohya         the same in folders called <repeats>_<words>, the words standing in for captions
    coco          annotations/captions_*.json, or Karpathy's json
    webdataset    tar shards of images and texts with the same key, as img2dataset writes them
    table         a .csv, .tsv, .jsonl or .json with a path and a caption in each row
    names         names of folders or files, where --caption-from asks for it

All but webdataset may lie in a .zip.
"""

import multiprocessing
import pickletools
import posixpath
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from config import UserError
from formats.images import IMAGE_SUFFIXES, Box, is_image_name
from formats.places import MISSING, SPLITS, Folder, Place, Skipped, folded, split_of, stem_of
from formats.tars import NO_CAPTION, NO_IMAGE, read_shard
from formats.texts import (
    BROKEN,
    NOT_UTF8,
    NUMBERED,
    PATH_COLUMNS,
    caption_cell,
    cell_in,
    clean_caption,
    head,
    is_text,
    load_json,
    read_text,
    rows_of,
    texts_of,
)

ALONE = ".txt without a picture"
SHARED = "texts beside another of the same name"
# Texts about a collection, and those of CUB.
NO_TEXTS = re.compile(
    r"(.*/)?(\w*classes|images|bounding_boxes|\w+_labels|\w+_split|read.?me|licen[cs]es?|copying|"
    r"credits|notice|requirements)\.txt", re.I
)  # fmt: skip
AMBIGUOUS = "pictures that several names may mean, or names that several pictures have"
DAMAGED_BOXES = "bounding boxes that are damaged"
DAMAGED_LIST = "lists of test pictures that are damaged"
PACKED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".7z", ".rar")  # to be unpacked before
FEW_SHARDS = 8  # up to so many are read by one process
METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
TEXT_SUFFIXES = (".txt", ".caption", ".json")  # of sidecars; the first that is there is read
LISTS = tuple(f"{split}.txt" for split in SPLITS)  # of names
# What COCO's annotations and Karpathy's are called where they do not lie at the top.
ANNOTATIONS = re.compile(r"(.*/)?(annotations/(.*/)?(captions|dataset)_.+|.+\.coco)\.json", re.I)
# How they usually begin.
IMAGES = re.compile(rb'\s*\{\s*("info"\s*:\s*\{[^{}]*\}\s*,\s*)?"images"\s*:\s*\[')
FILE_NAMES = re.compile(r"(.+_)?file_names?")  # columns of images, where there are several
EXACT = sys.maxsize
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
    also: list[str] = field(default_factory=list)  # what else is there, and what to type for it
    num_written: int | None = None  # records whose captions somebody wrote; None: all
    blank: set[str] = field(default_factory=set)  # images that rows name, but give no caption

    def skipped_line(self) -> str:
        """What was left out and why, counted, with one example each; "nothing" if so."""
        line = "; ".join(f"{len(v):,} {k} (e.g. {v[0][:200]})" for k, v in self.skipped.items())
        return line.encode(errors="backslashreplace").decode() or "nothing"


@dataclass(frozen=True)
class Source:
    """Where a reader begins."""

    name: str  # of the collection
    layout: str  # auto: not known yet
    place: Place  # of the images
    texts: Place  # of the captions; the same, but for --image-dir
    entries: tuple[str, ...] = ()  # the files that tell all, where there are such
    whole: bool = True  # all of the place belongs to it: an image that nothing names is counted
    caption_from: str = ""
    image_column: str = ""
    caption_column: str = ""


# The readers


def read_rows(source: Source) -> Collection:
    """Metadata of Hugging Face's imagefolder, and tables: a path and a caption in each row.

    Columns: those that --image-column and --caption-column name; else PATH_COLUMNS, of which the
    first is taken, or several *_file_name or lists of them,
    each of whose images gets the captions; CAPTION_COLUMNS: a string or a list of strings; tags;
    and perhaps split: train, validation, test or another name, of an image's first row, else the
    name of the table (test.csv) or a folder tells it. Rows of one image are put together. Paths
    are relative to the table, or to --image-dir; Place.find_tail tells what else they may be.
    """
    gathered = Gathered(source)
    for entry in source.entries:
        folder, split = posixpath.split(stem_of(entry))
        if len(source.entries) == 1 or split.lower() not in SPLITS:
            split = ""
        for where, row in rows_of(source.texts, entry, gathered.skip):
            names = [row[column] for column in PATH_COLUMNS if row.get(column)][:1] or [
                name for column, cell in row.items() if FILE_NAMES.fullmatch(column)
                for name in (cell if isinstance(cell, list) else [cell])
            ]  # fmt: skip
            if source.image_column:
                cell = cell_in(row, source.image_column)
                names = cell if isinstance(cell, list) else [cell]
            named = source.caption_column
            cell = caption_cell({"text": cell_in(row, named)} if named else row)
            gathered.add_row(where, folder, names, cell, row.get("split") or split, within=split)
    return gathered.collection()


def read_coco(source: Source) -> Collection:
    """COCO captions: annotations/captions_*.json, {"images": [{"id", "file_name"}], "annotations":
    [{"image_id", "caption"}]}; or Karpathy's {"images": [{"filepath", "filename", "split",
    "sentences": [{"raw"}]}]}. COCO's split is told by the name of the file.
    """
    gathered = Gathered(source)
    for name in source.entries:
        data = load_json(source.texts, name)
        if not isinstance(data, dict) or not isinstance(data.get("images"), list):
            gathered.skip("annotations without a list of images", name)
            continue
        part = posixpath.splitext(posixpath.basename(name))[0].split("_")[-1]  # train2014
        split = SPLITS.get(part.rstrip("0123456789").lower())
        known: dict[object, str] = {}
        described: set[str] = set()
        for i, image in enumerate(data["images"]):
            where = f"{name}, images[{i}]"
            if not isinstance(image, dict):
                gathered.skip("entries that are no JSON objects", where)
                continue
            file_name = image.get("file_name") or image.get("filename")
            if isinstance(file_name, str) and isinstance(image.get("sentences"), list):
                below = image.get("filepath") if isinstance(image.get("filepath"), str) else ""
                texts = [s.get("raw") for s in image["sentences"] if isinstance(s, dict)]
                gathered.add_row(where, below, [file_name], texts, image.get("split"))
            elif isinstance(file_name, str) and isinstance(image.get("id"), (int, str)):
                if known.setdefault(image["id"], file_name) != file_name:
                    gathered.skip("images with the id of another", where)
            else:
                gathered.skip("images without id or file_name", where)
        annotations = data.get("annotations")
        for i, annotation in enumerate(annotations if isinstance(annotations, list) else []):
            where = f"{name}, annotations[{i}]"
            number = annotation.get("image_id") if isinstance(annotation, dict) else None
            if not isinstance(number, (int, str)) or number not in known:
                gathered.skip(NO_IMAGE, where)
                continue
            described.add(known[number])
            names, folder = [known[number]], posixpath.dirname(name)
            gathered.add_row(where, folder, names, annotation.get("caption"), split, within=part)
        if not source.whole:  # else counted with all that nothing names
            gathered.skipped[NO_CAPTION] += [n for n in known.values() if n not in described]
    return gathered.collection()


def read_sidecar(source: Source) -> Collection:
    """Images with a .txt or .caption of the same name beside them (1.txt, or 1.png.txt); each line
    of it that is not empty is a caption. Or a .json that holds one, as img2dataset writes it. Texts
    in folders of their own belong to the images whose paths end like theirs: so come CUB birds and
    Oxford flowers, in text_c10/<class>/<name>.txt (Reed et al. 2016) or text/<class>/<name>.txt (Xu
    et al. 2018, AttnGAN), the images in [CUB_200_2011/]images/<class>/ or jpg/.

    Splits: testclasses.txt (Reed), else test/filenames.pickle (AttnGAN), else a folder called
    train, validation or test tells it. Bounding boxes: CUB_200_2011/bounding_boxes.txt.

    The same for kohya, whose folders are called <repeats>_<words>: an epoch shows their images so
    often, and the words are the caption of those that have no text beside them.
    """
    place = source.place
    collection = Collection(source.name, source.layout, place, [])
    skipped = collection.skipped
    images: dict[str, str] = {}  # path -> the same without suffix
    texts: dict[str, str] = {}  # path without suffix -> path of the text
    of_kind: dict[str, list] = {suffix: [] for suffix in TEXT_SUFFIXES}
    for name in place.files:
        stem, suffix = posixpath.splitext(name)
        if suffix.lower() in IMAGE_SUFFIXES:
            images[name] = stem
        elif suffix.lower() in of_kind:
            of_kind[suffix.lower()].append((stem, name))
    for suffix, several in of_kind.items():
        for stem, name in several:
            if texts.setdefault(stem, name) != name and suffix != ".json":  # as img2dataset has
                skipped[SHARED].append(name)
    found = {name: texts.get(name) or texts.get(stem) for name, stem in images.items()}
    alone = texts.keys() - {stem_of(text) for text in found.values() if text}
    paired = {posixpath.dirname(text) for text in found.values() if text}
    in_any_case: dict[str, str] = {}  # "" where two images differ in case only
    for name, stem in images.items():
        key = stem.casefold()
        in_any_case[key] = "" if key in in_any_case else name
    classes = {folder_name(name) for name in images}
    claims: dict[str, list] = defaultdict(list)  # image -> (how well it fits, text) of each
    for stem in sorted(alone):
        path, fits = in_any_case.get(stem.casefold(), ""), EXACT
        if not path and posixpath.dirname(stem) not in paired:
            path, fits = place.find_tail("", stem, anywhere=True)
        contradicted = fits == 2 and folder_name(stem) in classes
        if path and not found[path] and not contradicted:
            claims[path].append((fits, texts[stem]))
    for path, several in claims.items():
        best = max(fits for fits, _ in several)
        fitting = [text for fits, text in several if fits == best]
        if best > 2 or len(fitting) == 1:  # a class and a name are enough, a name is not
            found[path] = fitting[0]
            alone -= {*map(stem_of, fitting)}
            skipped[SHARED] += fitting[1:]
    test, boxes = names_of_test(place, skipped), read_boxes(place, skipped)
    used: dict[str, str] = {}  # path of the text -> of its image
    collection.num_written = 0
    for name, text in found.items():
        of_folder = REPEATED.fullmatch(folder_name(name)) if source.layout == "kohya" else None
        captions = None
        if of_folder and "reg" in name.split("/"):
            skipped["regularisation pictures of kohya (reg), which are of no use here"].append(name)
        elif text and used.setdefault(text, name) != name:
            skipped["pictures beside another of the same name, which is read"].append(name)
        elif text:
            captions = texts_of(place, text, skipped)
            collection.num_written += bool(captions)
        elif of_folder:
            captions = (clean_caption(of_folder[2]),)
        else:
            skipped["pictures without a .txt"].append(name)
        key = "/".join(stem_of(text or name).split("/")[-2:])  # <class>/<name>
        split = ("test" if test & {key, *key.split("/")} else "train") if test else split_of(name)
        if captions:
            repeats, box = int(of_folder[1]) if of_folder else 1, boxes.get(key)
            collection.records.append(Record(name, captions, split, box=box, repeats=repeats))
        elif captions is not None:
            skipped["pictures with an empty .txt"].append(name)
    for name in sorted(texts[stem] for stem in alone):
        if not name.lower().endswith(".json") and not NO_TEXTS.fullmatch(name):
            skipped[ALONE].append(name)
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


def names_of_test(place: Place, skipped: Skipped) -> set[str]:
    """Of what Reed or AttnGAN set aside: classes, names of images, or both. Pickles are read as
    text, up to where they are damaged; nothing in them is run."""
    found: set[str] = set()
    for name in place.files:
        if f"/{name}".endswith("/testclasses.txt"):
            found.update(read_text(place, name).split())
        elif name.endswith("test/filenames.pickle"):
            try:
                with place.open(name) as file:
                    for _, argument, _ in pickletools.genops(file.read()):
                        if isinstance(argument, str):
                            found.add(argument)
            except Exception as error:  # bytes that are no pickle
                skipped[DAMAGED_LIST].append(f"{name} ({error})")
    return found


def read_boxes(place: Place, skipped: Skipped) -> dict[str, Box]:
    """<class>/<name> -> bounding box, of CUB's images.txt and bounding_boxes.txt."""
    boxes: dict[str, Box] = {}
    for name in place.files:
        if not f"/{name}".endswith("/bounding_boxes.txt"):
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
    shards = source.entries
    paths = [source.place.root / shard for shard in shards]
    # Python reads some 20,000 headers a second on each core.
    with nullcontext() if len(shards) <= FEW_SHARDS else multiprocessing.Pool() as processes:
        found = processes.imap(read_shard, paths) if processes else map(read_shard, paths)
        for shard, (samples, skipped) in zip(shards, found, strict=True):
            split = split_of(shard) or split_in_name(shard)
            for path, captions, *span in samples:
                record = Record(f"{shard}/{path}", captions, split, (shard, *span))
                collection.records.append(record)
            for reason, names in skipped.items():
                collection.skipped[reason] += [f"{shard}/{name}" for name in names]
    return collection


READERS: dict[str, Callable[[Source], Collection]] = {
    "imagefolder": read_rows, "sidecar": read_sidecar, "kohya": read_sidecar,
    "coco": read_coco, "webdataset": read_webdataset, "table": read_rows,
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
        # Path -> how well which other name fits, and where it was told first.
        self.meant: dict[str, tuple[int, str, str]] = {}
        self.skipped: Skipped = defaultdict(list)
        self.blank: set[str] = set()

    def skip(self, reason: str, where: str) -> None:
        self.skipped[reason].append(where)

    def add_row(
        self, where: str, folder: str, names: list, cell: object, split: object, within: str = ""
    ) -> None:
        """The images `names`, seen from the folder called `within` in `folder`, or from that, or
        where paths end so, get the captions in `cell`, a string or a list."""
        texts = cell if isinstance(cell, list) else [cell]
        texts, names = [*filter(is_text, texts)], [name for name in names if is_text(name) and name]
        if any(map(BROKEN.search, (*texts, *names))):
            return self.skip(NOT_UTF8, where)
        found = [text for text in map(clean_caption, texts) if text]
        if not names:
            return self.skip("rows without file_name", where)
        place, split = self.source.place, clean_caption(split).lower()
        if not found:
            self.blank |= {place.find(posixpath.join(folder, within), name)
                           or place.find(folder, name) for name in names}  # fmt: skip
            return self.skip("rows without a caption", where)
        for name in names:
            name, fits, whole = NUMBERED.sub(r"\1", name) if "#" in name else name, EXACT, ""
            path = place.find(posixpath.join(folder, within), name) or place.find(folder, name)
            if not path:
                path, fits = place.find_tail(posixpath.join(folder, within), name)
                whole = folded(posixpath.join(folder, within, name))
            if path:
                reason = self.claim(path, fits, whole, where)
            else:
                reason = AMBIGUOUS if fits else place.why_not(where.partition(", ")[0], name)
            if reason:
                self.skip(reason, f"{name} ({where})")
                continue
            self.captions[path] = (*self.captions.get(path, ()), *found)
            if path not in self.splits and split:
                self.splits[path] = SPLITS.get(split, split)

    def claim(self, path: str, fits: int, name: str, where: str) -> str:
        """Whether `name` means the image: where others may, too, it is the one's that fits best,
        and nobody's where two fit as well. Returns why it does not; or "".

        fits: as Place.find_tail tells; EXACT: it is the path.
        """
        none = (EXACT if path in self.captions else 0, name, where)
        before, other, told = self.meant.get(path, none)
        if fits < before:
            return MISSING
        if fits == before and (fits == EXACT or name == other):
            return ""
        if self.captions.pop(path, ()):
            self.skip(MISSING if fits > before else AMBIGUOUS, f"{other} ({told})")
            self.splits.pop(path, None)
        self.meant[path] = (fits, name if fits > before else "", where)
        if fits == EXACT:
            del self.meant[path]
        return "" if fits > before else AMBIGUOUS

    def collection(self) -> Collection:
        records = [Record(path, self.captions.pop(path), self.splits.get(path) or split_of(path))
                   for path in sorted(self.captions)]  # fmt: skip
        source = self.source
        found = Collection(source.name, source.layout, source.place, records, self.skipped)
        found.blank = self.blank
        if elsewhere := [(name, path) for path, (_, name, _) in self.meant.items() if name]:
            example = "{} is {}".format(*elsewhere[0])
            found.also.append(f"elsewhere than told: {len(elsewhere):,} pictures ({example})")
        return found


def is_coco(place: Place, name: str) -> bool:
    """Whether it is a json with a list of images. It may be large: where its beginning tells, the
    rest is not read."""
    if IMAGES.match(head(place, name)):
        return True
    with suppress(UserError):
        data = load_json(place, name)
        return isinstance(data, dict) and isinstance(data.get("images"), list)
    return False


def apply_split_lists(place: Place, collection: Collection) -> None:
    """Honour train.txt, test.txt and the like, where each line is the name of an image, with or
    without its suffix."""
    splits: dict[str, str] = {}
    for name in [name for name in place.files if name.lower().endswith(LISTS)]:
        split = SPLITS.get(stem_of(posixpath.basename(name)).lower())
        if not split or any(stem_of(name) + suffix in place.files for suffix in IMAGE_SUFFIXES):
            continue
        lines = [*filter(None, map(str.strip, read_text(place, name).splitlines()))]
        paths = [place.find("", line) or place.find_tail("", line, True)[0] for line in lines]
        if any(paths):
            splits |= dict.fromkeys(filter(None, paths), split)
            collection.also.append(f"{name} tells {len(lines):,} pictures to be {split}")
            collection.skipped[ALONE] = [n for n in collection.skipped[ALONE] if n != name]
            gone = [line for line, path in zip(lines, paths, strict=True) if not path]
            collection.skipped[f"pictures missing that {name} names"] += gone
    for i, record in enumerate(collection.records if splits else ()):
        collection.records[i] = record._replace(split=splits.get(record.path, record.split))


def folder_name(path: str) -> str:
    """What the folder of a file is called; "" for the root."""
    return posixpath.basename(posixpath.dirname(path))


def split_in_name(name: str) -> str | None:
    """The split that a word of a file's name tells: train-00000.tar, test.csv, valImages.json."""
    words = re.split(r"[-._ 0-9]+|(?<=[a-z])(?=[A-Z])", posixpath.basename(name))
    return next((SPLITS[word.lower()] for word in words if word.lower() in SPLITS), None)
