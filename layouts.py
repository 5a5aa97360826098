"""Which captions belong to which pictures? A reader for each layout that collections come in.

    imagefolder   metadata.jsonl, .csv or .parquet with file_name and text, in any folder
    sidecar       a .txt or .caption beside each picture
    kohya         the same in folders called <repeats>_<words>, the words standing in for captions
    coco          annotations/captions_*.json, or Karpathy's json
    webdataset    tar shards of pictures and texts with the same key, as img2dataset writes them
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
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from command_line import UserError, setting
from pictures import FITS, MAX_MEGAPIXELS, RESIZE_FILTERS, Box, is_picture_name
from places import MISSING, OUTSIDE, Folder, Place, Skipped, Zip
from tars import NO_CAPTION, NO_PICTURE, Sample, read_shard
from texts import (
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
    path: str  # of the picture, relative to the root of the collection, with forward slashes
    captions: tuple[str, ...]  # at least one, none empty
    split: str | None = None  # train, validation, test, ...; None: decided by a hash of the path
    span: tuple[str, int, int] | None = None  # in a tar: which, its first byte there, how many
    box: Box | None = None  # around what the captions are about
    repeats: int = 1  # how often an epoch shows it


@dataclass
class Collection:
    name: str
    layout: str
    place: Place | None  # None: drawn, not read
    records: Sequence[Record]
    skipped: Skipped = field(default_factory=lambda: defaultdict(list))

    def skipped_line(self) -> str:
        """What was left out and why, counted, with one example each; "nothing" if so."""
        line = "; ".join(f"{len(v):,} {k} (e.g. {v[0][:200]})" for k, v in self.skipped.items())
        return line.encode(errors="backslashreplace").decode() or "nothing"


@dataclass(frozen=True)
class Source:
    """Where a reader begins."""

    name: str  # of the collection
    layout: str
    place: Place  # of the pictures
    texts: Place  # of the captions; the same, but for --image-dir
    entry: str = ""  # the file that tells all, where there is one
    whole: bool = True  # all of the place belongs to it: a picture that nothing names is counted
    caption_from: str = ""


@dataclass(frozen=True)
class DataConfig:
    """How a collection is read; flags of every script that reads one."""

    data: str = setting("", "captioned pictures: folder, .zip, .tar or table; none: the scenes")
    format: str = setting("auto", "layout of --data; auto: see for yourself", (
        "auto", "imagefolder", "sidecar", "kohya", "coco", "webdataset", "c10", "table"
    ))  # fmt: skip
    image_dir: str = setting("", "where the pictures of a table or json lie, if not beside it")
    caption_from: str = setting("", "names of what are the captions", ("", "dirname", "filename"))
    follow_links: bool = setting(False, "read what links in the folder lead to outside of it")
    crop_boxes: bool = setting(False, "use only what bounding boxes surround, where there are any")
    resize: str = setting("lanczos", "filter; nearest for pixel art", tuple(RESIZE_FILTERS))
    fit: str = setting("crop", "what to do with pictures that are not square", FITS)
    max_megapixels: float = setting(MAX_MEGAPIXELS, "larger pictures are skipped")
    cache: str = setting("100", "GB of disk for decoded pictures; beyond it, or with off, they are "
                         "decoded each time")  # fmt: skip

    def __post_init__(self) -> None:
        for f in fields(DataConfig):
            choices = f.metadata["choices"]
            if choices and getattr(self, f.name) not in choices:
                raise UserError(f"{f.name} is one of {choices}, not {getattr(self, f.name)!r}")
        self.cache_bytes()
        if not self.max_megapixels > 0:
            raise UserError(f"--max-megapixels must be more than 0, not {self.max_megapixels}")

    def cache_bytes(self) -> float:
        """How much room decoded pictures may take."""
        try:
            size = 0.0 if self.cache == "off" else float(self.cache) * 1e9
        except ValueError:
            size = -1.0
        if not size >= 0:
            raise UserError(f"--cache is a number of GB, or off, not {self.cache!r}")
        return size

    def decoding(self, image_size: int) -> dict:
        """Keyword arguments of cache.decode."""
        names = ("resize", "fit", "max_megapixels", "crop_boxes")
        return {"image_size": image_size} | {name: getattr(self, name) for name in names}


def reading(config: object) -> dict:
    """Those settings of any script that tell how a collection is read, for CaptionedImages."""
    return {f.name: getattr(config, f.name) for f in fields(DataConfig) if f.name != "data"}


def find_collection(path: str | Path, config: DataConfig | None = None) -> Collection:
    """Find out which layout lies at `path` and read it. Raises UserError where none is found."""
    return read_collection(find_source(Path(path), config or DataConfig()))


def read_collection(source: Source) -> Collection:
    """Read what `find_source` found. Raises UserError where no picture has a caption."""
    collection = READERS[source.layout](source)
    collection.records.sort(key=lambda record: record.path)
    for place in {id(p): p for p in (source.place, source.texts)}.values():
        for reason, found in place.skipped.items():
            collection.skipped[reason] += found
    if not collection.records:
        raise nothing_found(source, collection)
    return collection


def nothing_found(source: Source, collection: Collection) -> UserError:
    """What there is, why none of it is a captioned picture, and what to do."""
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
    """Where pictures and captions lie, and in which layout.

    Raises UserError where there is nothing to read, or not in the layout of --format.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; --data takes a folder of captioned pictures, a "
                        ".zip, .tar, .csv, .tsv, .jsonl or .json")  # fmt: skip
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
        raise UserError(
            f"{path} is a file of a kind that cannot be read; --data takes a folder of captioned "
            "pictures, a .zip, .tar, .csv, .tsv, .jsonl or .json"
        )
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
    pictures: list[str] = []
    names: list[str] = []  # of other files
    for name in [entry] if entry else texts.files:
        (pictures if is_picture_name(name) else names).append(name)
    folders = {n.rpartition("/")[0] for n in chain(pictures, names)}
    tops = {f.partition("/")[0] for f in folders}  # one of them: a zip of a folder
    base = f"{next(iter(tops))}/" if len(tops) == 1 else ""
    top = [n for n in names if n.lower().endswith(TABLE_SUFFIXES)
           and (entry or "/" not in n.removeprefix(base))]  # fmt: skip
    annotations = [
        n for n in names if n.lower().endswith(".json") and is_coco(texts, n, bool(entry))
    ]
    metadata = [n for n in names if posixpath.basename(n) in METADATA_NAMES]
    outer = {part for f in folders for part in f.split("/")[:2]}
    found = {
        "names": bool(config.caption_from),
        "webdataset": isinstance(texts, Folder) and any(n.lower().endswith(TARS) for n in names),
        "coco": bool(annotations),
        "imagefolder": bool(metadata) and not entry,
        "c10": "text_c10" in outer
        or ("text" in outer and bool(outer & {"CUB_200_2011", "images", "jpg"})),
    }
    layout = next((layout for layout, is_there in found.items() if is_there), "")
    if not layout:
        stems = {posixpath.splitext(n)[0] for n in pictures}
        has_texts = any(
            n.lower().endswith(TEXT_SUFFIXES) and posixpath.splitext(n)[0] in stems for n in names
        )
        if pictures and all(map(REPEATED.fullmatch, map(folder_name, pictures))):
            layout = "kohya"
        else:
            layout = "table" if entry or (len(top) == 1 and not has_texts) else "sidecar"
    if config.format != "auto":
        layout = config.format
    if layout == "imagefolder" and len({posixpath.splitext(n)[1] for n in metadata}) > 1:
        kinds = " and ".join(sorted({posixpath.basename(n) for n in metadata}))
        raise UserError(f"{texts.root} holds {kinds}; keep one kind of them")
    if layout == "coco" and entry and not annotations:
        raise UserError(f"{entry} holds no list of images with their annotations")
    if layout == "table" and len(top) != 1:
        raise UserError(f"{texts.root} holds {len(top)} tables; name one of them with --data")
    return layout, top[0] if layout == "table" else ""


