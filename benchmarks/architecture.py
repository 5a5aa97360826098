"""How does a caption become an image? The figure of the README, with the shapes of ModelConfig().

    python benchmarks/architecture.py

Writes results_short/architecture.png.
"""

import io
import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from config import ModelConfig

CONFIG = ModelConfig()
D, Z, (A, B, C, E, *_) = CONFIG.text_dim, CONFIG.noise_dim, CONFIG.channels
OUTPUT = Path(__file__).parent.parent / "results_short" / "architecture.png"
WIDTH, HEIGHT = 100, 64  # of the canvas, in its own units
TEXT, LATENT, IMAGE = "#d6e4f5", "#fbe3c0", "#d9efd3"  # colours of boxes
LINE = "#555555"
UP, MIDDLE, DOWN = 58, 37, 14  # rows: text, pooled text and latent, image
DECODER = [  # what is done, and the shape that it leaves
    ("fully\nconnected", f"{A}×4×4"), ("attention\nto words", f"{A}×4×4"),
    ("upsampling\nblock", f"{B}×8×8"), ("attention\nto words", f"{B}×8×8"),
    ("upsampling\nblock", f"{C}×16×16"), ("attention\nto words", f"{C}×16×16"),
    ("upsampling\nblock", f"{E}×32×32"),
    ("colours and\nmasks", f"{CONFIG.num_layers} layers\n7×32×32"),
    ("composite", "image\n3×64×64"),
]  # fmt: skip
COLUMNS = [7 + 10.75 * i for i in range(len(DECODER))]


def main() -> None:
    figure = Figure(figsize=(8, 8 * HEIGHT / WIDTH), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.axis("off")

    def box(x: float, y: float, text: str, colour: str, width: float = 8.8) -> None:
        corner = (x - width / 2, y - 3.5)
        style = {"boxstyle": "round,pad=0,rounding_size=0.8", "edgecolor": LINE}
        axes.add_patch(FancyBboxPatch(corner, width, 7, facecolor=colour, **style))
        axes.text(x, y, text, ha="center", va="center", fontsize=7.5)

    def label(x: float, y: float, text: str, align: str = "center") -> None:
        axes.text(x, y, text, ha=align, va="center", fontsize=7.5, color="#333333")

    def arrow(*corners: tuple[float, float], dashed: bool = False) -> None:
        """Along these corners, with the tip at the last."""
        style = {"color": LINE, "linewidth": 1, "linestyle": "--" if dashed else "-"}
        axes.plot(*zip(*corners[:-1], strict=True), **style)
        tip = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, **style}
        axes.annotate("", corners[-1], corners[-2], arrowprops=tip)

    # Text
    for x, text in ((9, "caption"), (33, "embedding"), (57, "LSTM"), (81, "self-attention")):
        box(x, UP, text, TEXT, 15)
    for x, shape in ((21, "L tokens"), (45, f"L×{D}"), (69, f"L×{D}")):
        arrow((x - 4.5, UP), (x + 4.5, UP))
        label(x, UP + 1.8, shape)
    arrow((81, UP - 3.5), (81, MIDDLE + 3.5))
    label(82, 48, f"words, L×{D}", "left")
    box(81, MIDDLE, "mean over words", TEXT, 17)
    arrow((72.5, MIDDLE), (61, MIDDLE))
    label(67, MIDDLE + 1.8, f"{D}")

    # Latent
    for y, texts, dashed in ((31, ("chance", "prior,\ngiven the words"), False),
                             (43, ("real image", "posterior,\nin training"), True)):  # fmt: skip
        box(9, y, texts[0], LATENT, 15)
        box(33, y, texts[1], LATENT, 15)
        arrow((16.5, y), (25.5, y), dashed=dashed)
        arrow((40.5, y), (51, MIDDLE + (y - MIDDLE) / 4), dashed=dashed)
    label(21, 32.8, f"{Z}")
    label(42.5, MIDDLE, f"latent, {Z}")
    box(56, MIDDLE, "text and\nlatent", LATENT, 10)

    # Image
    arrow((56, MIDDLE - 3.5), (56, 25), (COLUMNS[0], 25), (COLUMNS[0], DOWN + 3.5))
    label(48, 26.5, f"{D + Z}")
    for column, (text, shape) in zip(COLUMNS, DECODER, strict=True):
        box(column, DOWN, text, IMAGE)
        label(column, DOWN - 4.6 - shape.count("\n"), shape)
    for left, right in zip(COLUMNS, COLUMNS[1:], strict=False):
        arrow((left + 4.4, DOWN), (right - 4.4, DOWN))
    arrow((88.5, UP), (97, UP), (97, 21.5), (COLUMNS[1], 21.5), (COLUMNS[1], DOWN + 3.5))
    for column in (COLUMNS[3], COLUMNS[5]):
        arrow((column, 21.5), (column, DOWN + 3.5))
    label(89, 22.8, "keys and values")
    arrow((COLUMNS[0], 25), (1.5, 25), (1.5, 3), (COLUMNS[6], 3), (COLUMNS[6], DOWN - 6))
    for column in (COLUMNS[2], COLUMNS[4]):
        arrow((column, 3), (column, DOWN - 6))
    label(15, 4.3, f"{2 * D}; FiLM: scale and shift")
    file = io.BytesIO()
    figure.savefig(file)
    Image.open(file).convert("RGB").quantize(64).save(OUTPUT, optimize=True)


if __name__ == "__main__":
    main()
