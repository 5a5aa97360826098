"""What do the texts of a collection say? Tables, their rows, and captions of any script."""

import ast
import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice

from config import UserError
from formats.images import is_image_name
from formats.places import MAX_BYTES, SPLITS, Place, Skipped

# The first that is there.
CAPTION_COLUMNS = ("text", "captions", "caption", "prompt", "title", "description", "comment")
PATH_COLUMNS = ("file_name", "image_path", "path", "image", "file", "filename", "filepath", "img",
                "image_name", "image_file")  # fmt: skip
MAX_TEXT = 1 << 20  # bytes that an image's own text, or a cell of a table, may have
MORE_CELLS = "rows with more cells than columns; captions with commas need quotes"
NOT_UTF8 = "captions that are not UTF-8 text, as which they are to be saved"
BAD_QUOTES = "rows whose quotes do not match, or that are too long"
MAX_LINES = 20  # that a row of a table may have
NO_OBJECT = "rows that are no JSON object"
NUMBERED = re.compile(r"(?<=\.)(\w{3,4})#\d+$")  # Flickr's 1.jpg#0 is the first caption of 1.jpg
BOXES = re.compile(r"\d+( -?\d*\.?\d+){4,}")  # a line of YOLO's labels
PRINTED = re.compile(r"""\[(?:'[^']*'|"[^"]*")(?:, *(?:'[^']*'|"[^"]*"))*\]""")  # a list of texts
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
        raise UserError(f"{name} cannot be read: {error}") from error
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


def texts_of(place: Place, name: str, skipped: Skipped) -> tuple[str, ...] | None:
    """The captions in a text beside an image: what a row of a table would say in a .json, else
    the lines that are not empty. None where it cannot be read, which is counted."""
    try:
        text = read_text(place, name, MAX_TEXT)
    except UserError as error:
        skipped["texts that cannot be read"].append(str(error))
        return None
    lines = re.split(r"\r\n|\r|\n", text)
    captions = cleaned(captions_in_json(text) if name.lower().endswith(".json") else lines)
    if isinstance(captions, int):
        skipped[NOT_UTF8].append(f"{name}, line {captions}")
        return None
    if captions and all(map(BOXES.fullmatch, captions)):
        skipped["texts of numbers only, as YOLO has them"].append(name)
        return None
    return captions


