"""Protects the caches of captions and pixels: made once, and again for what changed."""

import json
import os
import pickle
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import SIZE, items_of, make_folder, opened, pixels, saved, write_captions
from written import noise, png, write

from config import UserError
from formats import cache
from formats import opened as opened_module
from formats.cache import UNREADABLE, hash_of
from formats.images import load_image
from formats.opened import OpenedCollection, held_out

Open = Callable[..., OpenedCollection]  # reads a folder of birds, with these settings


@pytest.fixture
def birds(tmp_path) -> Path:
    """A folder of five pictures, 0.png to 4.png."""
    return make_folder(tmp_path / "birds")


@pytest.fixture
def read_birds(tmp_path) -> Open:
    """Opens what lies in the folder of birds, or another, with the cache of the test."""
    return lambda data=tmp_path / "birds", **options: opened(data, tmp_path / "cache", **options)


def folders(tmp_path: Path) -> list[Path]:
    """The caches of pictures there, finished or not; beside them lie indices and other files."""
    found = (tmp_path / "cache").iterdir()
    return [path for path in found if path.is_dir() and "-index-" not in path.name]


def captions_of(data: OpenedCollection) -> list[str]:
    return data.captions(data.indices("train"))


def fingerprint_of(data: OpenedCollection, version: int = 1) -> str:
    return data.fingerprint(data.indices("train"), version)


def read(data: OpenedCollection, numbers) -> tuple[np.ndarray, list[str]]:
    """Images (B, 3, S, S) of these numbers, and the first caption of each."""
    images, records = data.read(numbers, data.indices("train"))
    return images, [record.captions[0] for record in records]


def seeds_of(data: OpenedCollection, num: int = 100) -> dict[str, int]:
    """Path -> which of `noise` it shows, for all that an epoch shows."""
    known = {noise(seed).tobytes(): seed for seed in range(num)}
    return {path: known[image.tobytes()] for image, _, path in items_of(data)}


FIVE = {f"{i}.png": i for i in range(5)}  # what `seeds_of` the birds is


