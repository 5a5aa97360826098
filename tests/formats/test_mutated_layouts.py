"""Protects against damaged metadata: no crash, hang or silent loss."""

import copy
import io
import json
import math
import os
import random
import re
import signal
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from written import coco, csv_of, find_collection, tar_of, write, zip_of

from config import UserError
from formats.images import IMAGE_SUFFIXES
from formats.layouts import DAMAGED_BOXES, DAMAGED_LIST, Collection, Record
from formats.places import MISSING, OUTSIDE
from formats.tars import DAMAGED, NO_CAPTION
from formats.texts import CAPTION_COLUMNS, MAX_LINES, PATH_COLUMNS, clean_caption

NUM = 8  # pictures in each collection
QUICK, MANY = 100, 600  # mutations of each collection, in the normal suite and the slow one
SECONDS = 5.0  # a reader takes milliseconds for them, on a busy machine too
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


# How many rows there are, counted by other means than the readers'


def lines_of_jsonl(text: str) -> int:
    return sum(bool(line.strip()) for line in text.split("\n"))


def rows_of_csv(text: str, comma: str = ",") -> int:
    """By a regular expression, where the reader asks the csv module."""
    text = text.replace("\0", " ").replace("\r\n", "\n").replace("\r", "\n")
    lines, first = text.split("\n"), next(filter(str.strip, text.split("\n")), "")
    if comma == "," and ("\t" in first or "," not in first):
        comma = next((c for c in "\t;|" if c in first), ",")
    cell = rf'(?:"(?:[^"]|"")*"|(?!")[^{re.escape(comma)}\n]*)'
    row = re.compile(rf"{cell}(?:{re.escape(comma)}{cell})*(?=\n|$)")

    def cells_of(line: str) -> list[str]:
        plain = re.sub(r'"(?:[^"]|"")*"', lambda found: found[0][1:-1].replace(comma, " "), line)
        return (plain if row.fullmatch(line) else line).split(comma)

    def is_row(line: str) -> bool:
        cells = cells_of(line)
        images = (cell.strip().lower().endswith(IMAGE_SUFFIXES) for cell in cells)
        return len(cells) == num_columns > 1 or any(images)

    at = num = num_columns = 0
    header: list[str] = []
    while at < len(lines):
        span = 1
        for more in range(1, min(MAX_LINES, len(lines) - at)):
            if row.fullmatch(lines[at]) or is_row(lines[at + more]):
                break
            if row.fullmatch("\n".join(lines[at : at + more + 1])):
                span = more + 1
                break
        text = "\n".join(lines[at : at + span])
        num += bool(text)
        if text and not header and (row.fullmatch(text) or comma in "\t|"):
            header = cells_of(text)
            names = {cell.strip().lower() for cell in header}
            headed = names & {*PATH_COLUMNS, *CAPTION_COLUMNS} or not header[0].endswith(".png")
            num_columns = len(header) if headed else 2
        at += span
    return num - bool(header and headed)


def entries_of(key: str) -> Callable[[str], int]:
    def count(text: str) -> int:
        entries = json.loads(text).get(key)
        return len(entries) if isinstance(entries, list) else 0

    return count


def in_tar(data: bytes) -> tuple[int, bool]:
    """How many pictures are in it, as far as Python's tarfile reads, and whether that comes to the
    block of zeros that every tar ends with."""
    num, ends_well = 0, False
    with (
        suppress(tarfile.TarError, ValueError, OSError),
        tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as archive,
    ):
        for member in archive:
            num += member.isreg() and member.name.endswith(".png")
        ends_well = data[archive.offset :][:512] == bytes(512)
    return num, ends_well


# The same of what was read or skipped


def rows_found(found: Collection) -> int:
    """Each row has one caption. Pictures that none names are no rows."""
    skipped = (len(places) for reason, places in found.skipped.items() if reason != NO_CAPTION)
    return sum(len(record.captions) for record in found.records) + sum(skipped)


