"""Protects the pixels: images of every kind are decoded as their authors see them."""

import numpy as np
import pytest
from PIL import Image, features
from small import SIZE, pixels, saved

from formats.images import load_image


def difference(image: np.ndarray, expected: np.ndarray) -> float:
    """The largest."""
    return np.abs(image.astype(float) - expected).max()


def shades(values: np.ndarray) -> np.ndarray:
    """(H, W) -> (H, W, 3)."""
    return np.stack([values] * 3, axis=2)


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 and (H, W) uint8 -> (H, W, 3) float."""
    fraction = alpha[:, :, None] / 255
    return colours * fraction + 255 * (1 - fraction)


def with_palette(num: int) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """An image of so many colours, its numbers (16, 16) and its palette (num, 3)."""
    numbers, palette = pixels(16, 16) % num, pixels(num, 3, seed=1)
    image = Image.fromarray(numbers).convert("P")
    image.putpalette(palette.tobytes())
    return image, numbers, palette


def test_pictures_of_the_right_size_come_back_unchanged(tmp_path):
    array = pixels(16, 16, 3)
    for name in ("a.png", "a.bmp", "a.tif", "a.ppm", "a.tga"):
        assert np.array_equal(load_image(saved(tmp_path, array, name), 16), array)
    lossless = saved(tmp_path, array, "a.webp", lossless=True)
    assert np.array_equal(load_image(lossless, 16), array)
    array = np.full((16, 16, 3), (200, 30, 60), dtype=np.uint8)
    jpeg = load_image(saved(tmp_path, array, "a.jpg"), 16)
    assert jpeg.dtype == np.uint8 and difference(jpeg, array) < 5


NUMBERS = np.random.default_rng(0).integers(0, 65536, (16, 16), dtype=np.int32)
NUMBERS[0, :6] = 0, 65535, 257, 256, -5, 70_000
BITS_16 = NUMBERS.clip(0, 65535)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("a.png", pixels(16, 16), pixels(16, 16)),
        ("a.png", pixels(16, 16) > 128, (pixels(16, 16) > 128) * 255),
        ("a.png", BITS_16.astype(np.uint16), np.round(BITS_16 / 257)),
        ("a.tif", BITS_16.astype(np.uint16), np.round(BITS_16 / 257)),
        ("a.tif", NUMBERS, np.round(BITS_16 / 257)),
    ],
    ids=["8 bits", "black and white", "16 bits, png", "16 bits, tif", "32 bits, read as 16"],
)
def test_gray_pictures_become_rgb_of_8_bits(tmp_path, name, values, expected):
    loaded = load_image(saved(tmp_path, values, name), 16)
    assert loaded.dtype == np.uint8 and np.array_equal(loaded, shades(expected))


def test_floats_are_read_as_0_to_1_or_0_to_255_and_no_numbers_as_black_or_white(tmp_path):
    values = np.random.default_rng(0).random((16, 16), dtype=np.float32)
    for scale in (1, 255):
        path = saved(tmp_path, values * scale, "a.tif")
        assert Image.open(path).mode == "F"
        assert difference(load_image(path, 16), shades(values * 255)) <= 0.51
    values[0, :5] = -3, 300, np.nan, np.inf, -np.inf
    loaded = load_image(saved(tmp_path, values, "a.tif"), 16)
    assert loaded[0, :5, 0].tolist() == [0, 255, 0, 255, 0]


def test_palette_pictures_get_their_colours(tmp_path):
    image, numbers, palette = with_palette(5)
    for name in ("a.png", "a.gif"):
        path = saved(tmp_path, image, name)
        assert Image.open(path).mode == "P"
        assert np.array_equal(load_image(path, 16), palette[numbers])


def test_cmyk_pictures_become_rgb(tmp_path):
    inks = {(0, 0, 0, 0): "white", (0, 255, 255, 0): "red", (255, 255, 0, 0): "blue",
            (0, 0, 0, 255): "black"}  # fmt: skip
    for ink, colour in inks.items():
        for name in ("a.tif", "a.jpg"):
            path = saved(tmp_path, Image.new("CMYK", (16, 16), ink), name)
            expected = np.asarray(Image.new("RGB", (16, 16), colour))
            assert difference(load_image(path, 16), expected) < 5


def test_jpegs_of_printers_get_the_colours_that_pillow_gives_them(tmp_path):
    """CMYK, and the same bytes read as YCCK, which only Adobe's marker tells apart."""
    cmyk = Image.fromarray(pixels(SIZE, SIZE, 4), "CMYK")
    data = bytearray(saved(tmp_path, cmyk, "a.jpg", quality=95).read_bytes())
    data[data.index(b"Adobe") + 11] = 2  # transform: YCCK
    (tmp_path / "b.jpg").write_bytes(data)
    one, other = (load_image(tmp_path / name, SIZE) for name in ("a.jpg", "b.jpg"))
    for name, found in (("a.jpg", one), ("b.jpg", other)):
        with Image.open(tmp_path / name) as image:
            assert image.mode == "CMYK"
            assert np.array_equal(found, np.asarray(image.convert("RGB")))
    assert not np.array_equal(one, other)


