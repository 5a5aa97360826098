"""Protects what training sees: items, splits, batches, and that they reach other processes."""

import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small import SIZE, change_rows, make_folder, pixels, saved
from torch.utils.data import DataLoader

import dataset
import scenes
from config import AUGMENTATIONS, Recipe, UserError
from dataset import CaptionedImages, Item, collate, training_batch


def read(data, cache_dir: Path, split: str = "train", **kwargs) -> CaptionedImages:
    settings = {"image_size": SIZE, "validation_fraction": 0.0, "show_progress": False} | kwargs
    return CaptionedImages(data, split, cache_dir=cache_dir, **settings)


def birds(folder: Path, num: int = 5, split: str = "train", **kwargs) -> CaptionedImages:
    return read(make_folder(folder / "birds", num), folder / "cache", split, **kwargs)


def seed_of(item: Item) -> int:
    """Which of the images that `make_folder` makes this is; its pixels are those."""
    image, _, path = item
    seed = int(Path(path).stem)
    assert image.dtype == torch.uint8 and image.shape == (3, SIZE, SIZE)
    assert np.array_equal(image.permute(1, 2, 0), pixels(SIZE, SIZE, 3, seed=seed))
    return seed


def captions_of(seed: int) -> list[str]:
    return [f"picture {seed}", f"number {seed}"]


def test_items_are_pixels_captions_and_path(tmp_path):
    data = birds(tmp_path)
    assert [path for *_, path in data] == [f"{i}.png" for i in range(5)]
    assert [captions for _, captions, _ in data] == [captions_of(seed_of(item)) for item in data]
    assert data.captions() == sum(map(captions_of, range(5)), [])


def test_a_list_of_pairs_gives_the_same_items(tmp_path):
    folder = make_folder(tmp_path / "birds")
    pairs = [(folder / "3.png", "a 3"), (str(folder / "0.png"), ["b", "c"])]
    data, other = (read(x, tmp_path / "cache") for x in (pairs, [(folder / "4.png", "four")]))
    assert [captions for _, captions, _ in data] == [["a 3"], ["b", "c"]]
    assert [seed_of(item) for item in data] == [3, 0] and seed_of(other[0]) == 4


def test_a_batch_is_its_items_and_changing_either_does_not_change_the_data(tmp_path):
    data = birds(tmp_path, 12, validation_fraction=0.4)
    numbers = [3, 0, 3, len(data) - 1]
    for _ in range(2):
        images, captions = data.batch(numbers)
        assert images.shape == (4, 3, SIZE, SIZE) and images.dtype == torch.uint8
        for image, several, i in zip(images, captions, numbers, strict=True):
            item = data[i]
            assert torch.equal(image, item[0]) and list(several) == item[1]
            assert item[1] == captions_of(seed_of(item))
            image.zero_()
            item[0].zero_()
            item[1].clear()


def test_the_built_in_scenes_are_what_scenes_draws(tmp_path, monkeypatch):
    sizes = {"train": 6, "validation": 3, "unseen": 2}
    monkeypatch.setattr(dataset, "NUM_SCENES", sizes)
    for split, num in sizes.items():
        data = read(None, tmp_path, split, image_size=16)
        assert len(data) == num
        for i in range(num):
            image, captions, _ = scenes.render(0, i, split, 16)
            assert np.array_equal(data[i][0].permute(1, 2, 0), image)
            assert data[i][1:] == (list(captions), f"{split}/{i:06d}")
    monkeypatch.setattr(dataset, "NUM_SCENES", sizes | {"train": 7})
    assert len(read(None, tmp_path, image_size=16)) == 7


def test_other_code_for_the_scenes_draws_them_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "NUM_SCENES", {"train": 4, "validation": 2, "unseen": 2})
    before, same = (read(None, tmp_path, image_size=16).rows for _ in range(2))
    (tmp_path / "scenes.py").write_text(Path(scenes.__file__).read_text() + "# a change")
    monkeypatch.setattr(scenes, "__file__", tmp_path / "scenes.py")
    after = read(None, tmp_path, image_size=16).rows
    assert (same == before).all() and (after["key"] != before["key"]).all()


def test_many_images_decoded_side_by_side_keep_their_order(tmp_path):
    folder = make_folder(tmp_path / "birds", 200)
    (folder / "7.png").write_bytes(b"broken")
    data = read(folder, tmp_path / "cache")
    assert sorted(map(seed_of, data)) == [i for i in range(200) if i != 7]


@pytest.mark.parametrize("wrong", [
    {"resize": "cubic"}, {"fit": "stretch"}, {"cache": "some"}, {"cache": "nan"}, {"cache": "-1"},
    {"max_megapixels": 0}, {"format": "zip"},
])  # fmt: skip
def test_settings_of_reading_that_mean_nothing_are_refused(tmp_path, wrong):
    with pytest.raises(UserError, match=f"{next(iter(wrong))} (is|must be|takes) "):
        birds(tmp_path, **wrong)


def test_train_and_validation_share_nothing_and_hold_everything(tmp_path):
    train, validation = (birds(tmp_path, 60, split, validation_fraction=0.25)
                         for split in ("train", "validation"))  # fmt: skip
    assert 5 <= len(validation) <= 25  # 15 expected, standard deviation 3.4
    for item, same in zip(validation, train.other_split("validation"), strict=True):
        assert seed_of(item) == seed_of(same) and item[1:] == same[1:]
    assert [item[1] for item in train] == [captions_of(seed_of(item)) for item in train]
    assert sorted(map(seed_of, [*train, *validation])) == list(range(60))