def found_in(part: str) -> Callable[[Collection], int]:
    """Of what was skipped only those that lie in one part of a json."""

    def count(found: Collection) -> int:
        skipped = (f", {part}[" in place for places in found.skipped.values() for place in places)
        return sum(len(record.captions) for record in found.records) + sum(skipped)

    return count


def images_found(found: Collection) -> int:
    no_images = (DAMAGED_LIST, DAMAGED_BOXES)
    skipped = (len(names) for reason, names in found.skipped.items() if reason not in no_images)
    return len(found.records) + sum(skipped)


# Collections of NUM pictures


class Case(NamedTuple):
    files: dict[str, str | bytes]  # without the pictures
    num_rows: Callable[[str], int] | None = None  # in a damaged file; None: none is read
    num_found: Callable[[Collection], int] = rows_found  # rows that were read or skipped
    images: str = "{}.png"
    damaged: str = ""  # which of the files is mutated; "": the first
    named: bool = True  # that file is what --data names, or the whole folder is


ROWS = [{"file_name": f"{i}.png", "text": f"caption {i}, \u00e4"} for i in range(NUM)]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV, SSV, TSV = (csv_of((row.values() for row in ROWS), delimiter) for delimiter in ",;\t")
TAGGED = {row["file_name"]: {"caption": row["text"], "tags": "x"} for row in ROWS}
COCO = coco({i: f"{i}.png" for i in range(NUM)}, *((i, f"caption {i}") for i in range(NUM)))
KARPATHY = [
    {"filepath": "", "filename": f"{i}.png", "split": "train", "sentences": [{"raw": f"c {i}"}]}
    for i in range(NUM)
]
SAMPLES = [{f"{i}.png": "pixels", f"{i}.txt": f"caption {i}",
            f"{i}.json": {"caption": f"caption {i}"}} for i in range(NUM)]  # fmt: skip
DEFLATED = zipfile.ZIP_DEFLATED
BIRD = "001.A_b/bird_{}"
BIRDS = {f"text/{BIRD.format(i)}.txt": "a bird\nsmall\n" for i in range(NUM)}
SIDECARS = {f"{i}.txt": f"caption {i}\nanother\n" for i in range(NUM)}
PIXELS = {f"{i}.png": "pixels" for i in range(NUM)}
C10 = {"num_rows": lambda _: NUM, "num_found": images_found, "images": f"images/{BIRD}.jpg",
       "named": False}  # fmt: skip
CASES = {
    "imagefolder jsonl": Case({"metadata.jsonl": JSONL}, lines_of_jsonl, named=False),
    "imagefolder csv": Case({"metadata.csv": CSV}, rows_of_csv, named=False),
    "table csv": Case({"t.csv": SSV}, rows_of_csv),
    "table tsv": Case({"t.tsv": TSV}, lambda text: rows_of_csv(text, "\t")),
    "table jsonl": Case({"t.jsonl": JSONL}, lines_of_jsonl),
    "table json, a list": Case({"t.json": json.dumps(ROWS)}, lambda text: len(json.loads(text))),
    "table json, an object": Case(
        {"t.json": json.dumps(TAGGED)}, lambda text: len(json.loads(text))
    ),
    "coco": Case({"annotations/captions_val2017.json": json.dumps(COCO)},
                 entries_of("annotations"), found_in("annotations"), "val2017/{}.png"),
    "karpathy": Case({"dataset_coco.json": json.dumps({"images": KARPATHY})},
                     entries_of("images"), found_in("images"), named=False),
    "sidecar": Case(SIDECARS, lambda _: NUM, images_found, damaged="3.txt", named=False),
    "c10": Case(BIRDS, damaged=f"text/{BIRD.format(3)}.txt", **C10),
    "boxes of c10": Case(
        {"bounding_boxes.txt": "".join(f"{i} 1.0 2.0 3.0 4.0\n" for i in range(NUM)),
         "images.txt": "".join(f"{i} {BIRD.format(i)}.jpg\n" for i in range(NUM))} | BIRDS, **C10
    ),
    "pickled names of c10": Case(
        {"test/filenames.pickle": b"(lp0\nS'001.A_b/bird_3'\np1\naS'001.A_b/bird_4'\np2\na."}
        | BIRDS, **C10
    ),
    "webdataset": Case({"0.tar": tar_of(*SAMPLES)}, images=""),
    "zip of an imagefolder": Case(
        {"x.zip": zip_of(PIXELS, {"metadata.jsonl": JSONL}, method=DEFLATED)}, images=""
    ),
    "zip of sidecars": Case({"x.zip": zip_of(PIXELS, SIDECARS, method=DEFLATED)}, images=""),
}  # fmt: skip