def captions_in_json(text: str) -> list[str]:
    """What an object that tells of an image says; nothing where it is none."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return [text] if BROKEN.search(text) else []
    cell = caption_cell(row) if isinstance(row, dict) else None
    return [*filter(is_text, cell if isinstance(cell, list) else [cell])]


def cleaned(texts: list[str]) -> tuple[str, ...] | int:
    """The captions that are not empty; the number of the first that is no UTF-8, if one is."""
    for number, text in enumerate(texts, start=1):
        if BROKEN.search(text):
            return number
    return tuple(filter(None, map(clean_caption, texts)))


def rows_of(
    place: Place, name: str, skip: Callable[[str, str], None]
) -> Iterator[tuple[str, dict]]:
    """("file, line N", row) of a table; skip(reason, where) is told of what is no row."""
    suffix = name.lower().rpartition(".")[2]
    rows = {"parquet": parquet_rows, "json": json_rows, "jsonl": jsonl_rows}.get(suffix, csv_rows)
    for where, row in rows(place, name):
        if isinstance(row, dict):
            yield f"{name}, {where}", row
        else:
            skip(row, f"{name}, {where}")


Rows = Iterator[tuple[str, dict | str]]  # "line N", and the row, or why there is none


def json_rows(place: Place, name: str) -> Rows:
    """A list of rows, or an object {path: caption or row}, or an object that holds some of these,
    perhaps by the names of splits. A row is an object, or a path and a caption. Lines of jsonl are
    read, too."""
    try:
        data = load_json(place, name)
    except UserError:
        if not any(isinstance(row, dict) for _, row in islice(jsonl_rows(place, name), 2)):
            raise
        yield from jsonl_rows(place, name)
        return
    parts = []
    if isinstance(data, dict) and any(map(holds_rows, data.values())):
        parts = [(key, part) for key, part in data.items()
                 if holds_rows(part) or isinstance(part, list)]  # fmt: skip
    for key, part in parts or [("", data)]:
        if isinstance(part, dict):
            part = [{"file_name": path} | (row if isinstance(row, dict) else {"text": row})
                    for path, row in part.items()]  # fmt: skip
        for i, row in enumerate(part):
            if isinstance(row, list) and len(row) == 2 and is_text(row[0]):
                row = {"file_name": row[0], "text": row[1]}
            if isinstance(row, dict) and key.lower() in SPLITS:
                row = {"split": key} | row
            where = f"{key}, entry {i}" if key else f"entry {i}"
            yield where, row if isinstance(row, dict) else "entries that are no JSON objects"


def holds_rows(found: object) -> bool:
    """Whether it is a list of rows, or an object of them."""
    rows = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    kinds = dict if isinstance(found, dict) else (dict, list)
    return len(rows) > 0 and all(isinstance(row, kinds) for row in rows)


def jsonl_rows(place: Place, name: str) -> Rows:
    for number, line in enumerate(lines_one_by_one(place, name), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            row = NOT_UTF8 if BROKEN.search(line) else NO_OBJECT
        yield f"line {number}", row


def lines_one_by_one(place: Place, name: str) -> Iterator[str]:
    """The same as the lines of `read_text`, of files that may be larger than the memory."""
    try:
        with place.open(name) as file:
            encoding, errors = encoding_of(file.read(2))
            file.seek(0)
            for line in io.TextIOWrapper(file, encoding, errors, newline="\n"):
                yield line.replace("\ufffd", "\udcff") if errors == "replace" else line
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error}") from error


def begins_as_table(place: Place, name: str) -> bool:
    """Whether it is a .txt whose first line names columns, or an image, as Flickr8k has it."""
    if not name.lower().endswith(".txt"):
        return False
    first = head(place, name)
    line = first.decode(*encoding_of(first[:2])).partition("\n")[0]
    cells = [cell.strip().lower() for cell in line.split(separator_of(line))]
    named = {*cells} & {*PATH_COLUMNS} and {*cells} & {*CAPTION_COLUMNS}
    return len(cells) > 1 and bool(named or is_image_name(NUMBERED.sub(r"\1", cells[0])))


def head(place: Place, name: str) -> bytes:
    """How a file begins; nothing where it cannot be read."""
    try:
        with place.open(name) as file:
            return file.read(4096)
    except OSError:
        return b""


def separator_of(line: str) -> str:
    """What separates the cells of a table that begins with this line."""
    return "\t" if "\t" in line else next((c for c in ";|" if c in line and "," not in line), ",")


def csv_rows(place: Place, name: str) -> Rows:
    """Of .csv, .tsv and .txt. The first line names the columns, unless it holds none of their names
    and begins with that of an image. Cells are separated by tabs, commas, semicolons or bars, as
    the first line tells."""
    csv.field_size_limit(MAX_TEXT)
    lines = re.split(r"\r\n|\r|\n", read_text(place, name).replace("\0", " "))
    if told := re.fullmatch(r"sep=(.)", lines[0].strip(), re.I):  # as Excel begins
        lines[0] = ""
    separator = told[1] if told else separator_of(next(filter(str.strip, lines), ""))
    separator = "\t" if name.lower().endswith(".tsv") else separator
    columns: list[str] = []
    for number, cells in cells_of(lines, separator, columns):
        if cells is None:
            yield f"line {number}", BAD_QUOTES
            continue
        if cells in ([], [""]):
            continue
        if not columns:
            columns += [cell.strip().lower() for cell in cells]
            headed = set(columns) & {*PATH_COLUMNS, *CAPTION_COLUMNS, "tags"}
            if headed or not is_image_name(NUMBERED.sub(r"\1", cells[0])):
                continue
            columns[:] = ["file_name", "text"]
        fits = len(cells) <= len(columns) or not any(cells[len(columns) :])
        yield f"line {number}", dict(zip(columns, cells, strict=False)) if fits else MORE_CELLS


def cells_of(
    lines: list[str], separator: str, columns: list[str]
) -> Iterator[tuple[int, list[str] | None]]:
    """The number of its first line, and the cells, of each row. In quotes there may be line breaks,
    but no line that would be a row by itself, with as many cells as columns or with the name of an
    image: there, quotes do not match. Then the first line alone is lost, which is None, or, between
    tabs or bars, read as it stands."""

    def parse(text: str) -> list[str] | None:
        try:
            return next(csv.reader([text], delimiter=separator, strict=True), [])
        except csv.Error:
            return None

    def is_row(line: str) -> bool:
        cells = parse(line) or line.split(separator)
        return len(cells) == len(columns) > 1 or any(map(is_image_name, map(str.strip, cells)))

    at = 0
    while at < len(lines):
        cells, span = parse(lines[at]), 1
        while cells is None and span < min(MAX_LINES, len(lines) - at):
            if is_row(lines[at + span]):
                break
            span += 1
            cells = parse("\n".join(lines[at : at + span]))
        if cells is None:
            span, cells = 1, lines[at].split(separator) if separator in "\t|" else None
        yield at + 1, cells
        at += span


def parquet_rows(place: Place, name: str) -> Rows:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UserError(f"{name} needs pyarrow: pip install pyarrow; or save the table as "
                        "metadata.jsonl") from error  # fmt: skip
    try:
        with place.open(name) as file:
            for i, row in enumerate(parquet.read_table(file).to_pylist()):
                yield f"row {i}", row
    except (ArrowException, OSError) as error:
        raise UserError(f"{name} cannot be read: {str(error).splitlines()[0]}") from error


def load_json(place: Place, name: str) -> list | dict:
    try:
        data = json.loads(read_text(place, name))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is no JSON: {error}") from error
    if not isinstance(data, (list, dict)):
        raise UserError(f"{name} holds neither a list nor an object")
    return data


def cell_in(row: dict, column: str) -> object:
    """What a row holds in a column; those of .csv are known in lower case."""
    return row.get(column, row.get(column.strip().lower()))


def caption_cell(row: dict) -> object:
    """What a row says of its image: the caption, followed by the tags if there are any; of LLaVA's
    conversations, the first answer. A list that was printed is one again."""
    found = (row.get(column) for column in CAPTION_COLUMNS)
    cell = next((cell for cell in found if cell and isinstance(cell, (str, list))), None)
    if cell is None and isinstance(turns := row.get("conversations"), list):
        turns = (turn for turn in turns if isinstance(turn, dict) and turn.get("from") == "gpt")
        cell = next((turn.get("value") for turn in turns), None)
    if is_text(cell) and PRINTED.fullmatch(cell):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            cell = ast.literal_eval(cell)
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
