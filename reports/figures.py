"""What do drawings look like? Sheets of them with their captions, and bars of what is measured."""

import textwrap
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cache, partial
from itertools import accumulate, groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from PIL import Image, ImageDraw, ImageFont

from files import write_whole

COLUMNS = 8  # captions side by side
IMAGE, GAP, CAPTION, TITLE, LABEL = 128, 2, 76, 30, 24  # sizes in pixels
LINE, SMALL, LARGE = 10, 8.5, 11  # of a caption's lines and letters, and of titles, in pixels
ELLIPSIS = "\u2026"
DPI = 100


class Block(NamedTuple):
    """A part of a sheet under a heading of its own; "" is none."""

    heading: str
    # Label -> images (B, 3, S, S) uint8, as for `resized`: arrays, or tensors on the CPU.
    rows: dict[str, np.ndarray]
    captions: list[str]  # B, one below each column


def save_samples(path: Path, rows: dict[str, np.ndarray], captions: list[str], title: str) -> None:
    """`save_blocks` of a single block."""
    save_blocks(path, [Block("", rows, captions)], title)


def save_blocks(path: Path, blocks: Sequence[Block], title: str) -> None:
    """A sheet with a column for each caption, and a line for each entry of rows, block by block.

    Captions beyond COLUMNS continue below; those too long for their place end in an ellipsis.
    """
    blocks = [block for block in blocks if block.captions]
    cell = IMAGE + GAP
    width = LABEL + cell * min(COLUMNS, max(len(block.captions) for block in blocks))
    heights = [TITLE * bool(block.heading) + -(-len(block.captions) // COLUMNS)
               * (len(block.rows) * cell + CAPTION) for block in blocks]  # fmt: skip
    fonts = tuple(fonts_for([title, *(text for b in blocks for text in (b.heading, *b.captions))]))
    sheet = Image.new("RGB", (width, TITLE + sum(heights)), "white")
    for line in shortened(title, fonts, LARGE, width, 1):
        _write(sheet, (width - _width_of(line, fonts, LARGE)) / 2, TITLE / 2, line, fonts, LARGE)
    for block, top in zip(blocks, accumulate(heights, initial=TITLE), strict=False):
        if block.heading:
            _write(sheet, LABEL, top + TITLE / 2, block.heading, fonts, LARGE)
            top += TITLE
        line = len(block.rows) * cell + CAPTION
        for k, (label, images) in enumerate(block.rows.items()):
            for i, pixels in enumerate(resized(np.asarray(images)[: len(block.captions)])):
                x, y = LABEL + cell * (i % COLUMNS), top + line * (i // COLUMNS) + cell * k
                sheet.paste(Image.fromarray(pixels), (x, y))
                if i % COLUMNS == 0:
                    upright = Image.new("RGB", (IMAGE, LABEL), "white")
                    left = (IMAGE - _width_of(label, fonts, LARGE)) / 2
                    _write(upright, left, LABEL / 2, label, fonts, LARGE)
                    sheet.paste(upright.rotate(90, expand=True), (0, y))
        for i, caption in enumerate(block.captions):
            x, y = LABEL + cell * (i % COLUMNS), top + line * (i // COLUMNS + 1) - CAPTION + 9
            for text in shortened(caption, fonts, SMALL, IMAGE - 4, (CAPTION - 4) // LINE):
                _write(sheet, x, y, text, fonts, SMALL)
                y += LINE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, partial(sheet.save, format="PNG"))


def shortened(
    text: str, fonts: tuple[str, ...], size: float, width: float, num_lines: int
) -> list[str]:
    """The lines of a text that is at most so many pixels wide; where it has more, the last one
    ends in an ellipsis. size: of the letters, in pixels."""
    text = " ".join(text.split())
    # Where each letter ends, in one long line.
    ends = list(accumulate((_set(letter, fonts, size)[1] for letter in text), initial=0.0))
    lines, first = [], 0
    while first < len(text) and len(lines) < num_lines:
        is_cut = len(lines) == num_lines - 1 and ends[-1] - ends[first] > width
        room = width - _width_of(ELLIPSIS, fonts, size) * is_cut
        last = max(first + 1, bisect_right(ends, ends[first] + room) - 1)
        space = text.rfind(" ", first, last + 1)
        if last < len(text) and space > first:
            last = space
        lines.append(text[first:last])
        first = last + (text[last : last + 1] == " ")
    return [*lines[:-1], lines[-1] + ELLIPSIS] if first < len(text) else lines


def _width_of(text: str, fonts: tuple[str, ...], size: float) -> float:
    return sum(_set(letter, fonts, size)[1] for letter in text)


def _write(
    sheet: Image.Image, x: float, y: float, text: str, fonts: tuple[str, ...], size: float
) -> None:
    """Write text that begins at x, its middle at y. By Pillow: matplotlib takes a second for the
    captions of a sheet."""
    draw = ImageDraw.Draw(sheet)
    for font, letters in groupby(text, lambda letter: _set(letter, fonts, size)[0]):
        part = "".join(letters)
        draw.text((x, y + 0.35 * size), part, "black", font, "ls")  # on one base line
        x += font.getlength(part)


@cache
def _set(letter: str, fonts: tuple[str, ...], size: float) -> tuple[ImageFont.FreeTypeFont, float]:
    """The first of these fonts that has a letter, and its width; where none has, it is a box."""
    paths = [findfont(name) for name in fonts]
    font = _load(next((path for path in paths if letter in _letters_of(path)), paths[0]), size)
    return font, font.getlength(letter)


_load = cache(ImageFont.truetype)  # the same font for the same letters


def save_prompts(
    path: Path, images: np.ndarray, prompts: list[str], captions: list[list[str]], title: str
) -> None:
    """A sheet with two prompts on each line: each prompt, and below it its drawings with the
    captions that they were completed to.

    images: (prompts, seeds, 3, S, S) uint8.
    """
    num = images.shape[1]
    cell, below = IMAGE + GAP, 44
    height, half = TITLE + -(-len(prompts) // 2) * (LABEL + cell + below), num * cell + LABEL
    figure = Figure(figsize=(2 * half / DPI, height / DPI), dpi=DPI)
    sheet = np.full((height, 2 * half, 3), 255, np.uint8)

    fonts = fonts_for([title, *prompts, *sum(captions, [])])

    def write(x: float, y: float, text: str, **style) -> None:
        style |= {"parse_math": False, "family": fonts}
        figure.text(x / (2 * half), 1 - y / height, text, **style)

    write(half, TITLE / 2, title, ha="center", va="center", fontsize=10)
    for k, prompt in enumerate(prompts):
        x, y = k % 2 * half + LABEL / 2, TITLE + k // 2 * (LABEL + cell + below)
        write(x, y + LABEL / 2, f"\u201c{prompt}\u201d", va="center", fontsize=12, weight="bold")
        for i, pixels in enumerate(resized(images[k])):
            left, top = int(x) + i * cell, y + LABEL
            sheet[top : top + IMAGE, left : left + IMAGE] = pixels
            text = "\n".join(textwrap.wrap(captions[k][i], 30)[:5])
            write(left, top + IMAGE + 3, text, va="top", fontsize=5)
    figure.figimage(sheet)
    _save(figure, path)


def fonts_for(texts: Iterable[str]) -> list[str]:
    """The usual font, and after it others of this machine that have letters it lacks; says which
    letters none has."""
    usual = FontProperties().get_name()
    return [usual, *_fonts_with(frozenset("".join(texts)) - _letters_of(findfont(usual)))]


@cache
def _fonts_with(letters: frozenset[str]) -> list[str]:
    names, missing = [], {letter for letter in letters if letter.isprintable()}
    for entry in sorted(fontManager.ttflist, key=lambda entry: entry.name) if missing else ():
        if entry.name.startswith("Last Resort"):  # which draws a box for every letter there is
            continue
        if found := missing & _letters_of(entry.fname):
            names.append(entry.name)
            missing -= found
    if missing:
        print(f"no font here has {''.join(sorted(missing)[:8])}, which sheets show as boxes")
    return names


@cache
def _letters_of(path: str) -> frozenset[str]:
    try:
        return frozenset(map(chr, get_font(path).get_charmap()))
    except (OSError, RuntimeError):  # removed since matplotlib has listed it, or damaged
        return frozenset()


def resized(images: np.ndarray) -> np.ndarray:
    """(B, 3, S, S) uint8 -> (B, IMAGE, IMAGE, 3) uint8: pixels are repeated, or blocks of them
    averaged. S is a power of two."""
    images, size = images.transpose(0, 2, 3, 1), images.shape[3]
    if size <= IMAGE:
        return images.repeat(IMAGE // size, axis=1).repeat(IMAGE // size, axis=2)
    blocks = images.reshape(len(images), IMAGE, size // IMAGE, IMAGE, size // IMAGE, 3)
    return blocks.mean(axis=(2, 4)).round().astype(np.uint8)


def save_evaluation(path: Path, rows: dict[str, dict]) -> None:
    """Bars for each system: shares (attributes, R-precision), ratios to real, Frechet distances.

    rows: system -> name -> [value, low, high]; the rates of attributes are nested in "attributes".
    """
    panels: dict[str, dict[str, dict]] = {"share": {}, "ratio to real": {}, "distance": {}}
    kinds = {"share": "r_precision", "distance": "frechet",
             "ratio to real": ("edge", "high", "diversity", "memorisation")}  # fmt: skip
    for system, row in rows.items():
        rates = {name: rate["all"] for name, rate in row.get("attributes", {}).items()}
        for name, value in rates.items():
            panels["share"].setdefault(name, {})[system] = value
        for panel, start in kinds.items():
            for name in (n for n in row if n.startswith(start)):
                panels[panel].setdefault(name, {})[system] = row[name]
    figure = Figure(figsize=(15, 5), dpi=DPI)
    axes, width = figure.subplots(1, len(panels)), 1 / (len(rows) + 1)
    for axis, (title, bars) in zip(axes, panels.items(), strict=True):
        for k, system in enumerate(rows):
            shown = [(i, bar[system]) for i, bar in enumerate(bars.values()) if system in bar]
            if shown:
                value, low, high = zip(*(v for _, v in shown), strict=True)
                error = [[max(0, v - a) for v, a in zip(value, low, strict=True)],
                         [max(0, b - v) for v, b in zip(value, high, strict=True)]]  # fmt: skip
                places = [i + (k - len(rows) / 2) * width for i, _ in shown]
                axis.barh(places, value, width, xerr=error, label=system)
        labels = [name.replace("_", " ") for name in bars]
        axis.set(title=title, yticks=range(len(bars)), yticklabels=labels)
        axis.tick_params(labelsize=7)
        axis.invert_yaxis()
    axes[0].legend(fontsize=7)
    axes[2].set_xscale("log")
    figure.tight_layout()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # captions of any script
        write_whole(path, partial(figure.savefig, format="png"))
