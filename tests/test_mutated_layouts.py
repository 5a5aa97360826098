"""Protects against damaged metadata: no crash, hang or silent loss."""

import copy
import csv
import io
import json
import math
import os
import random
import signal
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from command_line import UserError
from layouts import DAMAGED_BOXES, DAMAGED_LIST, Collection, Record, find_collection
from places import MISSING, OUTSIDE
from tars import DAMAGED, NO_CAPTION
from texts import CAPTION_COLUMNS, NOT_UTF8, PATH_COLUMNS, clean_caption

NUM = 8  # pictures in each collection
QUICK, MANY = 100, 600  # mutations of each collection, in the normal suite and the slow one
SECONDS = 5.0  # a reader takes milliseconds for them, on a busy machine too
OLD = 1_000_000_000  # files changed just now are looked at twice, which costs time
# what random bytes would hardly ever be
NASTY = [b'"', b"'", b"\\", b",", b";", b"\t", b"\n", b"\r\n", b"\r", b"\0", b"\xef\xbb\xbf",
         b"\xff\xfe", b"\xc3", b"\xed\xa0\xbd", b"\xe2\x80\xa8", b"\\ud83d", b"\\udc80", b"\\u0000",
         b"[", b"]", b"{", b"}", b"null", b"NaN", b"1e999", b"-1", b"9" * 30, b"[" * 5_000,
         b"../", b"..\\", b"/", b"//", b"C:\\", b"file:///", b"./", b"\xcc\x81"]  # fmt: skip


VALUES = [None, True, False, 0, -1, 1.5, 10**30, math.nan, "", " ", "x", "0.png", "../0.png", "1",
          [], ["x"], [7], [[]], [None], {}, {"x": "y"}, {"raw": 7}, "\0", "\ud83d",
          "\udc80"]  # fmt: skip


class TooSlow(BaseException):
    """No kind of error that a reader would catch."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TooSlow after so long, where the system has such alarms."""

    def stop(*_) -> None:
        raise TooSlow

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    os.utime(path, (OLD, OLD))


