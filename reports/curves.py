"""How did the numbers of a run change? Curves over the images seen, as a PNG and as SVG.

Drawn here, as matplotlib takes most of a second for the dozen panels that each sample renews.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from html import escape
from pathlib import Path

from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from files import write_whole

WIDTH, HEIGHT = 320, 190  # of a panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 42, WIDTH - 8, 22, HEIGHT - 18  # of its curves
COLUMNS = 4  # panels side by side in the PNG
MOST_POINTS = 400  # of a curve
MOST_TICKS = 5
# Of the PNG, whose background is white: colour, and width of lines or height of letters.
STYLES = {
    "train": ("#1f77b4", 1.5),
    "validation": ("#ff7f0e", 1.5),
    "frame": ("#aaaaaa", 1.0),
    "grid": ("#eeeeee", 1.0),
    "phase": ("#bbbbbb", 1.0),
    "title": ("black", 11),
    "tick": ("#555555", 9),
    "label": ("#777777", 8),
}
Phases = Sequence[tuple[float, str]]  # images seen, and what begins there


class Svg:
    """Draws into an <svg> element; colours are those of the page's style sheet."""

    def __init__(self, label: str):
        told = f'role="img" aria-label="{escape(label)}"'
        self.parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" {told}>']

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline class="{style}" points="{places}"/>')

    def text(self, x: float, y: float, text: str, style: str, anchor: str, up: bool) -> None:
        ends = {"l": "start", "m": "middle", "r": "end"}
        turn = f' transform="rotate(-90 {x:.0f} {y:.0f})"' if up else ""
        self.parts.append(f'<text class="{style}" x="{x:.0f}" y="{y:.0f}" dy="0.35em" '
                          f'text-anchor="{ends[anchor]}"{turn}>{escape(text)}</text>')  # fmt: skip

    def __str__(self) -> str:
        return "".join([*self.parts, "</svg>"])


class Png:
    """Draws into an image twice as large, which smooths lines once it is halved."""

    def __init__(self, width: int, height: int):
        self.image = Image.new("RGB", (2 * width, 2 * height), "white")
        self.draw, self.origin = ImageDraw.Draw(self.image), (0, 0)

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        colour, width = STYLES[style]
        left, top = self.origin
        places = [(2 * (left + x), 2 * (top + y)) for x, y in points]
        self.draw.line(places, colour, round(2 * width), joint="curve")

    def text(self, x: float, y: float, text: str, style: str, anchor: str, up: bool) -> None:
        colour, size = STYLES[style]
        x, y = round(2 * (self.origin[0] + x)), round(2 * (self.origin[1] + y))
        if not up:
            self.draw.text((x, y), text, colour, font_of(2 * size), anchor + "m")
            return
        width = round(font_of(2 * size).getlength(text))
        mask = Image.new("L", (width, 4 * size))
        ImageDraw.Draw(mask).text((0, 2 * size), text, 255, font_of(2 * size), "lm")
        above = {"l": width, "m": width // 2, "r": 0}[anchor]
        self.image.paste(colour, (x - 2 * size, y - above), mask.rotate(90, expand=True))

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, partial(self.image.reduce(2).save, format="PNG"))


@cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(findfont("DejaVu Sans"), size)


def terms_of(metrics: Sequence[dict]) -> list[str]:
    """The names of losses, scores and ratios in lines of metrics.jsonl, in their order there."""
    ends = ("_error", "_loss", "_score", "_dependence", "_nearest", "_energy")
    names = dict.fromkeys(name for m in metrics for name in m if name.endswith(ends))
    return [name for name in names if any(m.get(name) for m in metrics)]  # 0: there is no seed


