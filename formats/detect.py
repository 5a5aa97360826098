"""Which layout is a collection in? Each whose signs are there is read; what captions most wins.

Of layouts that caption as many the first of `signs` wins. The others are named, with what to type
to read them instead; where they caption other images, those are counted as skipped.
"""

import posixpath
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from config import DataConfig, UserError, short
from formats.images import is_image_name
from formats.layouts import (
    ANNOTATIONS,
    METADATA_NAMES,
    PACKED,
    READERS,
    REPEATED,
    TABLE_SUFFIXES,
    TEXT_SUFFIXES,
    Collection,
    Source,
    apply_split_lists,
    folder_name,
    is_coco,
)
from formats.places import MISSING, SPLITS, Folder, Skipped, Zip, stem_of
from formats.tars import NO_CAPTION
from formats.texts import CAPTION_COLUMNS, PATH_COLUMNS, begins_as_table, rows_of

CANNOT_BE_READ = "files that cannot be read"
WITH_PATHS = ("imagefolder", "table", "coco")  # layouts that name images by their paths
NAMED_BY_COLUMNS = ("imagefolder", "table")
FEW = 0.01  # of the images: so many that only another layout captions are no problem
MOST_NAMED = 6  # of what else is there
MOST_TABLES = 100  # of different names, which are read
FEW_TEXTS = 20  # in a folder: of more, none is looked at as a table
LOOKED_AT = 100_000  # images among which the nearest to a missing one is looked for
UNREAD = (".heic", ".heif", ".jxl", ".svg", ".psd", ".eps", ".dng", ".cr2", ".nef", ".arw")
CONVERT = "pictures of a kind that is not read; convert them: magick mogrify -format png FILES"


def find_source(path: Path, config: DataConfig) -> Source:
    """Where images and captions lie. Raises UserError where there is nothing to read."""
    takes = ("--data takes a folder of captioned pictures, a .zip, .tar, .csv, .tsv, .jsonl, .json "
             "or .txt")  # fmt: skip
    if not path.exists():
        raise UserError(f"{path} does not exist; {takes}")
    suffix, entries = path.suffix.lower(), ()
    if path.is_dir():
        texts = Folder(path, config.follow_links)
    elif suffix == ".zip":
        texts = Zip(path)
    elif suffix in (".tar", ".txt", *TABLE_SUFFIXES):
        parent = path.absolute().parent
        root = parent.parent if parent.name == "annotations" else parent
        texts = Folder(root, config.follow_links, listed=suffix != ".tar")
        entries = (path.absolute().relative_to(root).as_posix(),)
    elif path.name.lower().endswith(PACKED):
        raise UserError(f"{path} is packed; unpack it (tar -xf FILE), and name the folder")
    else:
        raise UserError(f"{path} is a file of a kind that cannot be read; {takes}")
    place = texts
    if config.image_dir:
        if not Path(config.image_dir).is_dir():
            raise UserError(f"--image-dir {config.image_dir} is no folder")
        place = Folder(Path(config.image_dir), config.follow_links)
    whole, name = not entries and place is texts, short(path.resolve().name)
    layout = "names" if config.caption_from and config.format == "auto" else config.format
    return Source(name, layout, place, texts, entries, whole, config.caption_from,
                  config.image_column, config.caption_column)  # fmt: skip


def read_collection(source: Source) -> Collection:
    """Read what `find_source` found. Raises UserError where no image has a caption."""
    found: list[tuple[Source, Collection]] = []
    errors: list[UserError] = []
    for candidate in candidates(source):
        try:
            collection = READERS[candidate.layout](candidate)
        except UserError as error:
            errors.append(error)
            continue
        # A json that captions nothing is hardly ever meant to.
        stray = source.layout == "auto" and candidate.layout == "table" and not source.entries
        if collection.records or not (stray and candidate.entries[0].lower().endswith(".json")):
            found.append((candidate, collection))
    if not found and not errors:
        candidate = replace(source, layout="sidecar")
        found = [(candidate, READERS["sidecar"](candidate))]
    chosen, collection = max(found, key=worth, default=(source, None))  # the first of equals
    if errors and not (collection and collection.records):
        raise errors[0]
    collection.records.sort(key=lambda record: record.path)
    collection.skipped[CANNOT_BE_READ] += map(str, errors)
    name_others(collection, [(c, other) for c, other in found if c is not chosen])
    place, skipped = chosen.place, collection.skipped
    apply_split_lists(place, collection)
    if chosen.whole and chosen.layout in WITH_PATHS:
        ours = {record.path for record in collection.records} | collection.blank
        skipped[NO_CAPTION] += [n for n in place.files if is_image_name(n) and n not in ours]
        name_nearest(skipped)
    for where in dict.fromkeys((source.place, source.texts)):
        for reason, names in where.skipped.items():
            skipped[reason] += names
    if chosen.whole:
        skipped[CONVERT] += ending_in(UNREAD, source)
    packed = ending_in(PACKED, source)
    collection.also += [f"{name} is packed and not read" for name in packed]
    if (more := len(collection.also) - MOST_NAMED) > 0:
        collection.also[MOST_NAMED:] = [f"{more} more"]
    for reason in [reason for reason, names in skipped.items() if not names]:
        del skipped[reason]
    if not collection.records:
        raise nothing_found(chosen, collection)
    if (source.image_column or source.caption_column) and chosen.layout not in NAMED_BY_COLUMNS:
        raise UserError(f"{source.texts.root} is read as {chosen.layout}, which has no columns; "
                        "leave out --image-column and --caption-column, or name the table: --data "
                        "FILE")  # fmt: skip
    return collection


