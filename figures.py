"""What does a run look like? Sheets of samples with their captions, and curves of the losses."""

import textwrap
import warnings
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

COLUMNS = 8


def save_samples(path: Path, rows: dict[str, Tensor], captions: list[str], title: str) -> None:
    """A sheet with one column for each caption and one line for each entry of rows.

    rows: label -> pictures (B, 3, H, W) uint8. Captions beyond COLUMNS continue below.
    """
    num_blocks = -(-len(captions) // COLUMNS)
    num_columns = min(COLUMNS, len(captions))
    num_rows = num_blocks * len(rows)
    figure = Figure(figsize=(1.5 * num_columns + 0.3, 1.5 * num_rows + num_blocks), dpi=100)
    axes = figure.subplots(num_rows, num_columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for i, caption in enumerate(captions):
        block, column = divmod(i, COLUMNS)
        for j, (label, pictures) in enumerate(rows.items()):
            axis = axes[block * len(rows) + j, column]
            axis.imshow(pictures[i].permute(1, 2, 0).cpu().numpy())
            if column == 0:
                axis.set_ylabel(label, fontsize=8)
        text = "\n".join(textwrap.wrap(caption, 27)[:6])
        axis.set_xlabel(text, fontsize=6, parse_math=False)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout(pad=0.4)
    _save(figure, path)


def save_loss_curves(path: Path, metrics: list[dict]) -> None:
    """One curve for each loss term and split over the images seen. metrics: lines of
    metrics.jsonl."""
    terms = [name for name in metrics[0] if name.endswith("_loss")] if metrics else []
    figure = Figure(figsize=(5 * max(1, len(terms)), 3.5), dpi=100)
    axes = figure.subplots(1, max(1, len(terms)), squeeze=False)[0]
    for axis, term in zip(axes, terms, strict=False):
        for split in ("train", "validation"):
            points = [(m["images"], m[term]) for m in metrics if m["split"] == split]
            if points:
                axis.plot(*zip(*points, strict=True), label=split)
        axis.set(title=term.replace("_", " "), xlabel="images seen", yscale="log")
        axis.legend()
    figure.tight_layout()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # captions of any script
        figure.savefig(path)
