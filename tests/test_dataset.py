"""Protects the pixels and captions that training sees: decoding, splits and the cache."""

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

import cache
import dataset
import scenes
from cache import hash_of
from command_line import UserError
from dataset import CaptionedImages
from pictures import load_picture

SIZE = 8  # of the pictures in the folders made here; they come back unchanged at that size


def folders(cache: Path) -> Iterator[Path]:
    """The caches of pictures there, finished or not; beside them lie indices and lock files."""
    return (path for path in cache.iterdir() if path.is_dir() and "-index-" not in path.name)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def make_folder(folder: Path, num: int = 5) -> Path:
    """0.png, 1.png ... of SIZE pixels, each with two captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(num):
        Image.fromarray(pixels(SIZE, SIZE, 3, seed=i)).save(folder / f"{i}.png")
    write_captions(folder, num)
    return folder


def write_captions(folder: Path, num: int, word: str = "picture") -> None:
    rows = [
        json.dumps({"file_name": f"{i}.png", "text": [f"{word} {i}", f"number {i}"]})
        for i in range(num)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")


def read(data, cache_dir: Path, split: str = "train", **kwargs) -> CaptionedImages:
    settings = {"image_size": SIZE, "validation_share": 0.0, "show_progress": False} | kwargs
    return CaptionedImages(data, split, cache_dir=cache_dir, **settings)


def upright(tensor: torch.Tensor) -> np.ndarray:
    """(3, S, S) -> (S, S, 3)."""
    return tensor.numpy().transpose(1, 2, 0)


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Names of the pictures decoded so far."""
    names, real = [], load_picture

    def load_and_tell(file, **settings):
        names.append(Path(file.name).name)
        return real(file, **settings)

    monkeypatch.setattr(cache, "load_picture", load_and_tell)
    return names


def saved(tmp_path: Path, picture: Image.Image | np.ndarray, name: str = "a.png", **kwargs) -> Path:
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(tmp_path / name, **kwargs)
    return tmp_path / name


def shades(values: np.ndarray) -> np.ndarray:
    """(H, W) -> (H, W, 3)."""
    return np.stack([values] * 3, axis=2)


# Items


def test_items_are_pixels_captions_and_path(tmp_path):
    data = read(make_folder(tmp_path / "birds"), tmp_path / "cache")
    assert len(data) == 5
    for i in range(5):
        picture, captions, path = data[i]
        assert picture.dtype == torch.uint8 and picture.shape == (3, SIZE, SIZE)
        assert np.array_equal(upright(picture), pixels(SIZE, SIZE, 3, seed=i))
        assert captions == [f"picture {i}", f"number {i}"]
        assert path == f"{i}.png"
    assert data.captions() == [c for i in range(5) for c in (f"picture {i}", f"number {i}")]


def test_a_list_of_pairs_gives_the_same_items(tmp_path):
    folder = make_folder(tmp_path / "birds")
    pairs = [(folder / f"{i}.png", f"a {i}") for i in (3, 1)] + [
        (str(folder / "0.png"), ["b", "c"])
    ]
    data = read(pairs, tmp_path / "cache")
    assert [data[i][1] for i in range(len(data))] == [["a 3"], ["a 1"], ["b", "c"]]
    for i, seed in enumerate((3, 1, 0)):
        assert np.array_equal(upright(data[i][0]), pixels(SIZE, SIZE, 3, seed=seed))
    other = read([(folder / "4.png", "four")], tmp_path / "cache")
    assert np.array_equal(upright(other[0][0]), pixels(SIZE, SIZE, 3, seed=4))
    assert np.array_equal(upright(data[1][0]), pixels(SIZE, SIZE, 3, seed=1))  # still its own


def test_a_batch_is_its_items(tmp_path):
    data = read(make_folder(tmp_path / "birds", 12), tmp_path / "cache", validation_share=0.4)
    numbers = [3, 0, 3, len(data) - 1]
    pictures, captions = data.batch(numbers)
    assert pictures.shape == (4, 3, SIZE, SIZE) and pictures.dtype == torch.uint8
    for picture, several, i in zip(pictures, captions, numbers, strict=True):
        assert torch.equal(picture, data[i][0]) and list(several) == data[i][1]


def test_changing_an_item_does_not_change_the_data(tmp_path):
    data = read(make_folder(tmp_path / "birds"), tmp_path / "cache")
    before = data[0][0].clone()
    picture, captions, _ = data[0]
    picture.zero_()
    captions.clear()
    data.batch([0])[0].zero_()
    assert torch.equal(data[0][0], before) and len(data[0][1]) == 2


def test_the_built_in_scenes_are_what_scenes_draws(tmp_path, monkeypatch):
    sizes = {"train": 6, "validation": 3, "unseen": 2}
    monkeypatch.setattr(dataset, "NUM_SCENES", sizes)
    for split, num in sizes.items():
        data = read(None, tmp_path, split, image_size=16)
        assert len(data) == num
        for i in range(num):
            picture, caption, _ = scenes.render(0, i, split, 16)
            assert np.array_equal(upright(data[i][0]), picture)
            assert data[i][1:] == ([caption], f"{split}/{i:06d}")
    monkeypatch.setattr(dataset, "NUM_SCENES", {"train": 7, "validation": 3, "unseen": 2})
    assert len(read(None, tmp_path, image_size=16)) == 7