def worth(candidate: tuple[Source, Collection]) -> tuple[int, int, bool]:
    """How many images it captions in words that somebody wrote for them, how many in all, and
    whether there are files of it."""
    source, collection = candidate
    written, num = collection.num_written, len(collection.records)
    return num if written is None else written, num, not num and source.entries != ()


def name_others(collection: Collection, others: list[tuple[Source, Collection]]) -> None:
    """Tell what else is there; images that only it captions, if they are many, are skipped ones."""
    ours = {record.path for record in collection.records if others}
    for source, other in others:
        if not other.records:
            collection.also += [f"{entry} captions nothing" for entry in source.entries]
            continue
        way, folder = f"--format {source.layout}", isinstance(source.texts, Folder)
        if len(source.entries) == 1 and folder:
            way = f"--data {shlex.quote(str(source.texts.root / source.entries[0]))}"
        elif source.layout == "table":  # --format would read the largest
            way = " and ".join(source.entries[:3])
        collection.also.append(
            f"also here: {source.layout}, {len(other.records):,} pictures: {way}"
        )
        lost = sorted(record.path for record in other.records if record.path not in ours)
        if len(lost) > FEW * len(ours):
            collection.skipped[f"pictures that only {source.layout} captions ({way})"] += lost


def name_nearest(skipped: Skipped) -> None:
    """Beside the first image that is missing, name the one of those nobody names that is most like
    it."""
    if missing := skipped.get(MISSING):
        near = {posixpath.basename(name): name for name in skipped[NO_CAPTION][:LOOKED_AT]}
        wanted = re.split(r"[/\\]", missing[0].partition(" (")[0])[-1]
        if close := get_close_matches(wanted, near, n=1, cutoff=0.8):
            missing[0] += f"; there is {near[close[0]]}"


def ending_in(suffixes: tuple[str, ...], source: Source) -> list[str]:
    return [name for name in source.texts.files if name.lower().endswith(suffixes)]


def candidates(source: Source) -> list[Source]:
    """A source for each layout that there are signs of, or for the one that is asked for."""
    found = [(layout, entries) for layout, entries in signs(source) if entries != ()]
    if source.layout != "auto":
        found = [c for c in found if c[0] == source.layout] or [(source.layout, source.entries)]
    if source.place is not source.texts:
        found = [c for c in found if c[0] in WITH_PATHS]
        if not found:
            raise UserError(f"--image-dir is for tables and annotations; {source.texts.root} has "
                            "none")  # fmt: skip
    return [replace(source, layout=layout, entries=entries or ()) for layout, entries in found]