def make(root: Path, case: Case) -> tuple[Path, Path]:
    """Returns the file that is mutated, and what --data names."""
    write(root, case.files, {case.images.format(i): "pixels" for i in range(NUM) if case.images})
    write(root.parent, dict.fromkeys(PIXELS, "nobody's business"))  # where ../0.png leads
    file = root / (case.damaged or next(iter(case.files)))
    return file, file if case.named else root


def check(root: Path, path: Path, case: Case, data: bytes) -> Collection | None:
    """Reads a damaged collection. Returns what was left of it."""
    try:
        with time_limit(SECONDS):
            found = find_collection(path)
    except UserError as error:
        assert str(error)
        return None
    assert found.records
    for record in found.records:
        assert os.path.normpath(root / record.path) == os.path.join(root, record.path)
        assert record.captions and all(text == clean_caption(text) for text in record.captions)
        assert all(record.captions)
        if case.images:
            assert (root / record.path).is_file()
    found.skipped_line().encode()
    if case.num_rows and data[:2] not in (b"\xff\xfe", b"\xfe\xff"):  # what says it is UTF-16
        text = data.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
        assert case.num_found(found) == case.num_rows(text)
    if path.suffix == ".tar":
        skipped = [name for names in found.skipped.values() for name in names]
        num = len(found.records) + sum(name.endswith(".png") for name in skipped)
        assert (num, DAMAGED not in found.skipped) == in_tar(data)
    return found


@pytest.mark.parametrize("num", [QUICK, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_what_is_whole_loses_nothing_and_damage_is_counted_or_refused(tmp_path, name, num):
    case, chance, root = CASES[name], random.Random(f"0 {name}"), tmp_path / "root"
    file, path = make(root, case)
    data = file.read_bytes()
    whole = check(root, path, case, data)
    assert len(whole.records) == NUM and not whole.skipped
    num_left = 0
    for i in range(num):
        if path.suffix == ".zip":  # another name: an open one is kept
            file.unlink()
            file = path = root / f"{i}.zip"
        if file.suffix == ".json" and i % 2:
            damaged = mutated_json(data, chance)
        else:
            damaged = mutated(data, chance, 512 if file.suffix == ".tar" else 1)
        write(file.parent, {file.name: damaged})
        try:
            num_left += check(root, path, case, damaged) is not None
        except BaseException as error:
            raise AssertionError(f"mutation {i}: {damaged[:3_000]!r}") from error
    assert num_left > num // 20, "hardly any mutation leaves something to be read"


@pytest.mark.parametrize(
    "name", ["imagefolder jsonl", "imagefolder csv", "table csv", "table jsonl"]
)
def test_a_file_cut_anywhere_gives_the_rows_before(tmp_path, name):
    case, root = CASES[name], tmp_path / "root"
    file, path = make(root, case)
    data = file.read_bytes()
    for end in range(0, len(data), 7):
        write(file.parent, {file.name: data[:end]})
        if found := check(root, path, case, data[:end]):
            assert len(found.records) >= data[:end].count(b"\n") - (file.suffix == ".csv")


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
    samples = tar_of({"a.png": b"pixels", "a.txt": b"a"})[: 4 * 512]  # without its end
    write(tmp_path, {"x.tar": samples + HOSTILE[name] + bytes(1024)})
    with time_limit(SECONDS):
        found = find_collection(tmp_path)
    assert [record.captions for record in found.records] == [("a",)]
    assert len(found.skipped[DAMAGED]) == 1


# Any text, any name

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
# a name of up to 255 bytes; / and \ separate folders
ANY_NAME = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\\\0"), min_size=1, max_size=50
).filter(lambda name: not name.startswith("."))
PARTS = st.sampled_from(["..", ".", "", "a", "C:", "~", "%2e%2e", "..%2f", "\uff0e\uff0e", " ..",
                         ".. ", "link", "0.png", "x\0", "file:", "\\\\server"])  # fmt: skip
often = settings(max_examples=30, deadline=None, database=None, derandomize=True)


def read_metadata(kind: str, rows: list[tuple[str, str]], *images: str) -> Collection:
    """A folder of which the metadata are csv, jsonl, or jsonl without letters beyond ASCII."""
    found = [json.dumps({"file_name": name, "text": text}, ensure_ascii=kind == "ascii")
             for name, text in rows]  # fmt: skip
    metadata = {"metadata.csv": csv_of(rows)} if kind == "csv" else {"metadata.jsonl": found}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), {"0.png": "nobody's business"})
        return find_collection(write(Path(folder) / "root", *images, metadata))


