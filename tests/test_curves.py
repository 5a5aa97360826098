"""Protects the curves of a run: every number has its place, and marks are round."""

import math
import re

import numpy as np
import pytest
from PIL import Image

from reports import curves
from reports.curves import BOTTOM, COLUMNS, HEIGHT, LEFT, RIGHT, TOP, WIDTH


def lines(num: int = 20) -> list[dict]:
    train = [{"images": 10 * i, "split": "train", "regression_loss": 1 / i, "kl_loss": 0.1 * i}
             for i in range(1, num + 1)]  # fmt: skip
    validation = [{"images": 10 * i, "split": "validation", "regression_loss": 0.5,
                   "edge_energy": i / num, "text_dependence": 1.0 + i, "own_nearest": 0.5,
                   "noise_dependence": 0.0} for i in range(5, num + 1, 5)]  # fmt: skip
    return sorted(train + validation, key=lambda line: line["images"])


def points_of(svg: str, style: str) -> list[list[float]]:
    (found,) = re.findall(rf'<polyline class="{style}" points="([^"]*)"/>', svg)
    return [[float(number) for number in point.split(",")] for point in found.split()]


def test_each_term_has_a_panel_with_a_curve_in_it_and_phases_and_a_note(tmp_path):
    terms = curves.terms_of(lines())
    assert terms == ["regression_loss", "kl_loss", "edge_energy", "text_dependence", "own_nearest"]
    sheets = []
    for name, more in (("plain", ()), ("marked", ([(100, "latents")], "why curves part"))):
        curves.save_loss_curves(tmp_path / f"{name}.png", lines(), *more)
        sheets.append(np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int))
    plain, marked = sheets
    assert plain.shape == marked.shape == (2 * HEIGHT + 60, COLUMNS * WIDTH, 3)
    for i in range(len(terms)):
        y, x = 28 + i // COLUMNS * HEIGHT, i % COLUMNS * WIDTH
        panel = (slice(y + TOP, y + BOTTOM), slice(x + LEFT, x + RIGHT))
        assert (np.ptp(plain[panel], axis=2) > 60).sum() > 50  # what is coloured
        assert (plain[panel] != marked[panel]).any(axis=2).sum() > BOTTOM - TOP
    assert (plain[2 * HEIGHT + 32 :] == 255).all() and (marked[2 * HEIGHT + 32 :] < 128).any()


def test_a_curve_keeps_to_its_frame_and_to_its_values():
    svg = curves.as_svg(lines(), "regression_loss")
    train, validation = points_of(svg, "train"), points_of(svg, "validation")
    assert len(train) == 20 and len(validation) == 4
    assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in train + validation)
    heights = [BOTTOM - y for _, y in train]
    assert heights == sorted(heights, reverse=True)  # it falls
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[3], abs=0.2)  # logarithms
    assert train[1][1] == pytest.approx(validation[0][1], abs=0.1)  # 0.5, both
    assert "train 0.05, validation 0.5" in svg


def test_what_cannot_be_in_logarithms_or_does_not_change_is_drawn():
    for values in ([-1.0, 2.0], [0.0, 1.0], [3.0, 3.0], [2.0]):
        metrics = [{"images": i + 1, "split": "train", "kl_loss": v} for i, v in enumerate(values)]
        points = points_of(curves.as_svg(metrics, "kl_loss"), "train")
        assert len(points) >= 2 and all(math.isfinite(number) for p in points for number in p)


def test_of_many_points_the_last_is_kept():
    metrics = [{"images": i, "split": "train", "x_loss": 1.0} for i in range(1, 5000)]
    curve = curves.curve_of(metrics, "train", "x_loss")
    assert len(curve) == curves.MOST_POINTS and curve[-1][0] == 4999


@pytest.mark.parametrize("low, high", [(0, 80_000), (0.47, 0.49), (-3, 8), (0, 1), (1e-9, 2e-9)])
def test_ticks_are_few_and_round_and_within_the_range(low, high):
    found = curves.ticks(low, high)
    assert 2 <= len(found) <= curves.MOST_TICKS + 1 and low <= found[0] and found[-1] <= high
    assert len({f"{tick:.3g}" for tick in found}) == len(found)


@pytest.mark.parametrize("low, high", [(1e-4, 1e3), (0.2, 0.5), (0.47, 0.49), (1, 10), (3, 90)])
def test_ticks_of_logarithms_are_few_and_within_the_range(low, high):
    found = curves.log_ticks(low, high)
    assert 2 <= len(found) <= 9 and low <= found[0] and found[-1] <= high