def signs(source: Source) -> Iterator[tuple[str, tuple[str, ...] | None]]:
    """(layout, the files that it begins with; none: (); None: it has no such files), the first of
    them the one that people mean where several caption the same images."""
    images: list[str] = []
    others: list[str] = []
    for name in source.entries or source.texts.files:
        (images if is_image_name(name) else others).append(name)
    metadata = [n for n in others if posixpath.basename(n) in METADATA_NAMES and not source.entries]
    # Files that lie beside no image of their name.
    stems = {*images, *map(stem_of, images)} if len(others) > len(metadata) else set()
    alone = [name for name in others if stem_of(name) not in stems]
    tops = {name.partition("/")[0] for name in source.texts.files if "/" in name}
    base = f"{tops.pop()}/" if len(tops) == 1 else ""  # of a zip of a folder
    for kind in METADATA_NAMES:
        yield "imagefolder", tuple(n for n in metadata if posixpath.basename(n) == kind)
    at_top = {n for n in alone if source.entries or "/" not in n.removeprefix(base)}
    jsons = [n for n in alone if n.lower().endswith(".json")
             and (n in at_top or ANNOTATIONS.fullmatch(n))]  # fmt: skip
    annotations = [n for n in jsons if is_coco(source.texts, n)]
    yield "coco", tuple(annotations)
    texts = [n for n in alone if n.lower().endswith(".txt")]
    in_folder = Counter(map(posixpath.dirname, texts))
    small = {n for n in texts if in_folder[posixpath.dirname(n)] <= FEW_TEXTS}
    tables = [
        n for n in others
        if n not in metadata and n not in annotations and not n.lower().endswith(".tar")
        and (source.entries or n.lower().endswith(TABLE_SUFFIXES[:3])
             or n in at_top and n.lower().endswith(".json")
             or n in small and begins_as_table(source.texts, n))
    ]  # fmt: skip
    yield "table", tuple(n for n in tables if stem_of(posixpath.basename(n)).lower() in SPLITS)
    by_name = defaultdict(list)  # captions.csv in each of several folders is one table
    for name in tables:
        if stem_of(posixpath.basename(name)).lower() not in SPLITS:
            by_name[posixpath.basename(name)].append(name)
    for name in sorted(by_name, key=lambda name: (len(name), name))[:MOST_TABLES]:
        yield "table", tuple(by_name[name])
    folders = Counter(map(folder_name, images))
    if 2 * sum(n for f, n in folders.items() if REPEATED.fullmatch(f)) > len(images):
        yield "kohya", None
    elif any(n.lower().endswith(TEXT_SUFFIXES) for n in others) and not source.entries:
        yield "sidecar", None
    if isinstance(source.texts, Folder):
        yield "webdataset", tuple(n for n in alone if n.lower().endswith(".tar"))


def nothing_found(source: Source, collection: Collection) -> UserError:
    """What there is, why none of it is a captioned image, and what to do."""
    root, files = source.texts.root, source.place.files
    seen = Counter(posixpath.splitext(name)[1].lower() or "no suffix" for name in files)
    what = ", ".join(f"{n:,} x {suffix}" for suffix, n in seen.most_common(5)) or "nothing"
    packed = [suffix for suffix in (".zip", *PACKED) if ending_in((suffix,), source)]
    pixels = next((kind for kind in ("arrow", "parquet") if f".{kind}" in seen), "")
    sheets = ending_in((".xlsx", ".xls", ".ods"), source)
    has_images = any(map(is_image_name, files))
    if source.layout in ("table", "imagefolder") and source.entries:
        rows = rows_of(source.texts, source.entries[0], lambda *_: None)
        row = next((row for _, row in rows), {})
        what = f"{source.entries[0]} with the columns {', '.join(map(str, row)) or 'none'}"
        for flag, column in (("--image-column", source.image_column),
                             ("--caption-column", source.caption_column)):  # fmt: skip
            if column and column not in row and column.strip().lower() not in row:
                return UserError(f"{flag} {column}: there is no such column; the table is {what}")
        advice = (f"a table needs a column with paths ({', '.join(PATH_COLUMNS)}) and one with "
                  f"captions ({', '.join(CAPTION_COLUMNS)}), or --image-column NAME and "
                  "--caption-column NAME; where the pictures lie elsewhere, --image-dir says "
                  "where")  # fmt: skip
    elif sheets:
        advice = f"save {sheets[0]} as .csv, with the columns file_name and text"
    elif has_images:
        advice = ('put a metadata.jsonl with lines like {"file_name": "1.png", "text": "a red '
                  'bird"} there, or a .txt with the same name beside each picture; or take names '
                  "of folders or files: --caption-from dirname or filename")  # fmt: skip
    elif source.layout == "webdataset":
        advice = "a sample is a picture and a .txt or .json of the same name, one after the other"
    elif packed:
        advice = f"unpack what is packed ({', '.join(packed)}), and name the folder"
    elif pixels:
        advice = (
            "it is a table of Hugging Face's datasets that holds the pictures themselves; this "
            "makes a folder of it, if its columns are image and text: mkdir FOLDER; python -c '"
            'import datasets; [(r["image"].save(f"FOLDER/{i}.png"), open(f"FOLDER/{i}.txt", "w")'
            f'.write(r["text"])) for i, r in enumerate(datasets.load_dataset("{pixels}", '
            f'data_files="{root}/**/*.{pixels}", split="train"))]\''
        )
    elif CONVERT in collection.skipped:
        advice = "convert them, and try again"
    else:
        advice = "there are no pictures in it; name the folder that holds them, or its parent"
    return UserError(f"no captioned pictures in {root} ({source.layout}; it holds {what}; skipped: "
                     f"{collection.skipped_line()}); {advice}")  # fmt: skip
