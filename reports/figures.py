"""What does a run look like? Sheets of samples with their captions, and curves of the losses."""

import textwrap
import warnings
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from files import write_whole

COLUMNS = 8  # captions side by side
IMAGE, GAP, CAPTION, TITLE, LABEL = 128, 2, 76, 30, 24  # sizes in pixels
DPI = 100


def save_samples(path: Path, rows: dict[str, np.ndarray], captions: list[str], title: str) -> None:
    """A sheet with a column for each caption, and a line for each entry of rows.

    rows: label -> images (B, 3, S, S) uint8, as for `resized`: arrays, or tensors on the CPU.
    Captions beyond COLUMNS continue below.
    """
    cell, num = IMAGE + GAP, len(captions)
    block_height = len(rows) * cell + CAPTION
    width = LABEL + cell * min(COLUMNS, num)
    height = TITLE + -(-num // COLUMNS) * block_height
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)

    fonts = fonts_for([title, *captions])

    def write(x: float, y: float, text: str, **style) -> None:
        style |= {"parse_math": False, "family": fonts}
        figure.text(x / width, 1 - y / height, text, **style)

    write(width / 2, TITLE / 2, title, ha="center", va="center", fontsize=8)
    sheet = np.full((height, width, 3), 255, np.uint8)
    for k, (label, images) in enumerate(rows.items()):
        for i, pixels in enumerate(resized(np.asarray(images)[:num])):
            x = LABEL + cell * (i % COLUMNS)
            y = TITLE + block_height * (i // COLUMNS) + cell * k
            sheet[y : y + IMAGE, x : x + IMAGE] = pixels
            if i % COLUMNS == 0:
                write(LABEL / 2, y + cell / 2, label, rotation=90, ha="center", va="center",
                      fontsize=8)  # fmt: skip
    for i, caption in enumerate(captions):
        text = "\n".join(textwrap.wrap(caption, 28)[:7])
        below = TITLE + block_height * (i // COLUMNS + 1) - CAPTION
        write(LABEL + cell * (i % COLUMNS), below + 4, text, va="top", fontsize=5.5)
    figure.figimage(sheet)
    _save(figure, path)


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


def save_loss_curves(path: Path, metrics: list[dict]) -> None:
    """A curve for each split of each loss term, score and ratio over the images seen.

    metrics: at least one line of metrics.jsonl.
    """
    ends = ("_loss", "_score", "text_dependence")
    terms = list(dict.fromkeys(name for m in metrics for name in m if name.endswith(ends)))
    width = 5 * len(terms)  # inches
    figure = Figure(figsize=(width, 3.5), dpi=DPI)
    axes = figure.subplots(1, len(terms), squeeze=False)[0]
    figure.subplots_adjust(0.6 / width, 0.15, 1 - 0.2 / width, 0.9)
    for axis, term in zip(axes, terms, strict=True):
        positive = all(m[term] > 0 for m in metrics if term in m)  # densities may be above 1
        for split in ("train", "validation"):
            points = [(m["images"], m[term]) for m in metrics if m["split"] == split and term in m]
            if points:
                axis.plot(*zip(*points, strict=True), label=split)
        axis.set(title=term.replace("_", " "), xlabel="images seen")
        axis.xaxis.set_major_locator(MaxNLocator(5))
        if positive:
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter("{x:g}")  # plain text: powers of ten are slow to typeset
        axis.legend(loc="upper right")
    _save(figure, path)


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