def test_transparent_pictures_are_laid_over_white(tmp_path):
    colours, alpha = pixels(16, 16, 3), pixels(16, 16, seed=1) // 64 * 85  # 0, 85, 170 or 255
    for name in ("a.png", "a.tif"):
        image = load_image(saved(tmp_path, np.dstack([colours, alpha]), name), 16)
        assert difference(image, over_white(colours, alpha)) <= 1
        assert np.array_equal(image[alpha == 255], colours[alpha == 255])
        assert (image[alpha == 0] == 255).all()
    gray = Image.merge("LA", [Image.fromarray(colours[:, :, 0]), Image.fromarray(alpha)])
    image = load_image(saved(tmp_path, gray), 16)
    assert difference(image, over_white(shades(colours[:, :, 0]), alpha)) <= 1


@pytest.mark.parametrize(
    ("name", "levels", "transparency"),
    [
        ("a.png", (255, 255, 0, 255), 2),
        ("a.gif", (255, 255, 0, 255), 2),
        ("a.png", (0, 100, 200, 255), bytes((0, 100, 200, 255))),
    ],
)
def test_transparent_colours_of_a_palette_are_laid_over_white(tmp_path, name, levels, transparency):
    image, numbers, palette = with_palette(4)
    loaded = load_image(saved(tmp_path, image, name, transparency=transparency), 16)
    expected = over_white(palette[numbers], np.array(levels, np.uint8)[numbers])
    assert difference(loaded, expected) <= (1 if 100 in levels else 0)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_png_with_one_transparent_colour_gets_white_there(tmp_path, mode):
    array = np.full((16, 16, 3), 50, dtype=np.uint8)
    array[:8] = 90
    image = Image.fromarray(array).convert(mode)
    path = saved(tmp_path, image, transparency=90 if mode == "L" else (90, 90, 90))
    array[:8] = 255
    assert np.array_equal(load_image(path, 16), array)


@pytest.mark.parametrize("kind", ["webp", "avif"])
def test_modern_formats_are_read_with_their_transparency(tmp_path, kind):
    if not features.check(kind):
        pytest.skip(f"this Pillow has no {kind}")
    rgba = pixels(SIZE, SIZE, 4)
    rgba[:4, :, 3] = 0
    path = saved(tmp_path, Image.fromarray(rgba, "RGBA"), f"a.{kind}", lossless=True, quality=100)
    found = load_image(path, SIZE)
    assert (found[:3] == 255).all() and not (found[5:] == 255).all()