# The readers


def read_imagefolder(source: Source) -> Collection:
    """Hugging Face imagefolder: metadata.jsonl, .csv or .parquet, in any folder.

    Columns: file_name, relative to the folder of the metadata file (or several: *_file_name,
    file_names, each of whose pictures gets the captions of the row); text, caption or prompt: a
    string or a list of strings; and, if there, split: train, validation, test or another name, of
    a picture's first row; else a folder of such a name tells it. Rows of one picture are put
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
    "sentences": [{"raw"}]}]}. Pictures are looked for in <split><year>/, images/<split><year>/,
    images/ and the root. COCO's split is told by the name of the file.
    """
    gathered = Gathered(source)
    files = [source.entry] if source.entry else [
        name
        for name in source.texts.files
        if name.lower().endswith(".json") and is_coco(source.texts, name, False)
    ]  # fmt: skip
    for name in files:
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
        described = set()
        annotations = data.get("annotations")
        for i, annotation in enumerate(annotations if isinstance(annotations, list) else []):
            where = f"{name}, annotations[{i}]"
            number = annotation.get("image_id") if isinstance(annotation, dict) else None
            if not isinstance(number, (int, str)) or number not in known:
                gathered.skip(NO_PICTURE, where)
                continue
            described.add(number)
            gathered.add_row(where, folders, [known[number]], annotation.get("caption"), split)
        if not source.whole:  # else counted below, with all that no annotation names
            for number in (n for n in known if n not in described):
                gathered.skip(NO_CAPTION, known[number])
    return gathered.collection()


