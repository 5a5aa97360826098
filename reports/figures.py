"""What do drawings look like? Sheets of them with their captions, and bars of what is measured."""

import shutil
import textwrap
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cache, partial
from itertools import accumulate, groupby
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from PIL import Image, ImageDraw, ImageFont

from files import write_whole

COLUMNS = 8  # captions side by side
IMAGE, GAP, CAPTION, TITLE, LABEL = 128, 2, 76, 30, 24  # sizes in pixels
LETTERS = 24  # of a word beside a map
LINE, SMALL, LARGE = 10, 8.5, 11  # of a caption's lines and letters, and of titles, in pixels
ELLIPSIS = "\u2026"
DPI = 100
MAX_HEADING, MAX_LINES = 3, 12  # lines of a prompt above its drawings, of a caption below one
MAX_SIDE, MAX_AREA = 2**16 - 1, 2**27  # pixels of a figure
LOOK, MAP, MAPS = 256, 128, 6  # sizes of a picture and of a map in pixels; maps side by side


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


class Sheet:
    """White paper, on which images and texts are put; places and sizes are in pixels."""

    def __init__(self, width: int, height: int, texts: Iterable[str]):
        """texts: all that will be written, for the fonts."""
        size = ((width + 0.01) / DPI, (height + 0.01) / DPI)  # rounded down later
        self.figure, self.fonts = Figure(figsize=size, dpi=DPI), fonts_for(texts)
        self.pixels = np.full((height, width, 3), 255, np.uint8)

    def put(self, x: int, y: int, image: np.ndarray) -> None:
        """image (H, W, 3) uint8, with its upper left corner here."""
        self.pixels[y : y + len(image), x : x + image.shape[1]] = image

    def write(self, x: float, y: float, text: str, **style) -> None:
        height, width, _ = self.pixels.shape
        text = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
        style |= {"parse_math": False, "family": self.fonts}
        self.figure.text(x / width, 1 - y / height, text, **style)

    def drawn(self) -> np.ndarray:
        """(H, W, 3) uint8."""
        self.figure.figimage(self.pixels)
        canvas = FigureCanvasAgg(self.figure)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # captions of any script
            canvas.draw()
        return np.asarray(canvas.buffer_rgba())[:, :, :3]


def wrap(text: str, width: int, most: int) -> str:
    """At most so many lines of so many letters."""
    return "\n".join(textwrap.wrap(text, width, max_lines=most, placeholder=" ..."))


def save_prompts(
    path: Path, images: np.ndarray, prompts: list[str], captions: list[list[str]], title: str
) -> None:
    """`draw_prompts` as a file, two prompts on each line."""
    large = np.stack([resized(some) for some in images])
    sheet = draw_prompts(large, prompts, captions, title=title, across=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, partial(Image.fromarray(sheet).save, format="png"))