# How a picture is stored for each EXIF orientation (EXIF 2.3, tag 274), from the upright one.
STORED = {
    1: lambda x: x,
    2: np.fliplr,  # row 0 is the top, column 0 the right side
    3: lambda x: np.rot90(x, 2),  # bottom, right
    4: np.flipud,  # bottom, left
    5: lambda x: x.swapaxes(0, 1),  # left, top
    6: lambda x: np.rot90(x, 1),  # right, top
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),  # right, bottom
    8: lambda x: np.rot90(x, -1),  # left, bottom
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_exif_orientation_is_applied(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[274] = orientation
    for height in (16, 10):
        upright = pixels(height, 16, 3)
        stored = np.ascontiguousarray(STORED[orientation](upright))
        loaded = load_image(saved(tmp_path, stored, name, exif=exif), 16, fit="pad")
        edge = (16 - height) // 2
        assert np.array_equal(loaded[edge : 16 - edge], upright) and (loaded[:edge] == 255).all()


@pytest.mark.parametrize("resize", ["lanczos", "nearest"])
def test_crop_keeps_the_central_square_and_pad_the_whole_picture_on_white(tmp_path, resize):
    stripes = np.zeros((16, 32, 3), dtype=np.uint8)  # red, green and blue beside each other
    stripes[:, :8, 0], stripes[:, 8:-8, 1], stripes[:, -8:, 2] = 200, 200, 200
    wide = pixels(8, 16, 3)
    for turned in (False, True):
        stored = [np.ascontiguousarray(x.swapaxes(0, 1) if turned else x) for x in (stripes, wide)]
        loaded = load_image(saved(tmp_path, stored[0]), 16, resize, "crop")
        assert (loaded == (0, 200, 0)).all()
        loaded = load_image(saved(tmp_path, stored[1]), 16, resize, "pad")
        loaded = loaded.swapaxes(0, 1) if turned else loaded
        assert np.array_equal(loaded[4:12], wide)
        assert (loaded[:4] == 255).all() and (loaded[12:] == 255).all()


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 40)])
def test_tiny_and_thin_pictures_can_be_read(tmp_path, fit, shape):
    loaded = load_image(saved(tmp_path, pixels(*shape, 3)), 16, fit=fit)
    assert loaded.shape == (16, 16, 3) and loaded.dtype == np.uint8


def test_lanczos_is_that_of_pillow(tmp_path):
    array = pixels(40, 40, 3)
    expected = Image.fromarray(array).resize((16, 16), Image.Resampling.LANCZOS)
    assert difference(load_image(saved(tmp_path, array), 16), np.asarray(expected)) <= 1


def test_nearest_keeps_the_colours_of_pixel_art_exactly(tmp_path):
    array = pixels(8, 8, 3)
    path = saved(tmp_path, array)
    large = array.repeat(4, axis=0).repeat(4, axis=1)
    for fit in ("crop", "pad"):
        assert np.array_equal(load_image(path, 32, "nearest", fit), large)
        small = load_image(saved(tmp_path, large, "large.png"), 8, "nearest", fit)
        assert np.array_equal(small, array)
    assert not np.array_equal(load_image(path, 32, "lanczos"), large)


@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_are_read_whole_or_not_at_all(tmp_path, progressive):
    path = saved(tmp_path, pixels(64, 64, 3), "a.jpg", progressive=progressive)
    with Image.open(path) as image:
        assert np.array_equal(load_image(path, 64), np.asarray(image))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(OSError, match="truncated"):
        load_image(path, 64)


@pytest.mark.parametrize("kind", ["png", "webp", "gif"])
def test_of_every_kind_of_animation_the_first_frame_is_read(tmp_path, kind):
    frames = [Image.new("RGB", (SIZE, SIZE), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], f"a.{kind}", save_all=True, append_images=frames[1:],
                 **({"lossless": True} if kind == "webp" else {}))  # fmt: skip
    assert difference(load_image(path, SIZE), (255, 0, 0)) <= (2 if kind == "webp" else 0)


def test_a_box_is_cut_out_with_a_margin_and_stays_within_the_picture(tmp_path):
    values = pixels(40, 60, 3)
    path = saved(tmp_path, values)
    found = load_image(path, 12, box=(20, 10, 8, 4))  # middle 24, 12; half of the side: 6
    assert np.array_equal(found, values[6:18, 18:30])
    whole = load_image(path, 12, box=(-100, -100, 300, 300))
    assert np.array_equal(whole, load_image(path, 12))
    with pytest.raises(ValueError, match="outside"):
        load_image(path, 12, box=(500, 500, 4, 4))