def curve_of(metrics: Sequence[dict], split: str, term: str) -> list[tuple[float, float]]:
    """(images seen, value) of the lines that have this term; at most MOST_POINTS, evenly spread."""
    points = [(m["images"], m[term]) for m in metrics if m["split"] == split and term in m]
    num = min(MOST_POINTS, len(points))
    return [points[(i + 1) * len(points) // num - 1] for i in range(num)]


def ticks(low: float, high: float) -> list[float]:
    """Up to MOST_TICKS round numbers within a range."""
    digit = 10 ** math.floor(math.log10((high - low) / MOST_TICKS))
    step = next(s * digit for s in (1, 2, 5, 10) if (high - low) / (s * digit) <= MOST_TICKS)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """The same of positive numbers, about as far from each other in logarithms."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 3, 5), (1, 3), (1,)):
        found = [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high]
        if len(found) <= MOST_TICKS + 1:
            break
    return found if len(found) > 2 else ticks(low, high)


def draw_panel(canvas: Svg | Png, metrics: Sequence[dict], term: str, phases: Phases) -> None:
    """The curves of a term of training and of validation."""
    curves = {split: curve_of(metrics, split, term) for split in ("train", "validation")}
    values = [y for points in curves.values() for _, y in points]
    low, high, last = min(values), max(values), max(m["images"] for m in metrics)
    logs = low > 0 and not term.endswith(("_nearest", "_energy"))  # densities may be above 1
    scale: Callable[[float], float] = math.log if logs else float
    margin = 0.04 * (scale(high) - scale(low)) or 0.1
    bottom, top = scale(low) - margin, scale(high) + margin

    def place(images: float, value: float) -> tuple[float, float]:
        up = (scale(value) - bottom) / (top - bottom)
        return LEFT + (RIGHT - LEFT) * images / last, BOTTOM - (BOTTOM - TOP) * up

    ends = (math.exp(bottom), math.exp(top)) if logs else (bottom, top)
    for value in (log_ticks if logs else ticks)(*ends):
        _, y = place(0, value)
        canvas.line([(LEFT, y), (RIGHT, y)], "grid")
        canvas.text(LEFT - 4, y, f"{value:.4g}", "tick", "r", False)
    for images in ticks(0, last):
        x, _ = place(images, low)
        anchor = "r" if x > RIGHT - 16 else "m"
        canvas.text(min(x, RIGHT), BOTTOM + 9, f"{images:,.0f}", "tick", anchor, False)
    for images, label in phases:
        if 0 < images < last:
            x, _ = place(images, low)
            canvas.line([(x, TOP), (x, BOTTOM)], "phase")
            canvas.text(x - 6, TOP + 3, label, "label", "r", True)
    canvas.line([(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], "frame")
    for split, points in curves.items():
        places = [place(*point) for point in points]
        if len(places) == 1:
            (x, y), *_ = places
            places = [(x - 4, y), (x, y)]
        if places:
            canvas.line(places, split)
    canvas.text((LEFT + RIGHT) / 2, 10, term.replace("_", " "), "title", "m", False)


def as_svg(metrics: Sequence[dict], term: str, phases: Phases = ()) -> str:
    """The panel of a term as an <svg> element, whose label tells the last values."""
    lasts = [f"{split} {curve[-1][1]:.3g}" for split in ("train", "validation")
             if (curve := curve_of(metrics, split, term))]  # fmt: skip
    canvas = Svg(f"{term.replace('_', ' ')} over the images seen; last: {', '.join(lasts)}")
    draw_panel(canvas, metrics, term, phases)
    return str(canvas)


def save_loss_curves(
    path: Path, metrics: Sequence[dict], phases: Phases = (), note: str = ""
) -> None:
    """A panel for each loss term, score and ratio, COLUMNS side by side, and a sentence below."""
    terms = terms_of(metrics)
    rows = -(-len(terms) // COLUMNS)
    canvas = Png(COLUMNS * WIDTH, rows * HEIGHT + 60)
    for x, split in ((LEFT, "train"), (LEFT + 60, "validation")):
        canvas.line([(x, 14), (x + 14, 14)], split)
        canvas.text(x + 18, 14, split, "title", "l", False)
    canvas.text(COLUMNS * WIDTH - 8, 14, "over the images seen", "title", "r", False)
    canvas.text(LEFT, rows * HEIGHT + 46, note, "title", "l", False)
    for i, term in enumerate(terms):
        canvas.origin = (i % COLUMNS * WIDTH, 28 + i // COLUMNS * HEIGHT)
        draw_panel(canvas, metrics, term, phases)
    canvas.save(path)
