"""What do the texts of a collection say? Tables, their rows, and captions of any script."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterator

from command_line import UserError
from pictures import is_picture_name
from places import MAX_BYTES, Place

CAPTION_COLUMNS = ("text", "captions", "caption", "prompt")  # the first that is there
PATH_COLUMNS = ("file_name", "image_path", "path", "image", "file", "filename", "filepath", "img")
MAX_TEXT = 1 << 20  # bytes that a picture's own text, or a cell of a table, may have
MORE_CELLS = "rows with more cells than columns; captions with commas need quotes"
NOT_UTF8 = "captions that are not UTF-8 text"
NO_OBJECT = "rows that are no JSON object"
CONTROL = re.compile("[\0-\x1f\x7f-\x9f]")  # but for white space
BROKEN = re.compile("[\udc80-\udcff]")  # what read_text makes of bytes that are no UTF-8


def read_text(place: Place, name: str, limit: int = MAX_BYTES) -> str:
    """The text of a file, byte order mark removed; bytes that are no UTF-8 become half characters
    (U+DC80 to U+DCFF), see BROKEN. UTF-16 is read where its mark says so.

    Raises UserError where the disk or the zip does not give it, or it is too large.
    """
    try:
        with place.open(name) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error}") from None
    if len(data) > limit:
        raise UserError(f"{name} is larger than {limit:,} bytes")
    encoding, errors = encoding_of(data[:2])
    text = data.decode(encoding, errors)
    return text.replace("\ufffd", "\udcff") if errors == "replace" else text


def encoding_of(first: bytes) -> tuple[str, str]:
    """How to read a text that begins with these two bytes, and what to do with broken ones."""
    if first in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16", "replace"
    return "utf-8-sig", "surrogateescape"


def lines_of(place: Place, name: str) -> tuple[tuple[str, ...], str, str]:
    """The lines of a text that are not empty, "", ""; or (), why it cannot be read, and where."""
    try:
        lines = re.split(r"\r\n|\r|\n", read_text(place, name, MAX_TEXT))
    except UserError as error:
        return (), "texts that cannot be read", str(error)
    for number, line in enumerate(lines, start=1):
        if BROKEN.search(line):
            return (), NOT_UTF8, f"{name}, line {number}"
    return tuple(line for line in map(clean_caption, lines) if line), "", ""


def rows_of(
    place: Place, name: str, skip: Callable[[str, str], None]
) -> Iterator[tuple[str, dict]]:
    """("file, line N", row) of a table; skip(reason, where) is told of what is no row."""
    if name.lower().endswith(".parquet"):
        for i, row in enumerate(parquet_rows(place, name)):
            yield f"{name}, row {i}", row
        return
    if name.lower().endswith(".json"):
        data = load_json(place, name)
        if isinstance(data, dict):
            data = [
                {"file_name": path} | (row if isinstance(row, dict) else {"text": row})
                for path, row in data.items()
            ]
        for i, row in enumerate(data):
            if isinstance(row, dict):
                yield f"{name}, entry {i}", row
            else:
                skip("entries that are no JSON objects", f"{name}, entry {i}")
        return
    if name.lower().endswith(".jsonl"):
        for number, line in enumerate(lines_one_by_one(place, name), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield f"{name}, line {number}", row
            else:
                reason = NOT_UTF8 if BROKEN.search(line) else NO_OBJECT
                skip(reason, f"{name}, line {number}")
        return
    text = read_text(place, name)
    for where, row in csv_rows(text.replace("\0", " "), name):
        if row is None:
            skip(MORE_CELLS, where)
        else:
            yield where, row


def lines_one_by_one(place: Place, name: str) -> Iterator[str]:
    """The same as the lines of `read_text`, of files that may be larger than the memory."""
    try:
        with place.open(name) as file:
            encoding, errors = encoding_of(file.read(2))
            file.seek(0)
            for line in io.TextIOWrapper(file, encoding, errors, newline="\n"):
                yield line.replace("\ufffd", "\udcff") if errors == "replace" else line
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error}") from None


def csv_rows(text: str, name: str) -> Iterator[tuple[str, dict | None]]:
    """The same for .csv and .tsv, None for rows with too many cells; the first line names the
    columns, unless it holds none of their names and begins with that of a picture. Cells may be
    separated by semicolons. Raises UserError where quotes do not match."""
    csv.field_size_limit(MAX_TEXT)
    first = text.lstrip().split("\n", 1)[0].lower()
    comma = (
        "\t" if name.lower().endswith(".tsv") else ";" if ";" in first and "," not in first else ","
    )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=comma, strict=True)
    columns: list[str] = []
    try:
        for cells in reader:
            if not cells:
                continue
            if not columns:
                columns = [cell.strip().lower() for cell in cells]
                headed = set(columns) & {*PATH_COLUMNS, *CAPTION_COLUMNS, "tags"}
                if headed or not is_picture_name(cells[0]):
                    continue
                columns = ["file_name", "text"]
            fits = len(cells) <= len(columns) or not any(cells[len(columns) :])
            row = dict(zip(columns, cells, strict=False)) if fits else None
            yield f"{name}, line {reader.line_num}", row
    except csv.Error as error:
        raise UserError(f"{name}, line {reader.line_num}: {error}") from None


def parquet_rows(place: Place, name: str) -> Iterator[dict]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(f"{name} needs pyarrow: pip install pyarrow; or save the table as "
                        "metadata.jsonl") from None  # fmt: skip
    try:
        with place.open(name) as file:
            yield from parquet.read_table(file).to_pylist()
    except (ArrowException, OSError) as error:
        raise UserError(f"{name} cannot be read: {str(error).splitlines()[0]}") from None


def load_json(place: Place, name: str) -> list | dict:
    try:
        data = json.loads(read_text(place, name))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is no JSON: {error}") from None
    if not isinstance(data, (list, dict)):
        raise UserError(f"{name} holds neither a list nor an object")
    return data


def caption_cell(row: dict) -> object:
    """What a row says of its picture: the caption, followed by the tags if there are any."""
    cells = [row[c] for c in CAPTION_COLUMNS if isinstance(row.get(c), (str, list)) and row[c]]
    cell = cells[0] if cells else None
    tags = row.get("tags")
    if isinstance(tags, list):
        tags = ", ".join(filter(is_text, tags))
    if not is_text(tags) or not tags:
        return cell
    return f"{cell}, {tags}" if is_text(cell) else cell or tags


def clean_caption(text: object) -> str:
    """NFC, without control characters, white space folded; "" for what is not text."""
    if not isinstance(text, str):
        return ""
    text = text.encode(errors="ignore").decode()  # without halves of an emoji
    text = unicodedata.normalize("NFC", text.replace("\0", " ").replace("\ufeff", ""))
    return " ".join(CONTROL.sub("", " ".join(text.split())).split())


def is_text(cell: object) -> bool:
    return isinstance(cell, str)