def read_sidecar(source: Source) -> Collection:
    """Pictures with a .txt or .caption of the same name beside them; each line of it that is not
    empty is a caption. A folder called train, validation or test tells the split."""
    return _read_sidecar(source, repeated=False)


def read_kohya(source: Source) -> Collection:
    """Folders called <repeats>_<words>: an epoch shows their pictures so often, and the words are
    the caption of those that have no text beside them."""
    return _read_sidecar(source, repeated=True)


def _read_sidecar(source: Source, repeated: bool) -> Collection:
    collection = Collection(source.name, source.layout, source.place, [])
    skipped = collection.skipped
    texts: dict[str, str] = {}  # path without suffix -> path of the text
    for suffix in TEXT_SUFFIXES:
        for name in source.place.files:
            stem, its_suffix = posixpath.splitext(name)
            if its_suffix.lower() == suffix and texts.setdefault(stem, name) != name:
                skipped["texts beside another of the same name"].append(name)
    used, opened = set(), {}  # what the text of the last picture says
    for name in source.place.files:
        if not is_picture_name(name):
            continue
        stem, folder = posixpath.splitext(name)[0], posixpath.dirname(name)
        of_folder = REPEATED.fullmatch(folder_name(name)) if repeated else None
        if stem in texts:
            used.add(stem)
            if stem not in opened:  # else two pictures share it
                opened = {stem: lines_of(source.place, texts[stem])}
            captions, reason, where = opened[stem]
            if reason:
                skipped[reason].append(where)
                continue
        elif of_folder:
            captions = (clean_caption(of_folder[2]),)
        else:
            skipped["pictures without a .txt"].append(name)
            continue
        if captions:
            repeats = int(of_folder[1]) if of_folder else 1
            collection.records.append(
                Record(name, captions, split_of_folders(folder), repeats=repeats)
            )
        else:
            skipped["pictures with an empty .txt"].append(name)
    for stem in sorted(texts.keys() - used):
        skipped[".txt without a picture"].append(texts[stem])
    return collection


def read_names(source: Source) -> Collection:
    """The caption is what the picture or its folder is called: "001.Black_footed_Albatross" is
    "Black footed Albatross", "a_red-bird (2).png" is "a red bird"."""
    collection = Collection(source.name, f"{source.caption_from}s as captions", source.place, [])
    for name in filter(is_picture_name, source.place.files):
        folder = posixpath.dirname(name)
        words = posixpath.splitext(posixpath.basename(name))[0]
        if source.caption_from == "dirname":
            words = folder_name(name)
        caption = clean_caption(re.sub(r"[_-]+", " ", words))
        caption = re.sub(r"^\d+[. ] *(?=\S)|(?<=\S)(?: +\d+| *\(\d+\))$", "", caption)
        if caption:
            collection.records.append(Record(name, (caption,), split_of_folders(folder)))
        else:
            collection.skipped["pictures whose name, or folder's name, says nothing"].append(name)
    return collection


def read_c10(source: Source) -> Collection:
    """CUB birds and Oxford flowers with ten captions a picture: text_c10/<class>/<name>.txt (Reed
    et al. 2016) or text/<class>/<name>.txt (Xu et al. 2018, AttnGAN), and the pictures as their
    authors pack them: [CUB_200_2011/]images/<class>/<name>.jpg or jpg/<name>.jpg.

    Splits: testclasses.txt (Reed), else test/filenames.pickle (AttnGAN), of which only the names
    are read, nothing is unpickled. Bounding boxes: CUB_200_2011/bounding_boxes.txt.
    """
    place = source.place
    collection = Collection(source.name, source.layout, place, [])
    skipped = collection.skipped
    pictures = {}  # <class>/<name>, and <name> where there is one of it -> path
    for name in filter(is_picture_name, place.files):
        parts = posixpath.splitext(name)[0].split("/")
        pictures.setdefault("/".join(parts[-2:]), name)
        pictures[parts[-1]] = None if parts[-1] in pictures else name
    test = words_of(place, "testclasses.txt")
    for name in place.files:
        if name.endswith("test/filenames.pickle"):
            test |= names_in_pickle(place, name, skipped)
    boxes = read_boxes(place, skipped)
    used = set()
    for name in place.files:
        parts = name.split("/")
        if parts[-1].endswith(".txt") and len(parts) > 1 and {"text", "text_c10"} & set(parts[:-1]):
            stem = parts[-1][: -len(".txt")]
            key = f"{parts[-2]}/{stem}"
            path = pictures.get(key) or pictures.get(stem)
            captions, reason, where = lines_of(place, name)
            if path is None:
                skipped[NO_PICTURE].append(name)
            elif reason:
                skipped[reason].append(where)
            elif not captions:
                skipped["pictures with an empty .txt"].append(name)
            elif path in used:
                skipped["texts beside another of the same name"].append(name)
            else:
                split = ("test" if test & {key, stem, parts[-2]} else "train") if test else None
                collection.records.append(Record(path, captions, split, box=boxes.get(key)))
            used.add(path)
    for name in filter(is_picture_name, place.files):
        if name not in used:
            skipped[NO_CAPTION].append(name)
    return collection