@settings(often, max_examples=90)
@given(st.lists(ANY_TEXT, min_size=1, max_size=4), st.sampled_from(["jsonl", "ascii", "csv"]))
def test_any_caption_comes_back_clean(texts, kind):
    texts = {f"{i}.png": text for i, text in enumerate([*texts, "last"])}
    found = read_metadata(kind, list(texts.items()), *texts)
    clean = {image: clean_caption(text) for image, text in texts.items()}
    captions = {image: (text,) for image, text in clean.items() if text}
    assert {record.path: record.captions for record in found.records} == captions
    num = len(texts) - len(captions)
    skipped = {"rows without a caption": num} if num else {}
    assert {reason: len(names) for reason, names in found.skipped.items()} == skipped


@often
@given(ANY_TEXT)
def test_cleaning_a_clean_caption_changes_nothing(text):
    assert clean_caption(clean_caption(text)) == clean_caption(text)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse some names")
@often
@example("12:30", "jsonl")
@example('a "b", c; d', "csv")
@given(ANY_NAME, st.sampled_from(["jsonl", "csv"]))
def test_any_name_of_a_file_is_found(name, kind):
    name = f"{name}.png"
    found = read_metadata(kind, [(name, "a"), ("0.png", "b")], "0.png", name)
    assert Record(name, ("a", "b") if name == "0.png" else ("a",)) in found.records
    assert not found.skipped


@often
@given(st.lists(PARTS, min_size=1, max_size=6), st.sampled_from("/\\"))
def test_no_name_leads_out_of_the_folder(parts, separator):
    name = separator.join(parts)
    found = read_metadata("jsonl", [(name, "out"), ("a/0.png", "in")], "a/0.png")
    assert {record.path for record in found.records} == {"a/0.png"}
    reasons = {OUTSIDE, MISSING} if name else {"rows without file_name"}
    is_it = len(found.records[0].captions) == 2  # a way to write a/0.png
    assert len(set(found.skipped) & reasons) == (not is_it)


@often
@given(st.lists(st.tuples(PARTS, PARTS), min_size=1, max_size=4))
def test_no_name_in_a_tar_leads_out_of_it(names):
    members = [{f"{a}/{b}x.png": b"x", f"{a}/{b}x.txt": b"x"} for a, b in names]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), {"0.tar": tar_of({"a.png": b"x", "a.txt": b"a"}, *members)})
        found = find_collection(folder)
    for record in found.records:
        assert ".." not in record.path.split("/") and record.span[0] == "0.tar"
