"""Protects the sheets: every image is shown as it is, in its place."""

import numpy as np
import pytest
import torch
from PIL import Image
from small import pixels

from reports import figures
from reports.figures import (
    CAPTION,
    COLUMNS,
    GAP,
    IMAGE,
    LABEL,
    TITLE,
    Block,
    save_prompts,
    save_samples,
)


def sheet_of(folder, *arguments) -> np.ndarray:
    save_samples(folder / "sheet.png", *arguments)
    return np.asarray(Image.open(folder / "sheet.png").convert("RGB"))


def test_a_sheet_shows_every_image_in_the_line_of_its_row_and_the_column_of_its_caption(tmp_path):
    num, cell = COLUMNS + 1, IMAGE + GAP  # the last one begins a second block
    real, drawn = pixels(2, num, 3, 64, 64)
    captions = [f"$no {{formula {i}" for i in range(num)]
    rows = {"real": real, "drawn": torch.from_numpy(drawn)}
    sheet = sheet_of(tmp_path, rows, captions, "title")
    for k, images in enumerate((real, drawn)):
        for i, image in enumerate(images):
            y = TITLE + (2 * cell + CAPTION) * (i // COLUMNS) + cell * k
            x = LABEL + cell * (i % COLUMNS)
            shown = sheet[y : y + IMAGE, x : x + IMAGE].transpose(2, 0, 1)
            assert np.array_equal(shown, image.repeat(2, axis=1).repeat(2, axis=2))


def test_blocks_of_a_sheet_follow_each_other_below_their_headings(tmp_path):
    first, second = pixels(2, 3, 3, 64, 64)
    blocks = [Block("held out", {"real": first}, ["a"] * 3), Block("none", {}, []),
              Block("trained on", {"real": second[:1]}, ["b"])]  # fmt: skip
    figures.save_blocks(tmp_path / "sheet.png", blocks, "title")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    height = TITLE + IMAGE + GAP + CAPTION
    assert sheet.shape[0] == TITLE + 2 * height
    for y, image in ((2 * TITLE, first[0]), (2 * TITLE + height, second[0])):
        shown = sheet[y : y + IMAGE, LABEL : LABEL + IMAGE].transpose(2, 0, 1)
        assert np.array_equal(shown, image.repeat(2, axis=1).repeat(2, axis=2))
        heading = sheet[y - TITLE : y, LABEL : LABEL + IMAGE]
        assert (heading < 128).any()


@pytest.mark.parametrize(
    "caption",
    [
        " ".join(["a bird of many words"] * 12),
        "W" * 300,
        "WWW mmm " * 40,
        "x" * 300,
        "g_y, q; " * 60,
        "\u4e2d" * 200,
    ],
)
def test_a_long_caption_ends_in_an_ellipsis_and_stays_within_its_cell(tmp_path, caption):
    images = np.full((COLUMNS + 2, 3, 64, 64), 255, np.uint8)
    captions = [""] * len(images)
    captions[1] = caption
    sheet = sheet_of(tmp_path, {"": images}, captions, "")
    written = np.argwhere((sheet < 250).any(axis=2))
    (top, left), (bottom, right) = written.min(axis=0), written.max(axis=0)
    cell, below = LABEL + IMAGE + GAP, TITLE + IMAGE + GAP
    assert cell <= left and right < cell + IMAGE and below <= top and bottom < below + CAPTION
    *_, last = figures.shortened(caption, ("DejaVu Sans",), figures.SMALL, IMAGE, 7)
    assert last.endswith(figures.ELLIPSIS)


def test_words_of_a_caption_that_fits_are_all_there_and_none_is_torn():
    words = [f"word{i}" for i in range(20)]
    lines = figures.shortened("  ".join(words), ("DejaVu Sans",), figures.SMALL, IMAGE, 7)
    assert " ".join(lines).split() == words and len(lines) > 1
    assert figures.shortened("", ("DejaVu Sans",), figures.SMALL, IMAGE, 7) == []


def test_large_images_are_made_smaller(tmp_path):
    block = np.array([[0, 0], [255, 255]], np.uint8)  # whose mean is 127.5
    sheet = sheet_of(tmp_path, {"": np.tile(block, (1, 3, 128, 128))}, ["a"], "")
    assert (sheet[TITLE : TITLE + IMAGE, LABEL : LABEL + IMAGE] == 128).all()


def test_a_sheet_of_prompts_shows_two_prompts_on_a_line_and_every_seed(tmp_path):
    images = pixels(3, 2, 3, 64, 64)
    captions = [["a caption"] * 2] * 3
    save_prompts(tmp_path / "prompts.png", images, ["$a", "b", "c"], captions, "title")
    sheet = np.asarray(Image.open(tmp_path / "prompts.png").convert("RGB"))
    for image in images.reshape(6, 3, 64, 64):
        large = image.repeat(2, axis=1).repeat(2, axis=2).transpose(1, 2, 0)
        windows = np.argwhere((sheet == large[0, 0]).all(axis=2))
        assert any(np.array_equal(sheet[y : y + IMAGE, x : x + IMAGE], large) for y, x in windows)


def test_letters_that_the_usual_font_lacks_come_from_another_that_has_them(capsys):
    path = figures.findfont("STIXGeneral")  # one that comes with matplotlib
    others = figures._letters_of(path) - figures._letters_of(figures.findfont("DejaVu Sans"))
    letter = min(letter for letter in others if letter.isprintable())
    fonts = figures.fonts_for(["a bird", letter])
    assert fonts[0] == "DejaVu Sans" and len(fonts) > 1 and not capsys.readouterr().out


def test_letters_that_no_font_has_are_told_once(monkeypatch, capsys):
    monkeypatch.setattr(figures.fontManager, "ttflist", [])
    for _ in range(2):
        assert figures.fonts_for(["a bird \u7ea2"]) == ["DejaVu Sans"]
    assert capsys.readouterr().out.count("no font here has \u7ea2") == 1