def words_of(place: Place, name: str) -> set[str]:
    """The words in all files that are called so."""
    found = [n for n in place.files if posixpath.basename(n) == name]
    return {word for n in found for word in read_text(place, n).split()}


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
                box = (float(x), float(y), float(width), float(height))
            except ValueError:
                skipped[DAMAGED_BOXES].append(f"{name}, line {i}")
                continue
            boxes[posixpath.splitext(of.get(number, ""))[0]] = box
    return boxes


def read_webdataset(source: Source) -> Collection:
    """Tar shards, in which consecutive files with one key (the path up to the first dot of its last
    part) are a sample: a picture (jpg, png, webp, ...), its caption (txt, cap, caption, text), or a
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
    if len(shards) > FEW_SHARDS:  # Python reads some 20,000 headers a second on each core
        with multiprocessing.Pool() as processes:
            add_shards(collection, shards, processes.imap(read_shard, paths))
    else:
        add_shards(collection, shards, map(read_shard, paths))
    return collection


def add_shards(
    collection: Collection, shards: list[str], found: Iterable[tuple[list[Sample], Skipped]]
) -> None:
    """Add what was found in each shard."""
    for shard, (samples, skipped) in zip(shards, found, strict=True):
        folder, split = posixpath.dirname(shard), None
        for word in [*folder.split("/"), *re.split(r"[-._ 0-9]+", posixpath.basename(shard))]:
            split = split or SPLITS.get(word.lower())
        for name, captions, offset, size in samples:
            span = (shard, offset, size)
            collection.records.append(Record(f"{shard}/{name}", captions, split, span))
        for reason, names in skipped.items():
            collection.skipped[reason] += [f"{shard}/{name}" for name in names]


READERS: dict[str, Callable[[Source], Collection]] = {
    "imagefolder": read_imagefolder, "sidecar": read_sidecar, "kohya": read_kohya,
    "coco": read_coco, "webdataset": read_webdataset, "c10": read_c10, "table": read_table,
    "names": read_names,
}  # fmt: skip


def read_pairs(pairs: Iterable[tuple[str | Path, str | Sequence[str]]]) -> Collection:
    """A Python list of (picture path, caption or captions)."""
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
    """Captions put together by picture, as rows come in; whatever cannot be used is counted."""

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
        """The pictures `names`, seen from the first of `folders` that has them, get the captions in
        `cell`, a string or a list."""
        texts = cell if isinstance(cell, list) else [cell]
        told = [text for text in texts if isinstance(text, str)]
        if any(BROKEN.search(text) for text in (*told, *filter(is_text, names))):
            return self.skip(NOT_UTF8, where)
        found = [text for text in map(clean_caption, told) if text]
        names = [name for name in names if is_text(name) and name]
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
        """All of them, and the pictures that no row names counted."""
        records: list[Record] = []
        source = self.source
        # The names of the place come first, and what is taken over is removed: two lists of
        # millions, or their paths twice, would fill the memory.
        for path in chain(source.place.files, list(self.captions.keys() - source.place.files)):
            captions = self.captions.pop(path, ())
            if captions:
                split = self.splits.get(path) or split_of_folders(posixpath.dirname(path))
                records.append(Record(path, captions, split))
            elif source.whole and is_picture_name(path):
                self.skipped[NO_CAPTION].append(path)
        return Collection(source.name, source.layout, source.place, records, self.skipped)


def is_coco(place: Place, name: str, asked: bool) -> bool:
    """Whether a json, asked for or called like annotations, holds a list of images. It may be
    large: where its beginning tells, the rest is not read."""
    if not asked and not ANNOTATIONS.fullmatch(name):
        return False
    try:
        if not asked:
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


def split_of_folders(folder: str) -> str | None:
    """The split that the name of a folder tells, the outermost first."""
    return next((SPLITS[f.lower()] for f in folder.split("/") if f.lower() in SPLITS), None)