def test_an_image_stays_in_its_split_when_others_are_added_or_the_folder_moves(tmp_path):
    def validation(folder) -> set[str]:
        data = read(folder, tmp_path / "cache", "validation", validation_fraction=0.3)
        return {path for *_, path in data}

    before = validation(make_folder(tmp_path / "birds", 30))
    after = validation(make_folder(tmp_path / "birds", 50))
    assert before and after & {f"{i}.png" for i in range(30)} == before
    shutil.move(tmp_path / "birds", tmp_path / "elsewhere")
    assert validation(tmp_path / "elsewhere") == after


def test_a_file_name_that_is_not_utf8_is_no_obstacle(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    try:
        saved(tmp_path, pixels(SIZE, SIZE, 3), f"{name}.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    (tmp_path / f"broken{name}.png").write_bytes(b"broken")
    for start in ("", "broken"):
        (tmp_path / f"{start}{name}.txt").write_text("a bird")
    train = read(tmp_path, tmp_path / "cache", validation_fraction=0.5)
    assert train.captions() + train.other_split("validation").captions() == ["a bird"]
    train.summary().encode()  # it can be printed


def test_a_split_that_the_collection_tells_is_kept(tmp_path):
    folder, names = make_folder(tmp_path / "birds", 40), ["train", "val", "Test", "train"]
    rows = change_rows(folder, lambda i: {"split": names[i % 4]})
    for split, name in (("train", "train"), ("validation", "val"), ("test", "Test")):
        expected = {row["file_name"] for row in rows if row["split"] == name}
        assert {path for *_, path in read(folder, tmp_path, split)} == expected
    with pytest.raises(UserError, match="no split 'unseen'; it has test, train, validation"):
        read(folder, tmp_path, "unseen")


def test_validation_is_taken_from_training_where_only_the_test_is_told(tmp_path):
    folder = make_folder(tmp_path / "birds", 40)
    change_rows(folder, lambda i: {"split": "test" if i < 10 else "train"})
    train = read(folder, tmp_path, validation_fraction=0.5)
    sizes = [len(train.other_split(split)) for split in ("train", "validation", "test")]
    assert sum(sizes) == 40 and sizes[2] == 10 and min(sizes) > 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_data_loader_collates_images_with_different_numbers_of_captions(tmp_path, num_workers):
    folder = make_folder(tmp_path / "birds", 5)
    change_rows(folder, lambda i: {"text": "only one"} if i == 3 else {})
    data = read(folder, tmp_path / "cache")
    loader = DataLoader(data, batch_size=4, collate_fn=collate, num_workers=num_workers)
    (images, captions, paths), (last, *_) = loader
    assert images.shape == (4, 3, SIZE, SIZE) and images.dtype == torch.uint8 and len(last) == 1
    for i in range(4):
        assert torch.equal(images[i], data[i][0]) and (captions[i], paths[i]) == data[i][1:]
    assert captions[3] == ["only one"] and len(captions[2]) == 2


def test_a_training_batch_depends_on_the_seed_and_the_images_seen_alone(tmp_path):
    data = birds(tmp_path, 12)
    model = SimpleNamespace(  # what a batch needs of one
        parameters=lambda: iter([torch.zeros(1)]),
        config=SimpleNamespace(noise_dim=6),
        tokenize=lambda captions, _: torch.tensor([[2, 3 + int(c.split()[1])] for c in captions]),
    )
    recipe = Recipe(images=50, batch_size=8, caption_dropout=0.0)
    batch = training_batch(data, model, recipe, 16)
    assert batch.images.shape == (8, 3, SIZE, SIZE) and batch.images.dtype == torch.float32
    assert batch.tokens.shape == (8, 2) and batch.noise.shape == (8, 6)
    assert batch.augmentation.shape == (8, len(AUGMENTATIONS))
    training_batch(data, model, recipe, 8)
    for one, again in zip(batch, training_batch(data, model, recipe, 16), strict=True):
        assert torch.equal(one, again)
    assert len(training_batch(data, model, recipe, 48).images) == 2  # the run ends


def test_several_processes_may_read_without_a_cache(tmp_path):
    data = birds(tmp_path, 9, cache="off")
    data.batch([0])  # its threads do not survive into another process
    loader = DataLoader(data, num_workers=2, collate_fn=lambda items: items[0])
    assert [seed_of(item) for item in loader] == list(range(9))


@pytest.mark.parametrize("cache", ["1", "off"])
def test_scenes_go_to_another_process_without_their_pixels(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(dataset, "NUM_SCENES", {"train": 40})
    data = read(None, tmp_path, cache=cache, image_size=16)
    (images, captions), packed = data.batch([3, 1]), pickle.dumps(data)
    assert len(packed) < 40 * 3 * 16 * 16
    again = pickle.loads(packed).batch([3, 1])
    assert torch.equal(again[0], images) and again[1] == captions


def test_scenes_are_the_same_whether_other_processes_paint_them_or_not(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "NUM_SCENES", {"train": 70, "validation": 2})
    found = []
    for many in (10, 1_000):
        monkeypatch.setattr("formats.cache.MANY_TO_PAINT", many)
        found.append(read(None, tmp_path / f"cache-{many}", image_size=32).batch(range(70))[0])
    assert torch.equal(*found)
    expected = scenes.render(0, 69, "train", 32)[0]
    assert np.array_equal(found[0][69].permute(1, 2, 0).numpy(), expected)