def put(folder: Path, seed: int, name: str) -> None:
    """Noise in the place of a picture, changed just now."""
    saved(folder, noise(seed), name)


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Names of the images decoded so far."""
    names = []

    def load_and_tell(file, **settings):
        names.append(Path(file.name).name)
        return load_image(file, **settings)

    monkeypatch.setattr(cache, "load_image", load_and_tell)
    return names


# Broken files


def test_broken_files_are_skipped_and_counted_and_the_others_keep_their_captions(
    tmp_path, read_birds
):
    folder, whole = make_folder(tmp_path / "birds", 8), png(pixels(64, 64, 3))
    write(folder, {"0.png": b"", "2.png": b"this is text", "3.png": whole[: len(whole) // 2],
                   "6.png": whole[:20]})  # fmt: skip
    for _ in ("built", "from the cache"):
        data = read_birds()
        assert seeds_of(data) == {f"{i}.png": i for i in (1, 4, 5, 7)}
        captions = [captions[0] for _, captions, _ in items_of(data)]
        assert captions == [f"picture {i}" for i in (1, 4, 5, 7)]
        assert data.collection.skipped_line() == f"4 {UNREADABLE} (e.g. 0.png)"
        for part in ("4 pictures with 8 captions", data.collection.skipped_line()):
            assert part in data.summary()


def test_broken_exif_does_not_stop_the_reading(tmp_path, birds, read_birds):
    """Pillow raises struct.error where EXIF asks for a turn and holds text in place of numbers."""
    exif = Image.Exif()
    exif[270], exif[274] = "a description", 6
    content = saved(tmp_path, noise(), "a.jpg", exif=exif).read_bytes()
    description, number = b"\x01\x0e\x00\x02", b"\x01\x4c\x00\x02"  # tag 270 or 332, text
    assert description in content
    write(birds, {"0.png": content.replace(description, number)})
    data = read_birds()
    assert len(items_of(data)) + sum(map(len, data.collection.skipped.values())) == 5
    assert items_of(data)[-1][2] == "4.png"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [40, 30, None])  # of Pillow, which warns, and raises an error
def test_pictures_with_too_many_pixels_are_skipped_and_counted_as_such(
    birds, read_birds, monkeypatch, limit
):
    saved(birds, pixels(4, 4, 3), "1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    found = read_birds(max_megapixels=63e-6).collection
    assert found.skipped_line() == "4 pictures with too many pixels (e.g. 0.png)"


def test_a_larger_limit_of_pixels_lets_larger_pictures_in(birds, read_birds, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)  # below half of what they have
    assert len(items_of(read_birds(max_megapixels=64e-6))) == 5


def test_data_of_which_nothing_can_be_read_is_refused(tmp_path, birds, read_birds):
    write(birds, dict.fromkeys(FIVE, b"broken"))
    wrong = {
        birds: rf"none .* can be read: 5 {UNREADABLE}",
        ((birds / "gone.png", "gone"),): "1 pictures missing",
        (): "nothing can be read",
        tmp_path / "nowhere": "does not exist",
    }
    for data, told in wrong.items():
        with pytest.raises(UserError, match=told):
            read_birds(data)


def test_the_summary_says_what_was_found(birds, read_birds):
    summary = read_birds().summary()
    for part in ("birds (imagefolder)", "5 pictures with 10 captions", "5 train",
                 "skipped: nothing"):  # fmt: skip
        assert part in summary


# The cache


def test_the_cache_is_used_the_second_time_whatever_the_splits(birds, read_birds, decoded):
    first = read_birds()
    assert sorted(decoded) == sorted(FIVE)
    read_birds(fraction=0.5)
    assert np.array_equal(read_birds().images, first.images)
    assert len(decoded) == 5


def test_the_cache_is_rebuilt_when_a_file_changes(birds, read_birds, decoded):
    read_birds()
    decoded.clear()
    status = (birds / "2.png").stat()
    put(birds, 99, "2.png")
    os.utime(birds / "2.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1_000))
    assert seeds_of(read_birds()) == FIVE | {"2.png": 99}
    assert decoded == ["2.png"]


def test_a_picture_that_got_another_name_is_noticed(birds, read_birds):
    read_birds()
    (birds / "4.png").rename(birds / "5.png")  # as old and as large as before
    assert read_birds().collection.skipped_line().startswith("1 pictures missing (e.g. 4.png")


@pytest.mark.parametrize("setting", [{"image_size": 16}, {"resize": "nearest"}, {"fit": "pad"}])
def test_each_setting_has_a_cache_of_its_own(tmp_path, read_birds, decoded, setting):
    saved(make_folder(tmp_path / "birds", 1), pixels(20, 30, 3), "0.png")
    first, other = (items_of(read_birds(**options))[0][0] for options in ({}, setting))
    assert len(decoded) == 2
    assert first.shape != other.shape or not np.array_equal(first, other)
    assert np.array_equal(items_of(read_birds())[0][0], first)
    assert np.array_equal(items_of(read_birds(**setting))[0][0], other)
    assert len(decoded) == 2


def test_changed_captions_are_the_new_ones_and_cost_no_decoding(birds, read_birds, decoded):
    read_birds()
    write_captions(birds, 5, word="new")
    captions = [captions for _, captions, _ in items_of(read_birds())]
    assert captions == [[f"new {i}", f"number {i}"] for i in range(5)]
    assert len(decoded) == 5


@pytest.mark.parametrize("name", ["about.json", "pictures.npy"])
@pytest.mark.parametrize("part", [None, 0.0, 0.5])
def test_a_damaged_cache_is_built_again(tmp_path, birds, read_birds, name, part):
    read_birds()
    (folder,) = folders(tmp_path)
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if part is not None:
        (folder / name).write_bytes(content[: int(part * len(content))])
    assert seeds_of(read_birds()) == FIVE
    assert folders(tmp_path) == [folder]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_run_cut_short_leaves_nothing_that_looks_like_a_cache(
    tmp_path, birds, read_birds, monkeypatch, error
):
    def stop_at_the_third(results, *_, **__):
        for i, result in enumerate(results):
            if i == 2:
                raise error
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(cache, "tqdm", stop_at_the_third)
        with pytest.raises(error):
            read_birds()
    assert folders(tmp_path) == []
    assert seeds_of(read_birds()) == FIVE


def test_a_cache_left_by_a_killed_run_is_not_used(tmp_path, birds, read_birds, decoded):
    """As after kill -9: the unfinished folder is still there."""
    read_birds()
    (folder,) = folders(tmp_path)
    folder.rename(folder.with_name(f"{folder.name}.unfinished"))
    decoded.clear()
    assert seeds_of(read_birds()) == FIVE and len(decoded) == 5


def test_a_cache_that_cannot_be_written_is_refused(tmp_path, birds, read_birds):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        read_birds()


def test_two_folders_of_one_name_do_not_share_a_cache(tmp_path, read_birds):
    first, second = (make_folder(tmp_path / name / "birds", 2) for name in "ab")
    put(second, 77, "0.png")
    for _ in range(2):
        assert seeds_of(read_birds(first)) == {"0.png": 0, "1.png": 1}
        assert seeds_of(read_birds(second)) == {"0.png": 77, "1.png": 1}
    assert len(folders(tmp_path)) == 2


def test_two_that_start_at_once_build_one_cache(tmp_path, read_birds, decoded):
    make_folder(tmp_path / "birds", 40)
    with ThreadPool(2) as threads:
        one, two = threads.map(lambda _: read_birds(), range(2), chunksize=1)
    assert len(decoded) == 40 and len(folders(tmp_path)) == 1
    assert np.array_equal(one.images, two.images)


# What changed is done again, and nothing else


def test_only_pictures_that_changed_are_decoded_again(tmp_path, read_birds, decoded):
    folder = make_folder(tmp_path / "birds", 8)
    write(folder, {"7.png": b"broken"})
    read_birds()
    decoded.clear()
    put(folder, 50, "3.png")
    (folder / "1.png").unlink()
    put(folder, 51, "10.png")
    write_captions(folder, 11)
    data = read_birds()
    assert sorted(decoded) == ["10.png", "3.png", "7.png"]  # the last may be readable by now
    seeds = {"0.png": 0, "10.png": 51, "2.png": 2, "3.png": 50, "4.png": 4, "5.png": 5, "6.png": 6}
    assert seeds_of(data) == seeds and list(seeds_of(data)) == list(seeds)
    assert data.collection.skipped[UNREADABLE] == ["7.png"]


def test_captions_are_read_once_and_again_when_a_file_changed(birds, read_birds, monkeypatch):
    count, real = [], cache.read_collection
    monkeypatch.setattr(cache, "read_collection", lambda *a: count.append(1) or real(*a))
    for _ in range(3):
        data = read_birds()
    assert len(count) == 1 and len(captions_of(data)) == 10
    for word in ("first", "other", "third"):  # of one length, within one tick of the clock
        write_captions(birds, 5, word)
        assert captions_of(read_birds())[0] == f"{word} 0"


def test_a_table_beside_which_pictures_change_come_and_go_is_read_again(birds, read_birds, decoded):
    table = birds / "t.csv"
    write(birds, {"t.csv": "path,text\n" + "".join(f"{i}.png,no {i}\n" for i in (0, 1, 2, 5))})
    for _ in range(2):
        assert captions_of(read_birds(table)) == ["no 0", "no 1", "no 2"]
    assert len(decoded) == 3
    put(birds, 50, "1.png")
    put(birds, 55, "5.png")
    (birds / "2.png").unlink()
    data = read_birds(table)
    assert sorted(decoded[3:]) == ["1.png", "5.png"]
    assert seeds_of(data) == {"0.png": 0, "1.png": 50, "5.png": 55}
    assert captions_of(data) == ["no 0", "no 1", "no 5"]


def test_an_index_made_with_links_is_not_used_without_them(tmp_path, birds, read_birds):
    put(tmp_path, 9, "far.png")
    os.symlink(tmp_path / "far.png", birds / "far.png")
    write(birds, {"t.csv": "path,text\n0.png,zero\nfar.png,far\n"})
    for follow in (True, False, True):
        assert len(items_of(read_birds(birds / "t.csv", follow_links=follow))) == 1 + follow


@pytest.mark.parametrize(
    ("name", "content"),
    [("records.jsonl", "[0"), ("records.jsonl", ""), ("about.json", "[]"),
     ("about.json", '{"digest": [], "bytes": {}}')],
)  # fmt: skip
def test_a_damaged_index_is_made_again(tmp_path, birds, read_birds, name, content):
    read_birds()
    (index,) = (tmp_path / "cache").glob("*-index-*/")
    (index / name).write_text(content)
    assert captions_of(read_birds())[-1] == "number 4"


def test_pixels_and_their_keys_never_come_from_two_caches(birds, read_birds, monkeypatch):
    """Another process may put a newer cache in its place while this one opens the older."""
    read_birds()
    real, swapped = cache.read_array, []

    def swap(path, dtype):
        if path.name == "pictures.npy" and not swapped:
            swapped.append(True)
            put(birds, 50, "0.png")
            read_birds()
            put(birds, 0, "0.png")
        return real(path, dtype)

    monkeypatch.setattr(cache, "read_array", swap)
    assert seeds_of(read_birds()) == FIVE and swapped


def test_a_passing_trouble_with_a_picture_is_not_remembered(birds, read_birds, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(cache, "load_image", lambda *_, **__: 1 / 0)
        with pytest.raises(UserError, match="none of the pictures"):
            read_birds()
    put(birds, 5, "5.png")
    write_captions(birds, 6)
    assert seeds_of(read_birds()) == FIVE | {"5.png": 5}


# Without a cache


def test_pictures_that_are_decoded_each_time_are_those_of_the_cache(tmp_path, read_birds):
    make_folder(tmp_path / "birds", 20)
    cached = read_birds()
    for setting in ("off", "1e-9"):
        streamed = opened(tmp_path / "birds", tmp_path / "other" / "cache", cache=setting)
        assert not folders(tmp_path / "other") and "decoded each time" in streamed.summary()
        for numbers in (np.array([3, 0, 3, 19]), np.arange(20)):
            streamed.prefetch(numbers)
            for one, other in zip(read(streamed, numbers), read(cached, numbers), strict=True):
                assert np.array_equal(one, other)
        assert fingerprint_of(streamed) == fingerprint_of(cached)


def test_the_next_picture_stands_in_for_one_that_cannot_be_decoded(birds, read_birds):
    write(birds, dict.fromkeys(["1.png", "2.png", "4.png"], b"broken"))
    data = read_birds(cache="off")
    for _ in range(2):
        images, captions = read(data, [0, 1, 2, 4])
        assert captions == ["picture 0", "picture 3", "picture 3", "picture 0"]
        assert np.array_equal(images[1].transpose(1, 2, 0), noise(3))
    assert sorted(data.collection.skipped[UNREADABLE]) == ["1.png", "2.png", "4.png"]
    write(birds, dict.fromkeys(["0.png", "3.png"], b"broken"))
    for _ in range(2):  # the second time, too, it comes to an end
        with pytest.raises(UserError, match="none of the pictures can be read"):
            read(data, [0])


@pytest.mark.parametrize("options", [{}, {"cache": "off"}])
def test_a_collection_goes_to_another_process_without_its_pixels(tmp_path, read_birds, options):
    make_folder(tmp_path / "birds", 40)
    data = read_birds(**options)
    first = read(data, [3, 1])
    packed = pickle.dumps(data)
    assert len(packed) < 40 * 3 * SIZE * SIZE
    again = read(pickle.loads(packed), [3, 1])
    assert np.array_equal(again[0], first[0]) and again[1] == first[1]


def test_a_fingerprint_without_a_cache_decodes_once_and_stays_what_it_was(
    tmp_path, birds, read_birds, decoded
):
    expected = fingerprint_of(opened(birds, tmp_path / "other"))
    for num_decoded in (5, 0):
        decoded.clear()
        assert fingerprint_of(read_birds(cache="off")) == expected
        assert len(decoded) == num_decoded
    for memo in (tmp_path / "cache").glob("*-fingerprint-*"):
        memo.write_bytes(b"\xff")  # damaged
    assert fingerprint_of(read_birds(cache="off")) == expected


def test_a_fingerprint_is_made_anew_where_a_passing_trouble_is_over(
    tmp_path, birds, read_birds, monkeypatch
):
    write(birds, {"3.png": b"broken"})
    expected = fingerprint_of(opened(birds, tmp_path / "other", cache="off"))

    def troubled(file, **settings):
        if Path(file.name).name == "2.png":
            raise OSError("the disk sleeps")
        return load_image(file, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(cache, "load_image", troubled)
        for _ in range(2):
            assert fingerprint_of(read_birds(cache="off")) != expected
    data = read_birds(cache="off")
    assert fingerprint_of(data) == expected
    assert data.collection.skipped[UNREADABLE] == ["3.png"]


def test_a_fingerprint_is_made_anew_for_what_it_depends_on(birds, read_birds, decoded):
    known = set()

    def is_new(version: int = 1, **options) -> bool:
        decoded.clear()
        data = read_birds(cache="off", **options)
        found = fingerprint_of(data, version)
        is_known = found in known
        known.add(found)
        assert len(decoded) == (0 if is_known else len(data.splits["train"]))
        return not is_known

    assert is_new() and not is_new()
    assert is_new(version=2) and is_new(fraction=0.5) and is_new(image_size=16)
    write_captions(birds, 5, "bird")
    assert is_new() and not is_new()
    put(birds, 50, "3.png")
    assert is_new() and not is_new()


def test_what_belongs_to_which_picture_is_part_of_the_fingerprint(birds, read_birds):
    def of(*captions: list[str]) -> str:
        rows = [json.dumps({"file_name": f"{i}.png", "text": c}) for i, c in enumerate(captions)]
        (birds / "metadata.jsonl").write_text("\n".join(rows))  # at another time
        return fingerprint_of(read_birds())

    assert of(["a", "b"], ["c"]) != of(["a"], ["b", "c"])
    assert of(["a"], ["b"]) == of(["a"], ["b"])


def test_a_fingerprint_of_many_images_looks_at_some_of_them(
    tmp_path, read_birds, decoded, monkeypatch
):
    monkeypatch.setattr(opened_module, "MAX_HASHED", 10)
    monkeypatch.setattr(opened_module, "NUM_SPREAD", 4)
    make_folder(tmp_path / "birds", 12)
    fingerprint_of(read_birds(cache="off"))
    assert sorted(decoded) == ["0.png", "11.png", "4.png", "7.png"]  # every third path


# Which images are held out


@pytest.mark.parametrize("fraction", [0, 0.05, 0.5, 1])
def test_the_validation_fraction_is_about_right(fraction):
    hashes = np.array([hash_of(f"train/{i}.png") for i in range(4_000)], np.uint64)
    num = held_out(hashes, fraction).sum()
    assert num / 4_000 == pytest.approx(fraction, abs=0 if fraction in (0, 1) else 0.03)


def test_a_growing_validation_fraction_only_adds_pictures():
    hashes = np.array([hash_of(f"{i}") for i in range(500)], np.uint64)
    few, many = (held_out(hashes, fraction) for fraction in (0.1, 0.3))
    assert few.any() and not (few & ~many).any()


# What is no damage is no reason to build again


@pytest.mark.parametrize("name", ["Records", "digest_of"])
@pytest.mark.parametrize("error", [AttributeError, TypeError, KeyError])
def test_a_bug_does_not_pass_for_a_damaged_cache(birds, read_birds, monkeypatch, name, error):
    def fail(*_):
        raise error("a bug")

    read_birds()
    monkeypatch.setattr(cache, name, fail)
    with pytest.raises(error, match="a bug"):
        read_birds()
