"""Protects the sheets: every picture is shown as it is, in its place."""

import numpy as np
import torch
from PIL import Image

from figures import CAPTION, COLUMNS, GAP, LABEL, PICTURE, TITLE, save_samples


def test_a_sheet_shows_every_picture_in_the_line_of_its_row_and_the_column_of_its_caption(tmp_path):
    num = COLUMNS + 1  # the last one begins a second block
    pixels = torch.randint(256, (2, num, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    real, drawn = pixels.byte()
    captions = [f"$no {{formula {i}" for i in range(num)]
    save_samples(tmp_path / "sheet.png", {"real": real, "drawn": drawn}, captions, "title")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    cell = PICTURE + GAP
    for k, pictures in enumerate((real, drawn)):
        for i, picture in enumerate(pictures):
            y = TITLE + (2 * cell + CAPTION) * (i // COLUMNS) + cell * k
            x = LABEL + cell * (i % COLUMNS)
            shown = sheet[y : y + PICTURE, x : x + PICTURE].transpose(2, 0, 1)
            assert np.array_equal(shown[:, ::2, ::2], picture.numpy())  # twice the size
            assert np.array_equal(shown[:, 1::2, 1::2], picture.numpy())


def test_large_pictures_are_made_smaller(tmp_path):
    block = torch.tensor([[0, 0], [255, 255]])  # whose mean is 127.5
    pictures = {"": block.repeat(1, 3, 128, 128).byte()}
    save_samples(tmp_path / "sheet.png", pictures, ["a"], "")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    assert (sheet[TITLE : TITLE + PICTURE, LABEL : LABEL + PICTURE] == 128).all()