def test_many_pictures_decoded_side_by_side_keep_their_order(tmp_path):
    folder = make_folder(tmp_path / "birds", 200)
    (folder / "7.png").write_bytes(b"broken")
    data = read(folder, tmp_path / "cache")
    assert len(data) == 199
    for i in range(len(data)):
        picture, _, path = data[i]
        assert np.array_equal(upright(picture), pixels(SIZE, SIZE, 3, seed=int(Path(path).stem)))


@pytest.mark.parametrize("wrong", [{"resize": "cubic"}, {"fit": "stretch"}])
def test_settings_that_do_not_exist_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="is one of"):
        read(make_folder(tmp_path / "birds"), tmp_path / "cache", **wrong)


# Splits


def test_train_and_validation_share_nothing_and_hold_everything(tmp_path):
    folder = make_folder(tmp_path / "birds", 60)
    parts = [
        read(folder, tmp_path, split, validation_share=0.25) for split in ("train", "validation")
    ]
    train, validation = ({data[i][2] for i in range(len(data))} for data in parts)
    assert not train & validation
    assert train | validation == {f"{i}.png" for i in range(60)}
    assert 5 <= len(validation) <= 25  # 15 expected, standard deviation 3.4
    for data in parts:
        for i in range(len(data)):
            picture, captions, path = data[i]
            assert captions[1] == f"number {path.removesuffix('.png')}"
            seed = int(path.removesuffix(".png"))
            assert np.array_equal(upright(picture), pixels(SIZE, SIZE, 3, seed=seed))


def test_the_other_split_is_that_of_the_same_folder(tmp_path):
    folder = make_folder(tmp_path / "birds", 40)
    train = read(folder, tmp_path / "cache", "train", validation_share=0.25)
    expected = read(folder, tmp_path / "cache", "validation", validation_share=0.25)
    num, other = len(train), train.other_split("validation")
    assert len(other) == len(expected) > 0 and len(train) == num
    assert other.captions() == expected.captions()
    numbers = range(len(other))
    assert torch.equal(other.batch(numbers)[0], expected.batch(numbers)[0])


def test_a_picture_stays_in_its_split_when_others_are_added_or_the_folder_moves(tmp_path):
    def validation(folder) -> set[str]:
        data = read(folder, tmp_path / "cache", "validation", validation_share=0.3)
        return {data[i][2] for i in range(len(data))}

    before = validation(make_folder(tmp_path / "birds", 30))
    after = validation(make_folder(tmp_path / "birds", 50))
    assert before and after & {f"{i}.png" for i in range(30)} == before
    shutil.move(tmp_path / "birds", tmp_path / "elsewhere")
    assert validation(tmp_path / "elsewhere") == after


@pytest.mark.parametrize("share", [0, 0.05, 0.5, 1])
def test_the_validation_share_is_about_right(share):
    hashes = np.array([hash_of(f"train/{i}.png") for i in range(4_000)], np.uint64)
    num = dataset.held_out(hashes, share).sum()
    assert num / 4_000 == pytest.approx(share, abs=0 if share in (0, 1) else 0.03)


def test_a_growing_validation_share_only_adds_pictures():
    hashes = np.array([hash_of(f"{i}") for i in range(500)], np.uint64)
    few, many = (dataset.held_out(hashes, share) for share in (0.1, 0.3))
    assert few.any() and not (few & ~many).any()