def mutated(data: bytes, chance: random.Random, block: int) -> bytes:
    """A few bytes flipped, cut out, moved or put in; half of the time whole blocks of them."""
    step = chance.choice([1, block])
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        a, b = sorted(chance.randrange(len(data) // step + 1) * step for _ in "ab")
        if chance.random() < 0.7:  # most damage is small
            b = min(b, a + chance.randrange(1, 20) * step)
        match chance.randrange(7):
            case 0 if a < len(data):
                data = data[:a] + bytes([data[a] ^ 1 << chance.randrange(8)]) + data[a + 1 :]
            case 1:
                data = data[:a] + chance.randbytes(b - a) + data[b:]
            case 2:
                data = data[:a] + data[b:]
            case 3:
                data = data[:a]
            case 4:
                data = data[:a] + data[a:b] + data[a:]  # twice
            case 5:
                c = chance.randrange(b, len(data) + 1)
                data = data[:a] + data[b:c] + data[a:b] + data[c:]  # the two slices swapped
            case _:
                data = data[:a] + chance.choice(NASTY) + data[a:]
    return data


def mutated_json(data: bytes, chance: random.Random) -> bytes:
    """Still a json, in which a few values are gone or something else."""
    found = json.loads(data)
    for _ in range(chance.choice([1, 1, 2, 5])):
        values = list(values_in(found))
        holder, key = chance.choice(values) if values else ({}, "")
        if chance.random() < 0.2:
            holder.pop(key, None) if isinstance(holder, dict) else holder.pop(key)
        else:
            holder[key] = copy.deepcopy(chance.choice(VALUES))
    return json.dumps(found).encode()


def values_in(found: object) -> Iterator[tuple[dict | list, object]]:
    """Of each value in it, however deep: what holds it, and where."""
    pairs = found.items() if isinstance(found, dict) else enumerate(found)
    for key, value in list(pairs):
        yield found, key
        if isinstance(value, (dict, list)):
            yield from values_in(value)


# Collections of NUM pictures


class Case(NamedTuple):
    files: dict[str, str | bytes]  # without the pictures
    damaged: str  # which of them is mutated
    path: str = ""  # what --data names, "" for the whole folder
    pictures: str = "{}.png"
    num_rows: Callable[[bytes], int | None] | None = None  # in a damaged file; None: none is read
    num_found: Callable[[Collection], int] | None = None  # rows that were read or skipped


ROWS = [{"file_name": f"{i}.png", "text": f"caption {i}, \u00e4"} for i in range(NUM)]
COCO = {
    "images": [{"id": i, "file_name": f"{i}.png"} for i in range(NUM)],
    "annotations": [{"image_id": i, "caption": f"caption {i}"} for i in range(NUM)],
}
KARPATHY = {
    "images": [
        {"filepath": "", "filename": f"{i}.png", "split": "train", "sentences": [{"raw": f"c {i}"}]}
        for i in range(NUM)
    ]
}


def table(delimiter: str) -> str:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerows([("file_name", "text"), *(tuple(row.values()) for row in ROWS)])
    return file.getvalue()


def jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def tar(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zipped(files: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():  # ZipInfo: without the time of day
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return file.getvalue()


# How many rows there are, counted by other means than the readers'


def decoded(data: bytes) -> str | None:
    """None for what says that it is UTF-16."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return None
    return data.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")


def lines_of_jsonl(data: bytes) -> int | None:
    text = decoded(data)
    return None if text is None else sum(bool(line.strip()) for line in text.split("\n"))


def rows_of_csv(delimiter: str) -> Callable[[bytes], int | None]:
    def count(data: bytes) -> int | None:
        text = decoded(data)
        if text is None:
            return None
        first, comma = text.split("\n", 1)[0], delimiter
        if comma == "," and ";" in first and "," not in first:
            comma = ";"
        lines = io.StringIO(text.replace("\0", " "), newline="")
        rows = [row for row in csv.reader(lines, delimiter=comma) if row]
        cells = {cell.strip().lower() for cell in rows[0]} if rows else set()
        headed = cells & {*PATH_COLUMNS, *CAPTION_COLUMNS} or not rows[0][0].endswith(".png")
        return len(rows) - bool(headed)

    return count


def entries_of(key: str) -> Callable[[bytes], int | None]:
    def count(data: bytes) -> int | None:
        text = decoded(data)
        if text is None:
            return None
        found = json.loads(text).get(key) if key else json.loads(text)
        return len(found) if isinstance(found, list) or not key else 0

    return count


def samples_of_tar(data: bytes) -> int:
    """How many pictures are in it, as far as Python's tarfile reads."""
    names: list[str] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as archive:
            for member in archive:
                if member.isreg():
                    names.append(member.name)
    except (tarfile.TarError, ValueError, OSError):
        pass
    return sum(name.endswith(".png") for name in names)


def ends_well(data: bytes) -> bool:
    """Whether Python's tarfile comes to the block of zeros that every tar ends with."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as archive:
            archive.getmembers()
            return data[archive.offset :][:512] == bytes(512)
    except (tarfile.TarError, ValueError, OSError):
        return False


def num_read(collection: Collection) -> int:
    return sum(len(record.captions) for record in collection.records)


def rows_found(collection: Collection) -> int:
    """Each row has one caption. Pictures that none names are no rows."""
    skipped = {k: v for k, v in collection.skipped.items() if k != NO_CAPTION}
    return num_read(collection) + sum(map(len, skipped.values()))


def found_in(part: str) -> Callable[[Collection], int]:
    """The same, of what was skipped only those that lie in one part of a json."""

    def count(collection: Collection) -> int:
        places = [place for places in collection.skipped.values() for place in places]
        return num_read(collection) + sum(f", {part}[" in place for place in places)

    return count


def all_found(collection: Collection) -> int:
    skipped = {
        k: v for k, v in collection.skipped.items() if k not in (DAMAGED_LIST, DAMAGED_BOXES)
    }
    return len(collection.records) + sum(map(len, skipped.values()))


def pictures_found(collection: Collection) -> int:
    """In a tar."""
    skipped = [name for names in collection.skipped.values() for name in names]
    return len(collection.records) + sum(name.endswith(".png") for name in skipped)


TAR = tar(*((f"{i}.{part}", data) for i in range(NUM)
            for part, data in (("png", b"pixels"), ("txt", b"caption %d" % i),
                               ("json", b'{"caption": "caption %d"}' % i))))  # fmt: skip
BIRD = "001.A_b/bird_{}"
TEXT_FILES = [f"{i}.txt" for i in range(NUM)]
CASES = {
    "imagefolder jsonl": Case(
        {"metadata.jsonl": jsonl(ROWS)}, "metadata.jsonl", "", "{}.png", lines_of_jsonl, rows_found
    ),
    "imagefolder csv": Case(
        {"metadata.csv": table(",")}, "metadata.csv", "", "{}.png", rows_of_csv(","), rows_found
    ),
    "table csv": Case(
        {"t.csv": table(";")}, "t.csv", "t.csv", "{}.png", rows_of_csv(","), rows_found
    ),
    "table tsv": Case(
        {"t.tsv": table("\t")}, "t.tsv", "t.tsv", "{}.png", rows_of_csv("\t"), rows_found
    ),
    "table jsonl": Case(
        {"t.jsonl": jsonl(ROWS)}, "t.jsonl", "t.jsonl", "{}.png", lines_of_jsonl, rows_found
    ),
    "table json, a list": Case(
        {"t.json": json.dumps(ROWS)}, "t.json", "t.json", "{}.png", entries_of(""), rows_found
    ),
    "table json, an object": Case(
        {"t.json": json.dumps({r["file_name"]: {"caption": r["text"], "tags": "x"} for r in ROWS})},
        "t.json", "t.json", "{}.png", entries_of(""), rows_found,
    ),
    "coco": Case(
        {"annotations/captions_val2017.json": json.dumps(COCO)},
        "annotations/captions_val2017.json", "annotations/captions_val2017.json", "val2017/{}.png",
        entries_of("annotations"), found_in("annotations"),
    ),
    "karpathy": Case(
        {"dataset_coco.json": json.dumps(KARPATHY)}, "dataset_coco.json", "", "{}.png",
        entries_of("images"), found_in("images"),
    ),
    "sidecar": Case(
        {name: f"caption of {name}\nanother\n" for name in TEXT_FILES}, "3.txt", "", "{}.png",
        lambda _: NUM, all_found,
    ),
    "c10": Case(
        {f"text_c10/{BIRD.format(i)}.txt": "a bird\nsmall\n" for i in range(NUM)},
        f"text_c10/{BIRD.format(3)}.txt", "", f"images/{BIRD}.jpg", lambda _: NUM, all_found,
    ),
    "boxes of c10": Case(
        {f"text_c10/{BIRD.format(i)}.txt": "a bird" for i in range(NUM)}
        | {"images.txt": "".join(f"{i} {BIRD.format(i)}.jpg\n" for i in range(NUM)),
           "bounding_boxes.txt": "".join(f"{i} 1.0 2.0 3.0 4.0\n" for i in range(NUM))},
        "bounding_boxes.txt", "", f"images/{BIRD}.jpg", lambda _: NUM, all_found,
    ),
    "pickled names of c10": Case(
        {f"text/{BIRD.format(i)}.txt": "a bird" for i in range(NUM)}
        | {"test/filenames.pickle": b"(lp0\nS'001.A_b/bird_3'\np1\naS'001.A_b/bird_4'\np2\na."},
        "test/filenames.pickle", "", f"images/{BIRD}.jpg", lambda _: NUM, all_found,
    ),
    "webdataset": Case({"0.tar": TAR}, "0.tar", "0.tar", "", samples_of_tar, pictures_found),
    "zip of an imagefolder": Case(
        {"x.zip": zipped(dict.fromkeys([f"{i}.png" for i in range(NUM)], "pixels")
                         | {"metadata.jsonl": jsonl(ROWS)})},
        "x.zip", "x.zip", "",
    ),
    "zip of sidecars": Case(
        {"x.zip": zipped({f"{i}.{part}": f"{part} {i}" for i in range(NUM)
                          for part in ("png", "txt")})},
        "x.zip", "x.zip", "",
    ),
}  # fmt: skip


def make(root: Path, case: Case) -> None:
    for i in range(NUM if case.pictures else 0):
        write(root / case.pictures.format(i), b"pixels")
        write(root.parent / f"{i}.png", b"nobody's business")  # where ../0.png leads
    for name, content in case.files.items():
        write(root / name, content)


def check(root: Path, path: Path, case: Case, data: bytes) -> bool:
    """Reads a damaged collection. Returns whether anything was left of it."""
    try:
        with time_limit(SECONDS):
            collection = find_collection(path)
    except UserError as error:
        assert str(error)
        return False
    assert collection.records
    for record in collection.records:
        assert os.path.normpath(root / record.path) == os.path.join(root, record.path)
        assert record.captions and all(text == clean_caption(text) for text in record.captions)
        assert all(record.captions)
        if case.pictures:
            assert (root / record.path).is_file()
    collection.skipped_line().encode()
    if case.num_rows and (rows := case.num_rows(data)) is not None:
        assert case.num_found(collection) == rows
    if path.suffix == ".tar":
        assert (DAMAGED in collection.skipped) == (not ends_well(data))
    return True


def mutate_and_read(tmp_path: Path, name: str, num: int) -> None:
    case, chance = CASES[name], random.Random(f"0 {name}")
    root = tmp_path / "root"
    make(root, case)
    file, path = root / case.damaged, root / case.path
    data = file.read_bytes()
    assert check(root, path, case, data), "the collection is not read even when it is whole"
    num_left = 0
    for i in range(num):
        if path.suffix == ".zip":  # another name: an open one is kept
            file.unlink()
            file = path = root / f"{i}.zip"
        if file.suffix == ".json" and i % 2:
            damaged = mutated_json(data, chance)
        else:
            damaged = mutated(data, chance, 512 if file.suffix == ".tar" else 1)
        write(file, damaged)
        try:
            num_left += check(root, path, case, damaged)
        except BaseException as error:
            raise AssertionError(f"mutation {i}: {damaged[:3_000]!r}") from error
    assert num_left > num // 20, "hardly any mutation leaves something to be read"


@pytest.mark.parametrize("name", CASES)
def test_damage_is_skipped_and_counted_or_refused(tmp_path, name):
    mutate_and_read(tmp_path, name, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_much_damage_is_skipped_and_counted_or_refused(tmp_path, name):
    mutate_and_read(tmp_path, name, MANY)


@pytest.mark.parametrize("name", [name for name in CASES if "zip" not in name])
def test_a_collection_that_is_whole_loses_nothing(tmp_path, name):
    make(tmp_path / "root", CASES[name])
    collection = find_collection(tmp_path / "root" / CASES[name].path)
    assert len(collection.records) == NUM
    assert not collection.skipped


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.damaged.endswith((".csv", "l"))])
def test_a_file_cut_anywhere_gives_the_rows_before(tmp_path, name):
    root, case = tmp_path / "root", CASES[name]
    make(root, case)
    file = root / case.damaged
    data = file.read_bytes()
    for end in range(0, len(data), 7):
        write(file, data[:end])
        if check(root, root / case.path, case, data[:end]):
            found = find_collection(root / case.path).records
            assert len(found) >= data[:end].count(b"\n") - (not case.damaged.endswith("l"))


# Tars whose headers are made to break a reader


def hostile_header(kind: bytes, size: bytes, name: str = "b.png") -> bytes:
    """A header whose checksum is right, and its size what no tool writes."""
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    header[124:136], header[156:157] = size, kind
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


HUGE = b"\x80" + b"\x7f" * 11
HOSTILE = {
    "a size beyond all files": hostile_header(tarfile.REGTYPE, HUGE),
    "a size beyond this file": hostile_header(tarfile.REGTYPE, b"77777777777\0"),
    "a size that leads back": hostile_header(tarfile.REGTYPE, b"\xff" * 10 + b"\xfe\0"),
    "a name beyond all memory": hostile_header(tarfile.GNUTYPE_LONGNAME, HUGE),
    "names of names": hostile_header(tarfile.GNUTYPE_LONGNAME, b"00000000000\0") * 5_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_counted_and_what_came_before_is_read(tmp_path, name):
    samples = tar(("a.png", b"pixels"), ("a.txt", b"a"))[: 4 * 512]  # without its end
    write(tmp_path / "x.tar", samples + HOSTILE[name] + bytes(1024))
    with time_limit(SECONDS):
        collection = find_collection(tmp_path)
    assert [record.captions for record in collection.records] == [("a",)]
    assert len(collection.skipped[DAMAGED]) == 1


def test_a_file_without_a_name_in_a_zip_is_no_obstacle(tmp_path):
    write(tmp_path / "x.zip", zipped({"a.png": "pixels", "a.txt": "a", "": "nothing"}))
    assert find_collection(tmp_path / "x.zip").records == [Record("a.png", ("a",))]


# Any text, any name

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
# a name of up to 255 bytes; / and \ separate folders
ANY_NAME = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\\\0"), min_size=1, max_size=50
).filter(lambda name: not name.startswith("."))
PARTS = st.sampled_from(["..", ".", "", "a", "C:", "~", "%2e%2e", "..%2f", "\uff0e\uff0e", " ..",
                         ".. ", "link", "0.png", "x\0", "file:", "\\\\server"])  # fmt: skip
often = settings(max_examples=30, deadline=None, database=None, derandomize=True)


def read_metadata(name: str, content: str, *pictures: str) -> Collection:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        write(root.parent / "0.png", b"nobody's business")
        for picture in pictures:
            write(root / picture, b"pixels")
        write(root / name, content)
        return find_collection(root)


@often
@given(st.lists(ANY_TEXT, min_size=1, max_size=4), st.booleans())
def test_any_caption_comes_back_clean_from_jsonl(texts, ascii_only):
    rows = [{"file_name": f"{i}.png", "text": text} for i, text in enumerate([*texts, "last"])]
    content = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
    check_captions("metadata.jsonl", content, texts)


@often
@given(st.lists(ANY_TEXT, min_size=1, max_size=4))
def test_any_caption_comes_back_clean_from_csv(texts):
    file = io.StringIO()
    rows = [(f"{i}.png", text) for i, text in enumerate([*texts, "last"])]
    csv.writer(file).writerows([("file_name", "text"), *rows])
    check_captions("metadata.csv", file.getvalue(), texts)


def check_captions(name: str, content: str, texts: list[str]) -> None:
    pictures = [f"{i}.png" for i in range(len(texts) + 1)]
    collection = read_metadata(name, content, *pictures)
    clean = [clean_caption(text) for text in [*texts, "last"]]
    assert {record.path: record.captions for record in collection.records} == {
        picture: (text,) for picture, text in zip(pictures, clean, strict=True) if text
    }
    num_empty = sum(not text for text in clean)
    assert {reason: len(found) for reason, found in collection.skipped.items()} == (
        {"rows without a caption": num_empty, NO_CAPTION: num_empty} if num_empty else {}
    )


@often
@given(ANY_TEXT)
def test_cleaning_a_clean_caption_changes_nothing(text):
    assert clean_caption(clean_caption(text)) == clean_caption(text)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse some names")
@often
@example("12:30", "metadata.jsonl")
@example('a "b", c; d', "metadata.csv")
@given(ANY_NAME, st.sampled_from(["metadata.jsonl", "metadata.csv"]))
def test_any_name_of_a_file_is_found(name, metadata):
    name = f"{name}.png"
    file = io.StringIO()
    csv.writer(file).writerows([("file_name", "text"), (name, "a"), ("0.png", "b")])
    rows = [{"file_name": name, "text": "a"}, {"file_name": "0.png", "text": "b"}]
    content = file.getvalue() if metadata.endswith("csv") else jsonl(rows)
    collection = read_metadata(metadata, content, "0.png", name)
    captions = ("a", "b") if name == "0.png" else ("a",)
    assert Record(name, captions) in collection.records
    assert not collection.skipped


@often
@given(st.lists(PARTS, min_size=1, max_size=6), st.sampled_from("/\\"))
def test_no_name_leads_out_of_the_folder(parts, separator):
    name = separator.join(parts)
    rows = [{"file_name": name, "text": "out"}, {"file_name": "a/0.png", "text": "in"}]
    collection = read_metadata("metadata.jsonl", jsonl(rows), "a/0.png")
    assert {record.path for record in collection.records} == {"a/0.png"}
    reasons = {OUTSIDE, MISSING} if name else {"rows without file_name"}
    is_it = len(collection.records[0].captions) == 2  # a way to write a/0.png
    assert len(set(collection.skipped) & reasons) == (not is_it)


@often
@given(st.lists(st.tuples(PARTS, PARTS), min_size=1, max_size=4))
def test_no_name_in_a_tar_leads_out_of_it(names):
    members = [(f"{a}/{b}x.{part}", b"x") for a, b in names for part in ("png", "txt")]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "0.tar", tar(("a.png", b"x"), ("a.txt", b"a"), *members))
        collection = find_collection(folder)
    for record in collection.records:
        assert ".." not in record.path.split("/") and record.span[0] == "0.tar"


def test_a_text_that_is_not_utf8_is_counted_once_however_many_pictures_it_has(tmp_path):
    for name in ("a.png", "a.jpg", "b.png"):
        write(tmp_path / name, b"pixels")
    write(tmp_path / "a.txt", b"caf\xe9")
    write(tmp_path / "b.txt", "b")
    collection = find_collection(tmp_path)
    assert collection.records == [Record("b.png", ("b",))]
    assert len(collection.skipped[NOT_UTF8]) == 2  # each of the pictures is lost
