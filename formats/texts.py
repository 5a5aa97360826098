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
from formats.places import MAX_BYTES, Place, Skipped

# The first that is there.
CAPTION_COLUMNS = ("text", "captions", "caption", "prompt", "title", "description", "comment")
PATH_COLUMNS = ("file_name", "image_path", "path", "image", "file", "filename", "filepath", "img",
                "image_name", "image_file")  # fmt: skip
MAX_TEXT = 1 << 20  # bytes that an image's own text, or a cell of a table, may have
MORE_CELLS = "rows with more cells than columns; captions with commas need quotes"
NOT_UTF8 = "captions that are not UTF-8 text"
NO_OBJECT = "rows that are no JSON object"
NUMBERED = re.compile(r"(?<=[a-zA-Z])#\d+$")  # Flickr's 1.jpg#0 is the first caption of 1.jpg
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


def lines_of(place: Place, name: str, skipped: Skipped) -> tuple[str, ...] | None:
    """The lines of a text that are not empty; None where it cannot be read, which is counted."""
    try:
        lines = re.split(r"\r\n|\r|\n", read_text(place, name, MAX_TEXT))
    except UserError as error:
        skipped["texts that cannot be read"].append(str(error))
        return None
    for number, line in enumerate(lines, start=1):
        if BROKEN.search(line):
            skipped[NOT_UTF8].append(f"{name}, line {number}")
            return None
    return tuple(line for line in map(clean_caption, lines) if line)


def texts_of(place: Place, name: str, skipped: Skipped) -> tuple[str, ...] | None:
    """The captions in a text beside an image: of a .json what a row of a table would tell, else
    lines. None where it cannot be read, which is counted."""
    if not name.lower().endswith(".json"):
        return lines_of(place, name, skipped)
    texts = captions_in_json(read_text(place, name, MAX_TEXT))
    return tuple(filter(None, map(clean_caption, texts)))


def captions_in_json(text: str) -> list[str]:
    """What an object that tells of an image says; nothing where it is none."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return []
    cell = caption_cell(row) if isinstance(row, dict) else None
    return [*filter(is_text, cell if isinstance(cell, list) else [cell])]


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
    """A list of rows, or an object {path: caption or row}, or one of these in an object that holds
    other things too. A row is an object, or a path and a caption. Lines of jsonl are read, too."""
    try:
        data = load_json(place, name)
    except UserError:
        if not any(isinstance(row, dict) for _, row in islice(jsonl_rows(place, name), 2)):
            raise
        yield from jsonl_rows(place, name)
        return
    if isinstance(data, dict):
        data = next(filter(holds_rows, data.values()), data)
    if isinstance(data, dict):
        data = [
            {"file_name": path} | (row if isinstance(row, dict) else {"text": row})
            for path, row in data.items()
        ]
    for i, row in enumerate(data):
        if isinstance(row, list) and len(row) == 2 and is_text(row[0]):
            row = dict(zip(("file_name", "text"), row, strict=True))
        yield f"entry {i}", row if isinstance(row, dict) else "entries that are no JSON objects"


def holds_rows(found: object) -> bool:
    """Whether it is a list of rows, or an object of them."""
    if isinstance(found, list):
        return bool(found) and all(isinstance(row, (dict, list)) for row in found)
    return (
        bool(found) and isinstance(found, dict) and all(isinstance(r, dict) for r in found.values())
    )


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
    try:
        with place.open(name) as file:
            first = file.read(4096)
    except OSError:
        return False
    line = first.decode(*encoding_of(first[:2])).partition("\n")[0]
    cells = [cell.strip().lower() for cell in line.split(separator_of(line))]
    return len(cells) > 1 and (
        bool({*cells} & {*PATH_COLUMNS})
        and bool({*cells} & {*CAPTION_COLUMNS})
        or is_image_name(NUMBERED.sub("", cells[0]))
    )


def separator_of(line: str) -> str:
    """What separates the cells of a table that begins with this line."""
    return "\t" if "\t" in line else next((c for c in ";|" if c in line and "," not in line), ",")


def csv_rows(place: Place, name: str) -> Rows:
    """Of .csv, .tsv and .txt. The first line names the columns, unless it holds none of their names
    and begins with that of an image. Cells are separated by commas, else tabs, semicolons or bars,
    as the first line tells. Raises UserError where quotes do not match; between tabs and bars, they
    are letters then.
    """
    csv.field_size_limit(MAX_TEXT)
    text = read_text(place, name).replace("\0", " ")
    separator = separator_of(text.lstrip().split("\n", 1)[0])
    separator = "\t" if name.lower().endswith(".tsv") else separator
    quoted = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        lines = [(quoted.line_num, cells) for cells in quoted]
    except csv.Error as error:
        if separator not in "\t|":
            raise UserError(f"{name}, line {quoted.line_num}: {error}") from error
        lines = enumerate(
            (line.split(separator) for line in re.split(r"\r\n|\r|\n", text)), start=1
        )
    columns: list[str] = []
    for number, cells in lines:
        if not cells or cells == [""]:
            continue
        if not columns:
            columns = [cell.strip().lower() for cell in cells]
            headed = set(columns) & {*PATH_COLUMNS, *CAPTION_COLUMNS, "tags"}
            if headed or not is_image_name(NUMBERED.sub("", cells[0])):
                continue
            columns = ["file_name", "text"]
        fits = len(cells) <= len(columns) or not any(cells[len(columns) :])
        yield f"line {number}", dict(zip(columns, cells, strict=False)) if fits else MORE_CELLS


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
