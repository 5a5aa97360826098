"""Protects the sheets: every image is shown as it is, in its place."""

import numpy as np
import torch
from PIL import Image
from small import pixels

from reports import figures
from reports.figures import CAPTION, COLUMNS, GAP, IMAGE, LABEL, TITLE, save_prompts, save_samples


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