def prompts_that_fit(num_seeds: int, side: int, most: int) -> int:
    """How many prompts, with the longest texts, a sheet of `draw_prompts` has room for that is at
    most so many pixels wide and high; 0 where it would be too wide."""
    width = width_of_prompts(num_seeds, side)
    height = min(most, MAX_AREA // width) - TITLE
    return max(1, height // (20 * MAX_HEADING + side + 10 * MAX_LINES + 12)) * (width <= most)


def width_of_prompts(num_seeds: int, side: int) -> int:
    """Of a sheet with drawings of so many pixels; a prompt has room above a single one, too."""
    return max(num_seeds * (side + GAP), 3 * (IMAGE + GAP)) + LABEL


def draw_prompts(
    images: np.ndarray,
    prompts: Sequence[str],
    captions: Sequence[Sequence[str]],
    seeds: Sequence[int] = (),
    title: str = "",
    across: int = 1,
) -> np.ndarray:
    """A sheet of prompts: each one, and below it its drawings, a column for each seed, with the
    captions that they were completed to.

    images: (prompts, seeds, S, S, 3) uint8; across: prompts side by side. Returns (H, W, 3) uint8.
    """
    _, num, side, *_ = images.shape
    cell, letters = side + GAP, side * 26 // IMAGE
    half = width_of_prompts(num, side)
    headings = [wrap(f"\u201c{prompt}\u201d", half // 11, MAX_HEADING) for prompt in prompts]
    below = [[wrap(caption, letters, MAX_LINES) for caption in some] for some in captions]
    heading = 20 * max(1 + text.count("\n") for text in headings)
    lines = max(1 + text.count("\n") for some in below for text in some)
    line_height = heading + side + 10 * lines + 12
    height = TITLE + -(-len(prompts) // across) * line_height
    sheet = Sheet(across * half, height, [title, *prompts, *sum(map(list, captions), [])])
    sheet.write(across * half / 2, TITLE / 2, title, ha="center", va="center", fontsize=10)
    for i, seed in enumerate(seeds):
        x = LABEL // 2 + i * cell + side / 2
        sheet.write(x, TITLE / 2, f"seed {seed}", ha="center", va="center", fontsize=8)
    for k, text in enumerate(headings):
        x, y = k % across * half + LABEL // 2, TITLE + k // across * line_height
        sheet.write(x, y + heading, text, va="bottom", fontsize=12, weight="bold")
        for i, pixels in enumerate(images[k]):
            left, top = x + i * cell, y + heading + 4
            sheet.put(left, top, pixels)
            sheet.write(left, top + side + 3, below[k][i], va="top", fontsize=6)
    return sheet.drawn()


def draw_look(
    title: str,
    caption: str,
    image: np.ndarray,
    words: Sequence[str],
    maps: np.ndarray,
    between: np.ndarray | None = None,
) -> np.ndarray:
    """A picture, where each word of its caption acted, and which words looked at which.

    image: (3, S, S) uint8; maps: (L, S', S'), each as strong as its own maximum; between: (L, L),
    or nothing of that. Returns (H, W, 3) uint8.
    """
    num, step, name, margin = len(words), MAP + GAP, 16, 12
    cell = max(12, min(24, 384 // num))
    beside = LOOK + 2 * margin + MAPS * step  # where the words' own map begins
    label = 7 * max(len(word[:LETTERS]) for word in words)
    width = beside + margin + (label + cell * num + margin if between is not None else 0)
    about = wrap(caption, 150, 4)
    top = 62 + 13 * (1 + about.count("\n"))
    maps_height = -(-num // MAPS) * (step + name)
    height = top + max(LOOK, maps_height, (label + cell * num) * (between is not None)) + margin
    sheet = Sheet(width, height, [title, caption, *words])
    sheet.write(margin, 22, wrap(title, width // 11, 1), va="center", fontsize=12, weight="bold")
    sheet.write(margin, 36, about, va="top", fontsize=8)
    picture = resized(image[None], LOOK)[0]
    sheet.put(margin, top, picture)
    sheet.write(LOOK + 2 * margin, top - 4, "where each word acted (bright: looked at "
                "it most; little words take the rest)", fontsize=7, color="gray")  # fmt: skip
    dimmed = resized(image[None], MAP)[0] * 0.3
    colours = matplotlib.colormaps["inferno"]
    for i, (word, heat) in enumerate(zip(words, maps, strict=True)):
        x, y = LOOK + 2 * margin + i % MAPS * step, top + i // MAPS * (step + name)
        share = Image.fromarray((heat / max(heat.max(), 1e-9)).astype(np.float32))
        share = np.asarray(share.resize((MAP, MAP), Image.Resampling.BILINEAR))[:, :, None]
        hot = 255 * colours(0.35 + 0.6 * share[:, :, 0])[:, :, :3]
        sheet.put(x, y, (dimmed + share * (hot - dimmed) * 0.8).round().astype(np.uint8))
        sheet.write(x + MAP / 2, y + MAP + 3, word[:LETTERS], ha="center", va="top", fontsize=7)
    if between is not None:
        x, y = beside + margin + label, top + label
        shares = colours(between / max(between.max(), 1e-9))[:, :, :3]
        shares = (255 * shares).round().astype(np.uint8)
        sheet.put(x, y, shares.repeat(cell, axis=0).repeat(cell, axis=1))
        sheet.write(beside + margin, top - 4, "at which words (columns) each (lines) looked",
                    fontsize=7, color="gray")  # fmt: skip
        for i, word in enumerate(words):
            middle = (i + 0.5) * cell
            sheet.write(x - 3, y + middle, word[:LETTERS], ha="right", va="center", fontsize=7)
            sheet.write(x + middle, y - 3, word[:LETTERS], ha="center", va="bottom", fontsize=7,
                        rotation=90)  # fmt: skip
    return sheet.drawn()


def as_blocks(pixels: np.ndarray) -> str:
    """(H, W, 3) uint8 for a terminal: two pixels a letter, made smaller where it is too narrow."""
    height, width, _ = pixels.shape
    columns = min(width, shutil.get_terminal_size().columns)
    size = columns, max(2, round(height * columns / width) // 2 * 2)
    rows = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX)).tolist()
    lines = ["".join("\x1b[38;2;{};{};{};48;2;{};{};{}m\u2580".format(*upper, *lower)
                     for upper, lower in zip(*rows[i : i + 2], strict=True))
             for i in range(0, len(rows), 2)]  # fmt: skip
    return "\n".join(line + "\x1b[0m" for line in lines)


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


def resized(images: np.ndarray, side: int = IMAGE) -> np.ndarray:
    """(B, 3, S, S) uint8 -> (B, side, side, 3) uint8: pixels are repeated, or blocks of them
    averaged. One of the sizes is a multiple of the other."""
    images, size = images.transpose(0, 2, 3, 1), images.shape[3]
    if size <= side:
        return images.repeat(side // size, axis=1).repeat(side // size, axis=2)
    blocks = images.reshape(len(images), side, size // side, side, size // side, 3)
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