def test_a_file_name_that_is_not_utf8_is_no_obstacle(tmp_path):
    folder = tmp_path / "birds"
    folder.mkdir()
    name = os.fsdecode(b"caf\xe9")
    try:
        saved(folder, pixels(SIZE, SIZE, 3), f"{name}.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    (folder / f"{name}.txt").write_text("a bird")
    (folder / f"broken{name}.png").write_bytes(b"broken")
    (folder / f"broken{name}.txt").write_text("a bird")
    train = read(folder, tmp_path / "cache", validation_share=0.5)
    assert train.captions() + train.other_split("validation").captions() == ["a bird"]
    train.summary().encode()  # it can be printed


def test_a_split_that_the_collection_tells_is_kept(tmp_path):
    folder = make_folder(tmp_path / "birds", 40)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    names = ["train", "val", "Test", "train"] * 10
    told = [row | {"split": name} for row, name in zip(rows, names, strict=True)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    for split, name in (("train", "train"), ("validation", "val"), ("test", "Test")):
        expected = {row["file_name"] for row in told if row["split"] == name}
        data = read(folder, tmp_path, split)
        assert {data[i][2] for i in range(len(data))} == expected
    with pytest.raises(UserError, match="no split 'unseen'; it has test, train, validation"):
        read(folder, tmp_path, "unseen")


def test_validation_is_taken_from_training_where_only_the_test_is_told(tmp_path):
    folder = make_folder(tmp_path / "birds", 40)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    told = [row | {"split": "test" if i < 10 else "train"} for i, row in enumerate(rows)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    train = read(folder, tmp_path, validation_share=0.5)
    sizes = [len(train.other_split(split)) for split in ("train", "validation", "test")]
    assert sum(sizes) == 40 and sizes[2] == 10 and min(sizes) > 0


# Decoding


def test_pictures_of_the_right_size_come_back_unchanged(tmp_path):
    array = pixels(16, 16, 3)
    for name in ("a.png", "a.bmp", "a.tif", "a.ppm", "a.tga"):
        assert np.array_equal(load_picture(saved(tmp_path, array, name), 16), array)
    lossless = saved(tmp_path, array, "a.webp", lossless=True)
    assert np.array_equal(load_picture(lossless, 16), array)
    array = np.full((16, 16, 3), (200, 30, 60), dtype=np.uint8)
    jpeg = load_picture(saved(tmp_path, array, "a.jpg"), 16)
    assert jpeg.dtype == np.uint8 and np.abs(jpeg.astype(int) - array).max() < 5


def test_gray_pictures_become_rgb(tmp_path):
    array = pixels(16, 16)
    assert np.array_equal(load_picture(saved(tmp_path, array), 16), shades(array))


def test_two_coloured_pictures_become_black_and_white(tmp_path):
    array = pixels(16, 16) > 128
    assert np.array_equal(load_picture(saved(tmp_path, array), 16), shades(array * np.uint8(255)))


def test_palette_pictures_get_their_colours(tmp_path):
    numbers, palette = pixels(16, 16) % 5, pixels(5, 3, seed=1)
    picture = Image.fromarray(numbers).convert("P")
    picture.putpalette(palette.tobytes())
    for name in ("a.png", "a.gif"):
        path = saved(tmp_path, picture, name)
        assert Image.open(path).mode == "P"
        assert np.array_equal(load_picture(path, 16), palette[numbers])


def test_cmyk_pictures_become_rgb(tmp_path):
    inks = {(0, 0, 0, 0): "white", (0, 255, 255, 0): "red", (255, 255, 0, 0): "blue",
            (0, 0, 0, 255): "black"}  # fmt: skip
    for ink, colour in inks.items():
        for name in ("a.tif", "a.jpg"):
            path = saved(tmp_path, Image.new("CMYK", (16, 16), ink), name)
            expected = Image.new("RGB", (16, 16), colour)
            assert np.abs(load_picture(path, 16).astype(int) - np.asarray(expected)).max() < 5


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 and (H, W) uint8 -> (H, W, 3) float."""
    share = alpha[:, :, None] / 255
    return colours * share + 255 * (1 - share)


def test_transparent_pictures_are_laid_over_white(tmp_path):
    colours, alpha = pixels(16, 16, 3), pixels(16, 16, seed=1) // 64 * 85  # 0, 85, 170 or 255
    array = np.dstack([colours, alpha])
    for name in ("a.png", "a.tif"):
        picture = load_picture(saved(tmp_path, array, name), 16)
        assert np.abs(picture - over_white(colours, alpha)).max() <= 1
        assert np.array_equal(picture[alpha == 255], colours[alpha == 255])
        assert (picture[alpha == 0] == 255).all()


def test_transparent_gray_pictures_are_laid_over_white(tmp_path):
    gray, alpha = pixels(16, 16), pixels(16, 16, seed=1)
    picture = Image.merge("LA", [Image.fromarray(gray), Image.fromarray(alpha)])
    loaded = load_picture(saved(tmp_path, picture), 16)
    assert np.abs(loaded - over_white(shades(gray), alpha)).max() <= 1


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_a_transparent_colour_of_a_palette_becomes_white(tmp_path, name):
    numbers, palette = pixels(16, 16) % 4, pixels(4, 3, seed=1)
    picture = Image.fromarray(numbers).convert("P")
    picture.putpalette(palette.tobytes())
    loaded = load_picture(saved(tmp_path, picture, name, transparency=2), 16)
    expected = palette[numbers]
    expected[numbers == 2] = 255
    assert np.array_equal(loaded, expected)


def test_palette_png_with_several_levels_of_transparency_is_laid_over_white(tmp_path):
    numbers, palette = pixels(16, 16) % 4, pixels(4, 3, seed=1)
    picture = Image.fromarray(numbers).convert("P")
    picture.putpalette(palette.tobytes())
    levels = np.array([0, 100, 200, 255], dtype=np.uint8)
    loaded = load_picture(saved(tmp_path, picture, transparency=levels.tobytes()), 16)
    assert np.abs(loaded - over_white(palette[numbers], levels[numbers])).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_png_with_one_transparent_colour_gets_white_there(tmp_path, mode):
    array = np.full((16, 16, 3), 50, dtype=np.uint8)
    array[:8] = 90
    picture = Image.fromarray(array).convert(mode)
    path = saved(tmp_path, picture, transparency=90 if mode == "L" else (90, 90, 90))
    array[:8] = 255
    assert np.array_equal(load_picture(path, 16), array)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits_are_scaled_to_8(tmp_path, name):
    values = np.random.default_rng(0).integers(0, 65536, (16, 16), dtype=np.uint16)
    values[0, :4] = 0, 65535, 257, 256
    loaded = load_picture(saved(tmp_path, values, name), 16)
    assert np.array_equal(loaded, shades(np.round(values / 257).astype(np.uint8)))


def test_integers_of_32_bits_are_read_as_16_bits(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (16, 16), dtype=np.int32)
    values[0, :2] = -5, 70_000
    loaded = load_picture(saved(tmp_path, values, "a.tif"), 16)
    assert np.array_equal(loaded, shades(np.round(values.clip(0, 65535) / 257).astype(np.uint8)))


def test_floats_are_read_as_0_to_1_or_0_to_255(tmp_path):
    values = np.random.default_rng(0).random((16, 16), dtype=np.float32)
    for scale in (1, 255):
        path = saved(tmp_path, values * scale, "a.tif")
        assert Image.open(path).mode == "F"
        assert np.abs(load_picture(path, 16) - shades(values * 255)).max() <= 0.51
    values[0, :2] = -3, 300
    loaded = load_picture(saved(tmp_path, values, "a.tif"), 16)
    assert loaded[0, 0, 0] == 0 and loaded[0, 1, 0] == 255


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
    array = pixels(16, 16, 3)
    stored = np.ascontiguousarray(STORED[orientation](array))
    exif = Image.Exif()
    exif[274] = orientation
    assert np.array_equal(load_picture(saved(tmp_path, stored, name, exif=exif), 16), array)
    wide = pixels(10, 16, 3)
    stored = np.ascontiguousarray(STORED[orientation](wide))
    loaded = load_picture(saved(tmp_path, stored, name, exif=exif), 16, fit="pad")
    assert np.array_equal(loaded[3:13], wide) and (loaded[:3] == 255).all()


def three_stripes(height: int, width: int) -> np.ndarray:
    """Red, green and blue beside each other; the green one is the central square."""
    array = np.zeros((height, width, 3), dtype=np.uint8)
    edge = (width - height) // 2
    array[:, :edge, 0], array[:, edge:-edge, 1], array[:, -edge:, 2] = 200, 200, 200
    return array


@pytest.mark.parametrize("resize", ["lanczos", "nearest"])
def test_crop_keeps_the_central_square(tmp_path, resize):
    array = three_stripes(16, 32)
    for name, stripes in (("a.png", array), ("b.png", np.ascontiguousarray(array.swapaxes(0, 1)))):
        loaded = load_picture(saved(tmp_path, stripes, name), 16, resize, "crop")
        assert (loaded == (0, 200, 0)).all()


@pytest.mark.parametrize("resize", ["lanczos", "nearest"])
def test_pad_keeps_the_whole_picture_and_adds_white(tmp_path, resize):
    array = pixels(8, 16, 3)
    loaded = load_picture(saved(tmp_path, array), 16, resize, "pad")
    assert np.array_equal(loaded[4:12], array)
    assert (loaded[:4] == 255).all() and (loaded[12:] == 255).all()
    high = np.ascontiguousarray(array.swapaxes(0, 1))
    assert np.array_equal(load_picture(saved(tmp_path, high), 16, resize, "pad")[:, 4:12], high)


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 40)])
def test_tiny_and_thin_pictures_can_be_read(tmp_path, fit, shape):
    loaded = load_picture(saved(tmp_path, pixels(*shape, 3)), 16, fit=fit)
    assert loaded.shape == (16, 16, 3) and loaded.dtype == np.uint8


def test_lanczos_is_that_of_pillow(tmp_path):
    array = pixels(40, 40, 3)
    expected = Image.fromarray(array).resize((16, 16), Image.Resampling.LANCZOS)
    loaded = load_picture(saved(tmp_path, array), 16)
    assert np.abs(loaded.astype(int) - np.asarray(expected)).max() <= 1


def test_nearest_keeps_the_colours_of_pixel_art_exactly(tmp_path):
    array = pixels(8, 8, 3)
    path = saved(tmp_path, array)
    large = array.repeat(4, axis=0).repeat(4, axis=1)
    for fit in ("crop", "pad"):
        assert np.array_equal(load_picture(path, 32, "nearest", fit), large)
        small = load_picture(saved(tmp_path, large, "large.png"), 8, "nearest", fit)
        assert np.array_equal(small, array)
    assert not np.array_equal(load_picture(path, 32, "lanczos"), large)


def test_animations_give_their_first_frame(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert (load_picture(path, 16) == (255, 0, 0)).all()


# Broken files


def test_broken_files_are_skipped_and_counted_and_the_others_keep_their_captions(tmp_path):
    folder = make_folder(tmp_path / "birds", 8)
    whole = saved(tmp_path, pixels(64, 64, 3)).read_bytes()
    broken = {0: b"", 2: b"this is text", 3: whole[: len(whole) // 2], 6: whole[:20]}
    for i, content in broken.items():
        (folder / f"{i}.png").write_bytes(content)
    for _ in ("built", "from the cache"):
        data = read(folder, tmp_path / "cache")
        assert [data[i][2] for i in range(len(data))] == ["1.png", "4.png", "5.png", "7.png"]
        for i, seed in enumerate((1, 4, 5, 7)):
            assert np.array_equal(upright(data[i][0]), pixels(SIZE, SIZE, 3, seed=seed))
            assert data[i][1][0] == f"picture {seed}"
        assert (
            data.collection.skipped_line() == "4 files that are no readable pictures (e.g. 0.png)"
        )
        assert "4 pictures with 8 captions" in data.summary()
        assert data.collection.skipped_line() in data.summary()


def test_broken_exif_does_not_stop_the_reading(tmp_path):
    """Pillow raises struct.error where EXIF asks for a turn and holds text in place of numbers."""
    folder, exif = make_folder(tmp_path / "birds", 2), Image.Exif()
    exif[270], exif[274] = "a description", 6
    content = saved(tmp_path, pixels(SIZE, SIZE, 3), "a.jpg", exif=exif).read_bytes()
    description, number = b"\x01\x0e\x00\x02", b"\x01\x4c\x00\x02"  # tag 270 or 332, text
    assert description in content
    (folder / "0.png").write_bytes(content.replace(description, number))
    data = read(folder, tmp_path / "cache")
    assert data[len(data) - 1][2] == "1.png"
    assert len(data) + sum(map(len, data.collection.skipped.values())) == 2


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [40, 30, None])  # of Pillow, which warns, and raises an error
def test_pictures_with_too_many_pixels_are_skipped_and_counted_as_such(
    tmp_path, monkeypatch, limit
):
    folder = make_folder(tmp_path / "birds", 2)
    saved(folder, pixels(4, 4, 3), "1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    data = read(folder, tmp_path / "cache", max_megapixels=63e-6)
    assert data.collection.skipped_line() == "1 pictures with too many pixels (e.g. 0.png)"


def test_a_larger_limit_of_pixels_lets_larger_pictures_in(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "birds", 2)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)  # below half of what they have
    assert len(read(folder, tmp_path / "cache", max_megapixels=64e-6)) == 2


def test_data_of_which_nothing_can_be_read_is_refused(tmp_path):
    folder = make_folder(tmp_path / "birds", 2)
    for i in range(2):
        (folder / f"{i}.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"none .* can be read: 2 files that are no readable"):
        read(folder, tmp_path / "cache")
    with pytest.raises(UserError, match="1 pictures missing"):
        read([(folder / "gone.png", "gone")], tmp_path / "cache")
    with pytest.raises(UserError):
        read([], tmp_path / "cache")
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path / "nowhere", tmp_path / "cache")


def test_the_summary_says_what_was_found(tmp_path):
    folder = make_folder(tmp_path / "birds")
    summary = read(folder, tmp_path / "cache").summary()
    for part in (
        "birds (imagefolder)",
        "5 pictures with 10 captions",
        "5 train",
        "skipped: nothing",
    ):
        assert part in summary


# The cache


def test_the_cache_is_used_the_second_time_by_both_splits(tmp_path, decoded):
    folder = make_folder(tmp_path / "birds")
    first = read(folder, tmp_path / "cache")
    assert sorted(decoded) == [f"{i}.png" for i in range(5)]
    decoded.clear()
    for split in ("train", "validation"):
        read(folder, tmp_path / "cache", split, validation_share=0.5)
    again = read(folder, tmp_path / "cache")
    assert not decoded
    assert torch.equal(again.batch(range(5))[0], first.batch(range(5))[0])


def test_the_cache_is_rebuilt_when_a_file_changes(tmp_path, decoded):
    folder = make_folder(tmp_path / "birds")
    read(folder, tmp_path / "cache")
    decoded.clear()
    status = (folder / "2.png").stat()
    Image.fromarray(pixels(SIZE, SIZE, 3, seed=99)).save(folder / "2.png")
    os.utime(folder / "2.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1_000))
    data = read(folder, tmp_path / "cache")
    assert "2.png" in decoded
    assert np.array_equal(upright(data[2][0]), pixels(SIZE, SIZE, 3, seed=99))


def test_the_cache_is_rebuilt_when_files_come_and_go(tmp_path):
    make_folder(tmp_path / "birds", 3)
    read(tmp_path / "birds", tmp_path / "cache")
    assert len(read(make_folder(tmp_path / "birds", 4), tmp_path / "cache")) == 4
    (tmp_path / "birds" / "0.png").unlink()
    data = read(tmp_path / "birds", tmp_path / "cache")
    assert [data[i][2] for i in range(len(data))] == ["1.png", "2.png", "3.png"]
    for i in range(3):
        assert np.array_equal(upright(data[i][0]), pixels(SIZE, SIZE, 3, seed=i + 1))


@pytest.mark.parametrize("setting", [{"image_size": 16}, {"resize": "nearest"}, {"fit": "pad"}])
def test_each_setting_has_a_cache_of_its_own(tmp_path, decoded, setting):
    folder = make_folder(tmp_path / "birds", 1)
    saved(folder, pixels(20, 30, 3), "0.png")
    first = read(folder, tmp_path / "cache")[0][0]
    other = read(folder, tmp_path / "cache", **setting)[0][0]
    assert len(decoded) == 2
    assert first.shape != other.shape or not torch.equal(first, other)
    assert torch.equal(read(folder, tmp_path / "cache")[0][0], first)
    assert torch.equal(read(folder, tmp_path / "cache", **setting)[0][0], other)
    assert len(decoded) == 2


def test_changed_captions_are_the_new_ones_and_cost_no_decoding(tmp_path, decoded):
    folder = make_folder(tmp_path / "birds", 3)
    read(folder, tmp_path / "cache")
    decoded.clear()
    write_captions(folder, 3, word="new")
    data = read(folder, tmp_path / "cache")
    assert [data[i][1] for i in range(3)] == [[f"new {i}", f"number {i}"] for i in range(3)]
    assert not decoded


def damage(folder: Path, how: str) -> None:
    about, pictures = folder / "about.json", folder / "pictures.npy"
    content = pictures.read_bytes()
    if how == "no about.json":
        about.unlink()
    elif how == "half of about.json":
        about.write_text(about.read_text()[:20])
    elif how == "no pictures.npy":
        pictures.unlink()
    elif how == "half of pictures.npy":
        pictures.write_bytes(content[: len(content) // 2])
    else:
        pictures.write_bytes(b"")


@pytest.mark.parametrize(
    "how",
    [
        "no about.json",
        "half of about.json",
        "no pictures.npy",
        "half of pictures.npy",
        "empty pictures.npy",
    ],
)
def test_a_damaged_cache_is_built_again(tmp_path, how):
    folder = make_folder(tmp_path / "birds")
    read(folder, tmp_path / "cache")
    (cache,) = folders(tmp_path / "cache")
    damage(cache, how)
    data = read(folder, tmp_path / "cache")
    for i in range(5):
        assert np.array_equal(upright(data[i][0]), pixels(SIZE, SIZE, 3, seed=i))
    assert list(folders(tmp_path / "cache")) == [cache]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_run_cut_short_leaves_nothing_that_looks_like_a_cache(tmp_path, monkeypatch, error):
    folder = make_folder(tmp_path / "birds")

    def stop_at_the_third(results, *_, **__):
        for i, pixels in enumerate(results):
            if i == 2:
                raise error
            yield pixels

    with monkeypatch.context() as patch:
        patch.setattr(cache, "tqdm", stop_at_the_third)
        with pytest.raises(error):
            read(folder, tmp_path / "cache")
    assert list(folders(tmp_path / "cache")) == []
    data = read(folder, tmp_path / "cache")
    assert np.array_equal(upright(data[4][0]), pixels(SIZE, SIZE, 3, seed=4))


def test_a_cache_left_by_a_killed_run_is_not_used(tmp_path, decoded):
    """As after kill -9: the unfinished folder is still there, with pixels of 0."""
    folder = make_folder(tmp_path / "birds")
    read(folder, tmp_path / "cache")
    (cache,) = folders(tmp_path / "cache")
    cache.rename(cache.with_name(f"{cache.name}.unfinished"))
    decoded.clear()
    data = read(folder, tmp_path / "cache")
    assert len(decoded) == 5 and len(data) == 5


def test_a_cache_that_cannot_be_written_is_refused(tmp_path):
    folder = make_folder(tmp_path / "birds", 1)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        read(folder, tmp_path / "file")


def test_two_folders_of_one_name_do_not_share_a_cache(tmp_path):
    first = make_folder(tmp_path / "a" / "birds", 2)
    second = make_folder(tmp_path / "b" / "birds", 2)
    saved(second, pixels(SIZE, SIZE, 3, seed=77), "0.png")
    for _ in range(2):
        for folder, seed in ((first, 0), (second, 77)):
            picture = read(folder, tmp_path / "cache")[0][0]
            assert np.array_equal(upright(picture), pixels(SIZE, SIZE, 3, seed=seed))
    assert len(list(folders(tmp_path / "cache"))) == 2


def test_two_that_start_at_once_build_one_cache(tmp_path, decoded, capsys):
    folder = make_folder(tmp_path / "birds", 40)
    with ThreadPool(2) as threads:
        one, two = threads.map(lambda _: read(folder, tmp_path / "cache"), range(2), chunksize=1)
    assert len(decoded) == 40 and len(list(folders(tmp_path / "cache"))) == 1
    assert np.array_equal(one.pictures, two.pictures)


def test_what_belongs_to_which_picture_is_part_of_the_fingerprint(tmp_path):
    folder = make_folder(tmp_path / "birds", 2)

    def fingerprint(*captions: list[str]) -> str:
        rows = [json.dumps({"file_name": f"{i}.png", "text": c}) for i, c in enumerate(captions)]
        (folder / "metadata.jsonl").write_text("\n".join(rows))
        return read(folder, tmp_path / "cache").fingerprint()

    assert fingerprint(["a", "b"], ["c"]) != fingerprint(["a"], ["b", "c"])
    assert fingerprint(["a"], ["b"]) == fingerprint(["a"], ["b"])


# What changed is done again, and nothing else


def test_only_pictures_that_changed_are_decoded_again(tmp_path, decoded):
    folder = make_folder(tmp_path / "birds", 8)
    (folder / "7.png").write_bytes(b"broken")
    read(folder, tmp_path / "cache")
    decoded.clear()
    saved(folder, pixels(SIZE, SIZE, 3, seed=50), "3.png")
    (folder / "1.png").unlink()
    saved(folder, pixels(SIZE, SIZE, 3, seed=51), "10.png")
    write_captions(folder, 11)
    data = read(folder, tmp_path / "cache")
    assert sorted(decoded) == ["10.png", "3.png", "7.png"]  # the last may be readable by now
    seeds = {"0.png": 0, "10.png": 51, "2.png": 2, "3.png": 50, "4.png": 4, "5.png": 5, "6.png": 6}
    assert [data[i][2] for i in range(len(data))] == list(seeds)
    for i, seed in enumerate(seeds.values()):
        assert np.array_equal(upright(data[i][0]), pixels(SIZE, SIZE, 3, seed=seed))
    assert data.collection.skipped["files that are no readable pictures"] == ["7.png"]


def test_captions_are_read_once_and_again_when_a_file_changed(tmp_path, monkeypatch):
    folder, count = make_folder(tmp_path / "birds"), []
    real = cache.read_collection
    monkeypatch.setattr(cache, "read_collection", lambda *a: count.append(1) or real(*a))
    for _ in range(3):
        data = read(folder, tmp_path / "cache")
    assert len(count) == 1 and len(data.captions()) == 10
    for word in ("first", "other", "third"):  # of one length, within one tick of the clock
        write_captions(folder, 5, word)
        assert read(folder, tmp_path / "cache").captions()[0] == f"{word} 0"


def test_a_table_beside_which_a_picture_changed_is_read_again(tmp_path, decoded):
    folder = make_folder(tmp_path / "birds", 3)
    (folder / "metadata.jsonl").rename(folder / "rows.jsonl")
    for _ in range(2):
        read(folder / "rows.jsonl", tmp_path / "cache")
    assert len(decoded) == 3
    saved(folder, pixels(SIZE, SIZE, 3, seed=50), "1.png")
    (folder / "2.png").unlink()
    data = read(folder / "rows.jsonl", tmp_path / "cache")
    assert decoded[3:] == ["1.png"] and len(data) == 2
    assert np.array_equal(upright(data[1][0]), pixels(SIZE, SIZE, 3, seed=50))


def test_a_picture_that_appears_beside_a_table_is_noticed(tmp_path):
    folder = make_folder(tmp_path / "birds", 2)
    (folder / "t.csv").write_text("path,text\n0.png,zero\n5.png,five\n")
    assert len(read(folder / "t.csv", tmp_path / "cache")) == 1
    saved(folder, pixels(SIZE, SIZE, 3, seed=5), "5.png")
    data = read(folder / "t.csv", tmp_path / "cache")
    assert [data[i][1] for i in range(len(data))] == [["zero"], ["five"]]


def test_an_index_made_with_links_is_not_used_without_them(tmp_path):
    folder = make_folder(tmp_path / "birds", 2)
    saved(tmp_path, pixels(SIZE, SIZE, 3), "far.png")
    os.symlink(tmp_path / "far.png", folder / "far.png")
    (folder / "t.csv").write_text("path,text\n0.png,zero\nfar.png,far\n")
    for follow in (True, False, True):
        data = read(folder / "t.csv", tmp_path / "cache", follow_links=follow)
        assert len(data) == 1 + follow


@pytest.mark.parametrize("how", ["cut", "empty", "no list", "no dictionary"])
def test_a_damaged_index_is_made_again(tmp_path, how):
    folder = make_folder(tmp_path / "birds")
    read(folder, tmp_path / "cache")
    (index,) = (tmp_path / "cache").glob("*-index-*/")
    records, about = index / "records.jsonl", index / "about.json"
    if how == "cut":
        records.write_bytes(records.read_bytes()[:50])
    elif how == "empty":
        records.write_bytes(b"")
    else:
        wrong = {"no list": '{"digest": [], "bytes": {}}', "no dictionary": "[]"}
        about.write_text(wrong[how])
    assert read(folder, tmp_path / "cache").captions()[-1] == "number 4"


def test_pixels_and_their_keys_never_come_from_two_caches(tmp_path, monkeypatch):
    """Another process may put a newer cache in its place while this one opens the older."""
    folder = make_folder(tmp_path / "birds", 2)
    read(folder, tmp_path / "cache")
    real, swapped = np.load, []

    def swap(path, *args, **kwargs):
        if Path(path).name == "pictures.npy" and not swapped:
            swapped.append(True)
            saved(folder, pixels(SIZE, SIZE, 3, seed=50), "0.png")
            read(folder, tmp_path / "cache")
            saved(folder, pixels(SIZE, SIZE, 3, seed=0), "0.png")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(np, "load", swap)
    data = read(folder, tmp_path / "cache")
    picture = upright(data[0][0])
    assert swapped and np.array_equal(picture, pixels(SIZE, SIZE, 3, seed=0))


def test_a_passing_trouble_with_a_picture_is_not_remembered(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "birds", 3)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "load_picture", lambda *_, **__: 1 / 0 if _ else None)
        with pytest.raises(UserError, match="none of the pictures"):
            read(folder, tmp_path / "cache")
    saved(folder, pixels(SIZE, SIZE, 3, seed=3), "3.png")
    write_captions(folder, 4)
    assert len(read(folder, tmp_path / "cache")) == 4


# Without a cache


def test_pictures_that_are_decoded_each_time_are_those_of_the_cache(tmp_path):
    folder = make_folder(tmp_path / "birds", 20)
    cached = read(folder, tmp_path / "cache")
    for setting in ("off", "1e-9"):
        streamed = read(folder, tmp_path / "other", cache=setting)
        assert not list(folders(tmp_path / "other")) and "decoded each time" in streamed.summary()
        for numbers in ([3, 0, 3, 19], range(20)):
            streamed.prefetch(numbers)
            assert torch.equal(streamed.batch(numbers)[0], cached.batch(numbers)[0])
            assert streamed.batch(numbers)[1] == cached.batch(numbers)[1]
        assert torch.equal(streamed[7][0], cached[7][0]) and streamed[7][1:] == cached[7][1:]
        assert streamed.fingerprint() == cached.fingerprint()


def test_the_next_picture_stands_in_for_one_that_cannot_be_decoded(tmp_path):
    folder = make_folder(tmp_path / "birds", 5)
    for name in ("1.png", "2.png", "4.png"):
        (folder / name).write_bytes(b"broken")
    data = read(folder, tmp_path / "cache", cache="off")
    for _ in range(2):
        pictures, captions = data.batch([0, 1, 2, 4])
        assert [c[0] for c in captions] == ["picture 0", "picture 3", "picture 3", "picture 0"]
        assert np.array_equal(upright(pictures[1]), pixels(SIZE, SIZE, 3, seed=3))
    assert sorted(data.collection.skipped["files that are no readable pictures"]) == [
        "1.png", "2.png", "4.png",
    ]  # fmt: skip
    for name in ("0.png", "3.png"):
        (folder / name).write_bytes(b"broken")
    for _ in range(2):  # the second time, too, it comes to an end
        with pytest.raises(UserError, match="none of the pictures can be read"):
            data.batch([0])


def test_several_processes_may_read_without_a_cache(tmp_path):
    data = read(make_folder(tmp_path / "birds", 9), tmp_path / "cache", cache="off")
    data.batch([0])  # its threads do not survive into another process
    loader = torch.utils.data.DataLoader(data, num_workers=2, collate_fn=lambda items: items[0])
    for i, (picture, _, _) in enumerate(loader):
        assert np.array_equal(upright(picture), pixels(SIZE, SIZE, 3, seed=i))


@pytest.mark.parametrize("options", [{}, {"cache": "off"}])
def test_a_dataset_goes_to_another_process_without_its_pixels(tmp_path, options):
    data = read(make_folder(tmp_path / "birds", 40), tmp_path / "cache", **options)
    first = data.batch([3, 1])
    packed = pickle.dumps(data)
    assert len(packed) < 40 * 3 * SIZE * SIZE
    again = pickle.loads(packed)
    assert torch.equal(again.batch([3, 1])[0], first[0]) and again.batch([3, 1])[1] == first[1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"cache": "some"},
        {"cache": "nan"},
        {"cache": "-1"},
        {"max_megapixels": 0},
        {"format": "zip"},
    ],
)
def test_settings_of_reading_that_mean_nothing_are_refused(tmp_path, wrong):
    with pytest.raises(UserError, match=next(iter(wrong)).replace("_", ".")):
        read(make_folder(tmp_path / "birds"), tmp_path / "cache", **wrong)


# More kinds of pictures


def test_jpegs_of_printers_get_the_colours_that_pillow_gives_them(tmp_path):
    """CMYK, and the same bytes read as YCCK, which only Adobe's marker tells apart."""
    cmyk = Image.fromarray(pixels(SIZE, SIZE, 4), "CMYK")
    path = saved(tmp_path, cmyk, "a.jpg", quality=95)
    data = bytearray(path.read_bytes())
    data[data.index(b"Adobe") + 11] = 2  # transform: YCCK
    (tmp_path / "b.jpg").write_bytes(data)
    one, other = (load_picture(tmp_path / name, SIZE) for name in ("a.jpg", "b.jpg"))
    for name, found in (("a.jpg", one), ("b.jpg", other)):
        with Image.open(tmp_path / name) as picture:
            assert picture.mode == "CMYK"
            assert np.array_equal(found, np.asarray(picture.convert("RGB")))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_are_read_whole_or_not_at_all(tmp_path, progressive):
    path = saved(tmp_path, pixels(64, 64, 3), "a.jpg", progressive=progressive)
    with Image.open(path) as picture:
        assert np.array_equal(load_picture(path, 64), np.asarray(picture))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(OSError, match="truncated"):
        load_picture(path, 64)


@pytest.mark.parametrize("kind", ["webp", "avif"])
def test_modern_formats_are_read_with_their_transparency(tmp_path, kind):
    if not features.check(kind):
        pytest.skip(f"this Pillow has no {kind}")
    rgba = pixels(SIZE, SIZE, 4)
    rgba[:4, :, 3] = 0
    path = saved(tmp_path, Image.fromarray(rgba, "RGBA"), f"a.{kind}", lossless=True, quality=100)
    found = load_picture(path, SIZE)
    assert (found[:3] == 255).all() and not (found[5:] == 255).all()


@pytest.mark.parametrize("kind", ["png", "webp", "gif"])
def test_of_every_kind_of_animation_the_first_frame_is_read(tmp_path, kind):
    frames = [Image.new("RGB", (SIZE, SIZE), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], f"a.{kind}", save_all=True, append_images=frames[1:],
                 **({"lossless": True} if kind == "webp" else {}))  # fmt: skip
    assert np.abs(load_picture(path, SIZE).astype(int) - (255, 0, 0)).max() < 3


def test_floats_that_are_no_numbers_become_black_or_white(tmp_path):
    values = np.full((SIZE, SIZE), 0.5, np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    found = load_picture(saved(tmp_path, Image.fromarray(values), "a.tif"), SIZE)
    assert found[0, :3, 0].tolist() == [0, 255, 0]


def test_a_box_is_cut_out_with_a_margin_and_stays_within_the_picture(tmp_path):
    values = pixels(40, 60, 3)
    path = saved(tmp_path, values)
    found = load_picture(path, 12, box=(20, 10, 8, 4))  # middle 24, 12; half of the side: 6
    assert np.array_equal(found, values[6:18, 18:30])
    whole = load_picture(path, 12, box=(-100, -100, 300, 300))
    assert np.array_equal(whole, load_picture(path, 12))
    with pytest.raises(ValueError, match="outside"):
        load_picture(path, 12, box=(500, 500, 4, 4))
