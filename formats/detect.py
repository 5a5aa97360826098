"""Which layout is a collection in? Each whose signs are there is read; what captions most wins.

Of layouts that caption as many the first of `signs` wins. The others are named, with what to type
to read them instead; where they caption other images, those are counted as skipped.
"""

import posixpath
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from config import DataConfig, UserError, short
from formats.images import IMAGE_SUFFIXES, is_image_name
from formats.layouts import (
    METADATA_NAMES,
    PACKED,
    READERS,
    REPEATED,
    TABLE_SUFFIXES,
    TEXT_SUFFIXES,
    Collection,
    Source,
    apply_split_lists,
    is_coco,
    split_in_name,
)
from formats.places import Folder, Zip, stem_of
from formats.tars import NOT_TOGETHER
from formats.texts import CAPTION_COLUMNS, PATH_COLUMNS, begins_as_table, rows_of

ELSEWHERE = ("imagefolder", "table", "coco")  # layouts whose images --image-dir may lead to
FEW = 0.01  # of the images: so many that only another layout captions are no problem
UNREAD = (".heic", ".heif", ".jxl", ".svg", ".psd", ".eps", ".dng", ".cr2", ".nef", ".arw")
CONVERT = "pictures of a kind that is not read; convert them: magick mogrify -format png FILES"
WITH_PIXELS = (".parquet", ".arrow")  # where Hugging Face's tables hold images, and not their paths


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
    return Source(name, layout, place, texts, entries, whole, config.caption_from)


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
        is_json = str(*candidate.entries[:1]).lower().endswith(".json")
        if collection.records or not is_json or source.entries:
            found.append((candidate, collection))
    # Of equals the first; where nothing is read, one that there are files of.
    found.sort(key=lambda c: len(c[1].records) or 0.5 * bool(c[0].entries), reverse=True)
    if errors and not (found and found[0][1].records):
        raise errors[0]
    beside = replace(source, layout="sidecar")
    chosen, collection = found[0] if found else (beside, READERS["sidecar"](beside))
    collection.skipped["files that cannot be read"] += map(str, errors)
    ours = {record.path for record in collection.records if len(found) > 1}
    for other, its in found:
        if other is chosen or not (its.records or other.entries):
            continue
        way = f"--format {other.layout}"
        if other.layout == "table" or len(other.entries) == 1:
            way = f"--data {other.texts.root / other.entries[0]}"
        num = f"{len(its.records):,}" if its.records else "no"
        collection.also.append(f"{other.layout}, {num} pictures: {way}")
        lost = sorted(record.path for record in its.records if record.path not in ours)
        if len(lost) > FEW * len(ours):
            collection.skipped[f"pictures that only {other.layout} captions ({way})"] += lost
    collection.records.sort(key=lambda record: record.path)
    apply_split_lists(chosen, collection)
    for place in {id(p): p for p in (source.place, source.texts)}.values():
        for reason, names in place.skipped.items():
            collection.skipped[reason] += names
    if chosen.whole:
        collection.skipped[CONVERT] += ending_in(UNREAD, source)
    packed = ending_in(PACKED, source)
    if chosen.layout == "webdataset":
        collection.skipped["packed tars, which are to be unpacked to .tar first"] += packed
    elif packed:
        collection.also.append(f"{packed[0]}, which is packed and not read")
    for reason in [reason for reason, names in collection.skipped.items() if not names]:
        del collection.skipped[reason]
    if not collection.records:
        raise nothing_found(chosen, collection)
    return collection


def ending_in(suffixes: tuple[str, ...], source: Source) -> list[str]:
    return [name for name in source.texts.files if name.lower().endswith(suffixes)]


def candidates(source: Source) -> list[Source]:
    """A source for each layout that there are signs of, or for the one that is asked for."""
    found = [(layout, entries) for layout, entries in signs(source) if entries != ()]
    if source.layout != "auto":
        found = [c for c in found if c[0] == source.layout] or [(source.layout, source.entries)]
    found = found or [("sidecar", None)]
    if source.place is not source.texts:
        found = [c for c in found if c[0] in ELSEWHERE]
    if not found:
        raise UserError(f"--image-dir is for tables and annotations; {source.texts.root} has none")
    return [replace(source, layout=layout, entries=entries or ()) for layout, entries in found]


def signs(source: Source) -> Iterator[tuple[str, tuple[str, ...] | None]]:
    """(layout, the files that it begins with; none: (); None: it has no such files), the first of
    them the one that people mean where several caption the same images."""
    images: list[str] = []
    names: list[str] = []  # of other files
    for name in source.entries or source.texts.files:
        (images if is_image_name(name) else names).append(name)
    folders = Counter(map(posixpath.dirname, images))
    tops = {f.partition("/")[0] for f in (*folders, *map(posixpath.dirname, names))}
    base = f"{next(iter(tops))}/" if len(tops) == 1 else ""  # of a zip of a folder

    def alone(name: str) -> bool:
        """Whether it lies beside no image that it may be about."""
        return not any(stem_of(name) + suffix in source.texts.files for suffix in IMAGE_SUFFIXES)

    for metadata in METADATA_NAMES:
        if not source.entries:
            yield "imagefolder", tuple(n for n in names if posixpath.basename(n) == metadata)
    jsons = (n for n in names if n.lower().endswith(".json") and alone(n))
    annotations = [n for n in jsons if is_coco(source, n, base)]
    yield "coco", tuple(annotations)
    tables = [n for n in names if n not in annotations and (source.entries or (
        "/" not in n.removeprefix(base) and posixpath.basename(n) not in METADATA_NAMES
        and (n.lower().endswith(TABLE_SUFFIXES) or begins_as_table(source.texts, n))
        and (alone(n) or not n.lower().endswith((".json", ".txt")))))]  # fmt: skip
    yield "table", tuple(n for n in tables if split_in_name(n))  # train.csv, test.csv: one
    for name in tables:
        if not split_in_name(name):
            yield "table", (name,)
    repeated = sum(n for f, n in folders.items() if REPEATED.fullmatch(posixpath.basename(f)))
    if 2 * repeated > len(images):
        yield "kohya", None
    elif any(n.lower().endswith(TEXT_SUFFIXES) for n in names):
        yield "sidecar", None
    if isinstance(source.texts, Folder):
        yield "webdataset", tuple(n for n in names if n.lower().endswith(".tar"))


def nothing_found(source: Source, collection: Collection) -> UserError:
    """What there is, why none of it is a captioned image, and what to do."""
    files, root = source.place.files, source.texts.root
    seen = Counter(posixpath.splitext(name)[1].lower() or "no suffix" for name in files)
    what = ", ".join(f"{n:,} x {suffix}" for suffix, n in seen.most_common(5)) or "nothing"
    told = f"no captioned pictures in {root} ({source.layout}; it holds {what}; skipped: "
    told += f"{collection.skipped_line()}); "
    images = any(map(is_image_name, files))
    packed = [s for s in (".zip", *PACKED) if ending_in((s,), source)]
    if source.layout == "table":
        row = next((row for e in source.entries for _, row in rows_of(source.texts, e, print)), {})
        columns = ", ".join(map(str, row)) or "none"
        return UserError(
            f"no captioned pictures in {root / ''.join(source.entries[:1])} (skipped: "
            f"{collection.skipped_line()}); a table needs a column with paths "
            f"({', '.join(PATH_COLUMNS)}) and one with captions ({', '.join(CAPTION_COLUMNS)}), "
            f"this one has: {columns}; where the pictures lie elsewhere, --image-dir says where"
        )
    if NOT_TOGETHER in collection.skipped:
        return UserError(told + "pack the tar anew: tar --sort=name -cf FILE FOLDER")
    if packed and not images:
        return UserError(f"{told}unpack what is packed ({', '.join(packed)}), and name the folder")
    if seen.keys() & {*WITH_PIXELS} and not images:
        files = f'load_dataset("parquet", data_files="{root}/**/*.parquet", split="train")'
        read = f'load_from_disk("{root}")' if ".arrow" in seen else files
        return UserError(
            f"{told}it is a table of Hugging Face's datasets that holds the pictures themselves; "
            "this makes a folder of it, if its columns are image and text: mkdir FOLDER; python -c "
            f'\'import datasets; [(r["image"].save(f"FOLDER/{{i}}.png"), open(f"FOLDER/{{i}}'
            f'.txt", "w").write(r["text"])) for i, r in enumerate(datasets.{read})]\''
        )
    if CONVERT in collection.skipped and not images:
        return UserError(told + "convert them, and try again")
    return UserError(
        told + 'put a metadata.jsonl with lines like {"file_name": "1.png", "text": "a red bird"} '
        "there, or a .txt with the same name beside each picture; or take names of folders or "
        "files as captions: --caption-from dirname or filename"
    )
