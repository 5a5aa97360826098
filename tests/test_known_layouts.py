"""Protects the layouts that other tools write: each is read as its own tool means it."""

import csv
import io
import json
import os
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from command_line import UserError
from dataset import CaptionedImages
from layouts import DataConfig, Record, find_collection
from places import LINKS, MISSING, OUTSIDE
from tars import DAMAGED, NO_CAPTION, NO_PICTURE, SPECIAL
from texts import NOT_UTF8, clean_caption

SIZE = 8  # of the pictures made here; they come back unchanged at that size
TWICE = "files that are twice in one sample"
NAMED_LIKE_NUMBERS = ["007", "None", "NaN", "1e3"]  # pandas would make something else of them


def pixels(seed: int = 0, size: int = SIZE) -> np.ndarray:
    """(S, S, 3) uint8 noise."""
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    return file.getvalue()


PNG = png(pixels())


def write(root: Path, *pictures: str, **texts: str | bytes) -> Path:
    """Pictures of these names, and texts: write(root, "a.png", **{"a.txt": "a red bird"})."""
    for name, content in (*((picture, PNG) for picture in pictures), *texts.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def write_zip(path: Path, *pictures: str, **texts: str | bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (*((picture, PNG) for picture in pictures), *texts.items()):
            archive.writestr(name, content)
    return path


def write_tar(path: Path, *members: tuple[str, str | bytes]) -> Path:
    """Members in this order; a name may come twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def jsonl(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def link(root: Path, name: str, target: Path | str) -> None:
    """A symbolic link, or no test where the system has none."""
    try:
        os.symlink(target, root / name)
    except OSError:
        pytest.skip("this system cannot make links")


def captions_of(path: Path, **options) -> dict[str, tuple[str, ...]]:
    return {r.path: r.captions for r in find_collection(path, DataConfig(**options)).records}


def splits_of(path: Path) -> dict[str, str | None]:
    return {record.path: record.split for record in find_collection(path).records}


def without_spans(records: list[Record]) -> list[Record]:
    return [record._replace(span=None) for record in records]


def items_of(path: Path, cache: Path, **options) -> list[tuple[torch.Tensor, list[str], str]]:
    """What training sees of it, each picture as often as an epoch shows it."""
    settings = {"image_size": SIZE, "validation_share": 0.0, "show_progress": False} | options
    data = CaptionedImages(path, cache_dir=cache, **settings)
    return [data[i] for i in range(len(data))]


def same(picture: torch.Tensor, source: np.ndarray) -> bool:
    return bool((picture.numpy().transpose(1, 2, 0) == source).all())


# imagefolder (Hugging Face datasets)


def test_imagefolder_jsonl_has_a_caption_or_a_list_of_them_in_each_row(tmp_path):
    rows = [
        {"file_name": "0001.png", "text": "a red bird"},
        {"file_name": "sub/0002.png", "text": ["a blue bird", "small bird, blue wings"]},
    ]
    write(tmp_path, "0001.png", "sub/0002.png", **{"metadata.jsonl": jsonl(*rows)})
    collection = find_collection(tmp_path)
    assert collection.layout == "imagefolder"
    assert collection.records == [
        Record("0001.png", ("a red bird",)),
        Record("sub/0002.png", ("a blue bird", "small bird, blue wings")),
    ]
    assert not collection.skipped


def test_imagefolder_may_have_a_metadata_file_in_the_folder_of_each_split(tmp_path):
    for folder in ("train", "validation", "test"):
        write(tmp_path / folder, "1.png", **{"metadata.csv": f"file_name,text\n1.png,{folder}\n"})
    assert find_collection(tmp_path).records == [
        Record("test/1.png", ("test",), "test"),
        Record("train/1.png", ("train",), "train"),
        Record("validation/1.png", ("validation",), "validation"),
    ]


@pytest.mark.parametrize(
    ("folder", "split"),
    [("training", "train"), ("valid", "validation"), ("dev", "validation"), ("val", "validation"),
     ("testing", "test"), ("eval", "test"), ("evaluation", "test"), ("birds", None)],
)  # fmt: skip
def test_folders_of_splits_have_all_the_names_that_datasets_knows(tmp_path, folder, split):
    row = jsonl({"file_name": "1.png", "text": "a"})
    write(tmp_path / "data" / folder, "1.png", **{"metadata.jsonl": row})
    assert find_collection(tmp_path).records == [Record(f"data/{folder}/1.png", ("a",), split)]


def test_one_metadata_file_may_name_pictures_in_the_folders_of_splits(tmp_path):
    table = "file_name,text\ntrain/1.png,a\ntest/1.png,b\n"
    write(tmp_path, "train/1.png", "test/1.png", **{"metadata.csv": table})
    assert splits_of(tmp_path) == {"test/1.png": "test", "train/1.png": "train"}


def test_a_test_picture_is_told_by_its_folder_and_not_by_its_name(tmp_path):
    write(tmp_path, "test_01.png", **{"metadata.csv": "file_name,text\ntest_01.png,a\n"})
    assert splits_of(tmp_path) == {"test_01.png": None}


def test_each_of_several_file_name_columns_names_a_picture_of_the_row(tmp_path):
    row = {"before_file_name": "a.png", "after_file_name": "b.png", "prompt": "paint it red"}
    write(tmp_path, "a.png", "b.png", **{"metadata.jsonl": jsonl(row)})
    assert find_collection(tmp_path).records == [
        Record("a.png", ("paint it red",)),
        Record("b.png", ("paint it red",)),
    ]


def test_file_names_is_a_list_of_pictures_of_the_row(tmp_path):
    rows = [
        {"file_names": ["a.png", "b.png", "gone.png", None], "text": "a bird"},
        {"side_file_names": ["c.png"], "text": "its side"},
    ]
    write(tmp_path, "a.png", "b.png", "c.png", **{"metadata.jsonl": jsonl(*rows)})
    collection = find_collection(tmp_path)
    assert collection.records == [
        Record("a.png", ("a bird",)),
        Record("b.png", ("a bird",)),
        Record("c.png", ("its side",)),
    ]
    assert collection.skipped == {MISSING: ["gone.png (metadata.jsonl, line 1)"]}


@pytest.mark.parametrize("name", ["metadata.json", "Metadata.csv", "metadata1000.jsonl"])
def test_metadata_files_have_exactly_their_names(tmp_path, name):
    write(tmp_path, "a.png", **{"a.txt": "by the text", name: ""})
    assert find_collection(tmp_path).layout == "sidecar"


def test_pictures_that_no_row_names_are_no_part_of_it_and_counted(tmp_path):
    write(tmp_path, "a.png", "b.png", **{"metadata.csv": "file_name,text\na.png,a\n", "b.txt": "b"})
    collection = find_collection(tmp_path)
    assert collection.records == [Record("a.png", ("a",))]
    assert collection.skipped == {NO_CAPTION: ["b.png"]}


def test_parquet_is_read_like_jsonl(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    write(tmp_path, "a.png", "sub/b.png")
    columns = {
        "file_name": ["a.png", "sub/b.png", "gone.png", None],
        "text": [["a red bird"], ["007", "a bird"], ["gone"], ["x"]],
        "split": ["train", "test", None, None],
        "size": [1, 2, 3, 4],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "metadata.parquet")
    collection = find_collection(tmp_path)
    assert collection.layout == "imagefolder"
    assert collection.records == [
        Record("a.png", ("a red bird",), "train"),
        Record("sub/b.png", ("007", "a bird"), "test"),
    ]
    assert collection.skipped == {
        MISSING: ["gone.png (metadata.parquet, row 2)"],
        "rows without file_name": ["metadata.parquet, row 3"],
    }


def test_parquet_that_is_damaged_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    write(tmp_path, "a.png", **{"metadata.parquet": b"PAR1 nothing"})
    with pytest.raises(UserError, match=r"metadata\.parquet cannot be read"):
        find_collection(tmp_path)


def test_parquet_without_pyarrow_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # import raises ImportError
    write(tmp_path, "a.png", **{"metadata.parquet": b"PAR1"})
    with pytest.raises(UserError, match=r"metadata\.parquet needs pyarrow: pip install pyarrow"):
        find_collection(tmp_path)


# sidecar


def test_sidecars_are_called_txt_or_caption_and_txt_wins(tmp_path):
    texts = {"a.caption": "a", "b.txt": "b", "c.txt": "from txt", "c.caption": "from caption"}
    write(tmp_path, "a.png", "b.webp", "c.jpg", **texts)
    collection = find_collection(tmp_path)
    assert collection.layout == "sidecar"
    assert collection.records == [
        Record("a.png", ("a",)),
        Record("b.webp", ("b",)),
        Record("c.jpg", ("from txt",)),
    ]
    assert collection.skipped == {"texts beside another of the same name": ["c.caption"]}


def test_upper_case_extensions_are_as_good(tmp_path):
    texts = {"A.TXT": "a", "b.Caption": "b", "c.TXT": "c"}
    write(tmp_path, "A.PNG", "b.JPEG", "c.png", **texts)
    assert captions_of(tmp_path) == {"A.PNG": ("a",), "b.JPEG": ("b",), "c.png": ("c",)}


def test_sidecars_of_one_name_in_two_folders_are_kept_apart(tmp_path):
    write(tmp_path, "a/1.png", "b/1.png", **{"a/1.txt": "in a", "b/1.txt": "in b"})
    assert captions_of(tmp_path) == {"a/1.png": ("in a",), "b/1.png": ("in b",)}


def test_folders_tell_the_splits_of_sidecars_the_outermost_first(tmp_path):
    names = ["train/a", "val/b", "birds/test/c", "test/train/d", "e"]
    write(tmp_path, *(f"{name}.png" for name in names), **{f"{name}.txt": "x" for name in names})
    assert splits_of(tmp_path) == {
        "train/a.png": "train", "val/b.png": "validation", "birds/test/c.png": "test",
        "test/train/d.png": "test", "e.png": None,
    }  # fmt: skip


def test_files_of_img2dataset_are_sidecars(tmp_path):
    write(tmp_path, "00000/000000000.jpg", "00000/000000001.jpg", **{
        "00000/000000000.txt": "a red bird", "00000/000000000.json": '{"caption": "other"}',
        "00000/000000001.txt": "", "00000.parquet": b"PAR1", "00000_stats.json": "{}",
    })  # fmt: skip
    collection = find_collection(tmp_path)
    assert collection.layout == "sidecar"
    assert collection.records == [Record("00000/000000000.jpg", ("a red bird",))]
    assert collection.skipped == {"pictures with an empty .txt": ["00000/000000001.jpg"]}


# kohya


def test_kohya_folders_tell_repeats_and_captions(tmp_path):
    texts = {"10_sks dog/1.txt": "sks dog, sitting", "2_cat/3.caption": "a cat\na pet"}
    write(tmp_path, "10_sks dog/1.png", "10_sks dog/2.png", "2_cat/3.png", **texts)
    collection = find_collection(tmp_path)
    assert collection.layout == "kohya"
    assert collection.records == [
        Record("10_sks dog/1.png", ("sks dog, sitting",), repeats=10),
        Record("10_sks dog/2.png", ("sks dog",), repeats=10),
        Record("2_cat/3.png", ("a cat", "a pet"), repeats=2),
    ]
    assert not collection.skipped


def test_an_epoch_shows_pictures_of_kohya_as_often_as_their_folder_says(tmp_path):
    root = write(tmp_path / "data", "3_dog/1.png", "2_cat/2.png")
    paths = [path for _, _, path in items_of(root, tmp_path / "cache")]
    assert paths == ["2_cat/2.png"] * 2 + ["3_dog/1.png"] * 3


def test_repeats_are_not_for_validation(tmp_path):
    root = write(tmp_path / "data", "3_dog/1.png", "2_cat/2.png")
    data = CaptionedImages(root, "validation", SIZE, 1.0, tmp_path / "cache", False)
    assert len(data) == 2


def test_repeats_are_not_taken_from_folders_among_others(tmp_path):
    write(
        tmp_path, "10_sks dog/1.png", "dogs/2.png", **{"10_sks dog/1.txt": "x", "dogs/2.txt": "y"}
    )
    collection = find_collection(tmp_path)
    assert collection.layout == "sidecar"
    assert [record.repeats for record in collection.records] == [1, 1]


def test_meta_json_of_kohya_gives_caption_and_tags(tmp_path):
    rows = {
        "a.png": {"caption": "a red bird", "tags": "bird, red", "image_size": [8, 8]},
        "sub/b.png": {"tags": "bird, blue"},
        "c.png": {"caption": "a bird"},
        "d.png": {"image_size": [8, 8]},
    }
    write(tmp_path, "a.png", "sub/b.png", "c.png", "d.png", **{"meta.json": json.dumps(rows)})
    collection = find_collection(tmp_path / "meta.json")
    assert collection.layout == "table"
    assert collection.records == [
        Record("a.png", ("a red bird, bird, red",)),
        Record("c.png", ("a bird",)),
        Record("sub/b.png", ("bird, blue",)),
    ]
    assert collection.skipped == {"rows without a caption": ["meta.json, entry 3"]}


def test_meta_jsonl_of_kohya_is_a_table_and_image_dir_tells_where_the_pictures_are(tmp_path):
    row = {"image_path": "a.png", "caption": "a bird", "tags": "red", "image_size": [8, 8]}
    write(tmp_path, "pictures/a.png", **{"meta.jsonl": jsonl(row)})
    options = {"image_dir": str(tmp_path / "pictures")}
    assert captions_of(tmp_path / "meta.jsonl", **options) == {"a.png": ("a bird, red",)}


# COCO


def write_coco(root: Path) -> Path:
    """Two pictures of COCO 2014's training and one of 2017's validation."""
    train = {
        "info": {}, "licenses": [],
        "images": [{"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "height": 8},
                   {"id": 25, "file_name": "COCO_train2014_000000000025.jpg", "height": 8}],
        "annotations": [{"id": 1, "image_id": 25, "caption": "A giraffe. "},
                        {"id": 2, "image_id": 9, "caption": "A meal\nin boxes."},
                        {"id": 3, "image_id": 25, "caption": "Two giraffes"}],
    }  # fmt: skip
    val = {
        "images": [{"id": 139, "file_name": "000000000139.jpg"}],
        "annotations": [{"id": 4, "image_id": 139, "caption": "A room"}],
    }
    return write(
        root,
        "train2014/COCO_train2014_000000000009.jpg",
        "train2014/COCO_train2014_000000000025.jpg",
        "val2017/000000000139.jpg",
        **{"annotations/captions_train2014.json": json.dumps(train),
           "annotations/captions_val2017.json": json.dumps(val),
           "annotations/instances_val2017.json": "{}"},
    )  # fmt: skip


COCO_TRAIN = [
    Record("train2014/COCO_train2014_000000000009.jpg", ("A meal in boxes.",), "train"),
    Record("train2014/COCO_train2014_000000000025.jpg", ("A giraffe.", "Two giraffes"), "train"),
]
COCO_VAL = [Record("val2017/000000000139.jpg", ("A room",), "validation")]


def test_coco_is_found_in_its_folder(tmp_path):
    collection = find_collection(write_coco(tmp_path))
    assert collection.layout == "coco"
    assert collection.records == COCO_TRAIN + COCO_VAL
    assert not collection.skipped


@pytest.mark.parametrize(
    ("name", "records"),
    [("captions_train2014.json", COCO_TRAIN), ("captions_val2017.json", COCO_VAL)],
)
def test_coco_is_found_by_its_json(tmp_path, name, records):
    collection = find_collection(write_coco(tmp_path) / "annotations" / name)
    assert (collection.layout, collection.records) == ("coco", records)
    assert not collection.skipped


def test_pictures_of_coco_may_lie_in_images_or_elsewhere(tmp_path):
    root = write_coco(tmp_path / "coco")
    (root / "images").mkdir()
    (root / "train2014").rename(root / "images" / "train2014")
    (root / "val2017").rename(tmp_path / "elsewhere")
    annotations = root / "annotations"
    assert list(captions_of(annotations / "captions_train2014.json")) == [
        f"images/{record.path}" for record in COCO_TRAIN
    ]
    options = {"image_dir": str(tmp_path / "elsewhere")}
    assert captions_of(annotations / "captions_val2017.json", **options) == {
        "000000000139.jpg": ("A room",)
    }


def test_what_coco_cannot_use_is_counted_once(tmp_path):
    data = {
        "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"},
                   {"id": 3, "file_name": "gone.jpg"}, {"id": 4}, 5],
        "annotations": [{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": " "},
                        {"image_id": 3, "caption": "gone"}, {"image_id": 77, "caption": "none"},
                        {"caption": "none"}, 6],
    }  # fmt: skip
    write(tmp_path, "val2017/1.jpg", "val2017/2.jpg",
          **{"annotations/captions_val2017.json": json.dumps(data)})  # fmt: skip
    collection = find_collection(tmp_path)
    assert collection.records == [Record("val2017/1.jpg", ("a",), "validation")]
    assert {reason: len(found) for reason, found in collection.skipped.items()} == {
        "images without id or file_name": 1,
        "entries that are no JSON objects": 1,
        "rows without a caption": 1,
        MISSING: 1,
        NO_PICTURE: 3,
        NO_CAPTION: 1,
    }


def test_pictures_that_coco_does_not_describe_are_counted_when_only_the_json_is_named(tmp_path):
    data = {
        "images": [{"id": 1, "file_name": "1.jpg"}] + [
            {"id": name, "file_name": f"{name}.jpg"} for name in "wqzkbxtma"
        ],
        "annotations": [{"image_id": 1, "caption": "a"}],
    }  # fmt: skip
    write(tmp_path, "1.jpg", **{"captions.json": json.dumps(data)})
    collection = find_collection(tmp_path / "captions.json")
    assert collection.skipped == {NO_CAPTION: [f"{name}.jpg" for name in "wqzkbxtma"]}  # in order


def test_karpathys_json_gives_sentences_and_splits(tmp_path):
    images = [
        {"filepath": "val2014", "filename": "COCO_val2014_000000000042.jpg", "split": "test",
         "sentences": [{"raw": "A shoe.", "tokens": ["a"]}, {"raw": "Shoes ", "tokens": []}]},
        {"filepath": "train2014", "filename": "COCO_train2014_000000000009.jpg",
         "split": "restval", "sentences": [{"raw": "A meal"}]},
        {"filepath": "val2014", "filename": "COCO_val2014_000000000073.jpg", "split": "val",
         "sentences": [{"raw": "A motorcycle"}]},
    ]  # fmt: skip
    names = [f"{image['filepath']}/{image['filename']}" for image in images]
    root = write(tmp_path, *names, **{"dataset_coco.json": json.dumps({"images": images})})
    for path in (root, root / "dataset_coco.json"):
        collection = find_collection(path)
        assert collection.layout == "coco"
        assert collection.records == [
            Record(names[1], ("A meal",), "train"),
            Record(names[0], ("A shoe.", "Shoes"), "test"),
            Record(names[2], ("A motorcycle",), "validation"),
        ]
        assert not collection.skipped


def test_karpathys_flickr_lies_flat_in_images(tmp_path):
    images = [{"filename": "1.jpg", "split": "train", "sentences": [{"raw": "A dog"}]}]
    write(tmp_path, "images/1.jpg", **{"dataset_flickr8k.json": json.dumps({"images": images})})
    assert find_collection(tmp_path).records == [Record("images/1.jpg", ("A dog",), "train")]


def test_blips_list_is_a_table(tmp_path):
    rows = [
        {"image": "val2014/COCO_val2014_000000000042.jpg", "caption": "A shoe", "image_id": "42"},
        {"image": "val2014/COCO_val2014_000000000042.jpg", "caption": "Shoes", "image_id": "42"},
        {"image": "val2014/COCO_val2014_000000000073.jpg", "caption": ["A motorcycle", "A bike"]},
        "no row",
    ]
    names = ["val2014/COCO_val2014_000000000042.jpg", "val2014/COCO_val2014_000000000073.jpg"]
    write(tmp_path, *names, **{"coco_karpathy_train.json": json.dumps(rows)})
    collection = find_collection(tmp_path / "coco_karpathy_train.json")
    assert collection.layout == "table"
    assert collection.records == [
        Record(names[0], ("A shoe", "Shoes")),  # val2014 is no split: Karpathy trains on some of it
        Record(names[1], ("A motorcycle", "A bike")),
    ]
    assert collection.skipped == {
        "entries that are no JSON objects": ["coco_karpathy_train.json, entry 3"]
    }


# webdataset


def img2dataset(index: int, caption: str | None, shard: int = 0) -> list[tuple[str, str | bytes]]:
    """The three members of a sample, in its order."""
    key = f"{shard:05d}{index:04d}"
    about = {"url": "http://x/1.jpg", "caption": caption, "key": key, "status": "success",
             "error_message": None, "width": 8, "height": 8, "exif": "{}"}  # fmt: skip
    members = [(f"{key}.jpg", png(pixels(index))), (f"{key}.json", json.dumps(about))]
    return members if caption is None else [*members, (f"{key}.txt", caption)]


def test_shards_of_img2dataset_are_read_as_they_are(tmp_path):
    root = write(tmp_path / "laion", **{"00000.parquet": b"PAR1", "00000_stats.json": "{}"})
    write_tar(root / "00000.tar", *img2dataset(0, "a red bird"), *img2dataset(3, "a blue bird"))
    write_tar(root / "00001.tar", *img2dataset(0, "a dog", shard=1))
    collection = find_collection(root)
    assert collection.layout == "webdataset"
    assert without_spans(collection.records) == [
        Record("00000.tar/000000000.jpg", ("a red bird",)),
        Record("00000.tar/000000003.jpg", ("a blue bird",)),
        Record("00001.tar/000010000.jpg", ("a dog",)),
    ]
    assert not collection.skipped
    for record in collection.records:
        shard, start, size = record.span
        assert shard == record.path.split("/")[0]
        assert (root / shard).read_bytes()[start : start + size].startswith(b"\x89PNG")


def test_training_sees_the_pictures_of_a_tar_as_they_were_packed(tmp_path):
    path = write_tar(tmp_path / "x.tar", *(m for i in range(5) for m in img2dataset(i, f"no {i}")))
    items = items_of(path, tmp_path / "cache")
    assert [captions for _, captions, _ in items] == [[f"no {i}"] for i in range(5)]
    assert all(same(picture, pixels(i)) for i, (picture, _, _) in enumerate(items))


def test_a_single_tar_is_read_alone(tmp_path):
    write_tar(tmp_path / "00000.tar", *img2dataset(0, "a"))
    write_tar(tmp_path / "00001.tar", *img2dataset(0, "b", shard=1))
    collection = find_collection(tmp_path / "00001.tar")
    assert (collection.layout, collection.name) == ("webdataset", "00001.tar")
    assert without_spans(collection.records) == [Record("00001.tar/000010000.jpg", ("b",))]


def test_a_tar_whose_suffix_is_upper_case_is_read_too(tmp_path):
    path = write_tar(tmp_path / "A.TAR", *img2dataset(0, "a"))
    assert captions_of(path) == {"A.TAR/000000000.jpg": ("a",)}
    assert captions_of(tmp_path) == {"A.TAR/000000000.jpg": ("a",)}


@pytest.mark.parametrize(
    ("shard", "split"),
    [("train-000000.tar", "train"), ("val-000000.tar", "validation"), ("cc3m_valid_0.tar",
     "validation"), ("test.tar", "test"), ("00000.tar", None), ("trainer.tar", None),
     ("val/00000.tar", "validation")],
)  # fmt: skip
def test_the_name_of_a_shard_tells_the_split(tmp_path, shard, split):
    write_tar(tmp_path / shard, *img2dataset(0, "a"))
    assert splits_of(tmp_path) == {f"{shard}/000000000.jpg": split}


@pytest.mark.parametrize("field", ["txt", "cap", "caption", "text", "TXT"])
def test_captions_in_tars_have_fields_of_several_names(tmp_path, field):
    path = write_tar(tmp_path / "x.tar", ("a.png", PNG), (f"a.{field}", " a red\nbird"))
    assert captions_of(path) == {"x.tar/a.png": ("a red bird",)}


@pytest.mark.parametrize(
    "field", ["jpg", "jpeg", "png", "webp", "img", "image", "input.jpg", "JPG"]
)
def test_pictures_in_tars_have_fields_of_several_names(tmp_path, field):
    path = write_tar(tmp_path / "x.tar", (f"d/a.{field}", PNG), ("d/a.txt", "a"))
    assert captions_of(path) == {f"x.tar/d/a.{field}": ("a",)}


def test_the_json_of_a_sample_may_hold_a_list_of_captions(tmp_path):
    path = write_tar(
        tmp_path / "x.tar",
        ("a.png", PNG), ("a.json", json.dumps({"captions": ["one", " ", "two"]})),
        ("b.png", PNG), ("b.json", json.dumps({"caption": ["three"]})),
        ("c.png", PNG), ("c.json", json.dumps({"caption": None})), ("c.txt", "four"),
        ("d.png", PNG), ("d.json", "no json"), ("d.txt", "five"),
        ("e.png", PNG), ("e.json", "[7]"),
    )  # fmt: skip
    collection = find_collection(path)
    assert [record.captions for record in collection.records] == [
        ("one", "two"), ("three",), ("four",), ("five",)
    ]  # fmt: skip
    assert collection.skipped == {NO_CAPTION: ["x.tar/e.png"]}


def test_the_key_ends_at_the_first_dot_of_the_last_part_of_the_path(tmp_path):
    path = write_tar(
        tmp_path / "x.tar",
        ("a/b.c/img.png", PNG), ("a/b.c/img.txt", "a folder with a dot"),
        ("22.05.png", PNG), ("22.05.txt", "a name with a dot"),
        ("y.left.jpg", PNG), ("y.jpg", PNG), ("y.txt", "the whole"),
    )  # fmt: skip
    collection = find_collection(path)
    assert without_spans(collection.records) == [
        Record("x.tar/a/b.c/img.png", ("a folder with a dot",)),
        Record("x.tar/y.jpg", ("the whole",)),
    ]
    assert collection.skipped == {
        "files in tars that are neither picture nor caption (05.png)": ["x.tar/22.05.png"],
        "files in tars that are neither picture nor caption (05.txt)": ["x.tar/22.05.txt"],
        "files in tars that are neither picture nor caption (left.jpg)": ["x.tar/y.left.jpg"],
    }


def test_a_field_that_is_twice_in_a_sample_is_counted_and_the_first_is_kept(tmp_path):
    path = write_tar(
        tmp_path / "x.tar",
        ("a.png", png(pixels(1))), ("a.txt", "first"), ("a.txt", "second"), ("a.png", PNG),
    )  # fmt: skip
    collection = find_collection(path)
    assert without_spans(collection.records) == [Record("x.tar/a.png", ("first",))]
    assert collection.skipped == {TWICE: ["x.tar/a.txt", "x.tar/a.png"]}
    ((picture, _, _),) = items_of(path, tmp_path / "cache")
    assert same(picture, pixels(1))


def test_samples_without_a_member_are_counted_and_no_sample_spans_shards(tmp_path):
    write_tar(
        tmp_path / "0.tar",
        ("a.png", PNG), ("a.txt", "a"),
        ("b.txt", "no picture"),
        ("c.png", PNG),
        ("d.png", PNG), ("d.txt", ""),
        ("e.png", PNG), ("e.txt", b"caf\xe9"),
        ("f.png", PNG),
    )  # fmt: skip
    write_tar(tmp_path / "1.tar", ("f.txt", "in another shard"))
    collection = find_collection(tmp_path)
    assert without_spans(collection.records) == [Record("0.tar/a.png", ("a",))]
    assert collection.skipped == {
        NO_PICTURE: ["0.tar/b", "1.tar/f"],
        NO_CAPTION: ["0.tar/c.png", "0.tar/d.png", "0.tar/f.png"],
        NOT_UTF8: ["0.tar/e.png"],
    }


@pytest.mark.parametrize("text", ["", b"caf\xe9"])
def test_texts_that_are_alone_and_say_nothing_are_counted(tmp_path, text):
    path = write_tar(tmp_path / "x.tar", ("a.txt", text), ("b.png", PNG), ("b.txt", "b"))
    collection = find_collection(path)
    assert [record.captions for record in collection.records] == [("b",)]
    assert sum(map(len, collection.skipped.values())) == 1


def test_metadata_and_litter_in_tars_are_no_samples(tmp_path):
    path = write_tar(
        tmp_path / "x.tar",
        ("__metadata__", "{}"), ("__info.json__", "{}"), ("d/._a.jpg", PNG), ("d/.hidden.jpg", PNG),
        ("README", "no field"), ("d/a.jpg", PNG), ("d/a.txt", "a"),
    )  # fmt: skip
    collection = find_collection(path)
    assert without_spans(collection.records) == [Record("x.tar/d/a.jpg", ("a",))]
    assert not collection.skipped


def test_only_names_that_end_in_underscores_too_are_metadata_of_a_tar(tmp_path):
    path = write_tar(tmp_path / "x.tar", ("__a__.jpg", PNG), ("__a__.txt", "a"))
    assert captions_of(path) == {"x.tar/__a__.jpg": ("a",)}


@pytest.mark.parametrize("where", ["picture", "header"])
def test_a_tar_that_is_cut_short_gives_what_came_before_and_is_counted(tmp_path, where):
    path = write_tar(tmp_path / "x.tar", *(m for i in range(4) for m in img2dataset(i, f"no {i}")))
    start = find_collection(path).records[2].span[1]  # of the third picture
    path.write_bytes(path.read_bytes()[: start + 50 if where == "picture" else start - 300])
    collection = find_collection(path)
    assert [record.captions for record in collection.records] == [("no 0",), ("no 1",)]
    (damage,) = collection.skipped[DAMAGED]
    assert damage.startswith("x.tar/")


def test_a_header_that_is_damaged_does_not_end_a_tar_unseen(tmp_path):
    path = write_tar(tmp_path / "x.tar", *(m for i in range(4) for m in img2dataset(i, f"no {i}")))
    start = find_collection(path).records[2].span[1]
    data = bytearray(path.read_bytes())
    data[start - 500] ^= 1  # in the name; the checksum is wrong now
    path.write_bytes(data)
    collection = find_collection(path)
    assert [record.captions for record in collection.records] == [("no 0",), ("no 1",)]
    assert len(collection.skipped[DAMAGED]) == 1


def test_tars_that_are_none_are_counted(tmp_path):
    write_tar(tmp_path / "0.tar", *img2dataset(0, "a"))
    write(tmp_path, **{"1.tar": b"no tar", "2.tar": b"", "3.tar.gz": b"packed"})
    collection = find_collection(tmp_path)
    assert len(collection.records) == 1
    assert {reason: len(found) for reason, found in collection.skipped.items()} == {
        DAMAGED: 2,
        "packed tars, which are to be unpacked to .tar first": 1,
    }


# c10: CUB birds and Oxford flowers


BIRD = "001.Black_footed_Albatross/Black_Footed_Albatross_0001_796111"
WREN = "200.Common_Yellowthroat/Common_Yellowthroat_0003_190521"


def write_cub(root: Path, texts: str, size: int = SIZE) -> Path:
    for i, name in enumerate((BIRD, WREN)):
        write(root, **{f"CUB_200_2011/images/{name}.jpg": png(pixels(i, size)),
                       f"{texts}/{name}.txt": f"bird {i}\nthe bird {i}\n"})  # fmt: skip
    return root


def test_reeds_birds_are_read_with_their_test_classes(tmp_path):
    root = write_cub(tmp_path, "text_c10")
    write(root, **{f"text_c10/{BIRD}.h5": b"h5", "images/001.t7": b"t7",
                   "testclasses.txt": "200.Common_Yellowthroat\n",
                   "trainvalclasses.txt": "001.Black_footed_Albatross\n"})  # fmt: skip
    collection = find_collection(root)
    assert collection.layout == "c10"
    assert collection.records == [
        Record(f"CUB_200_2011/images/{BIRD}.jpg", ("bird 0", "the bird 0"), "train"),
        Record(f"CUB_200_2011/images/{WREN}.jpg", ("bird 1", "the bird 1"), "test"),
    ]
    assert not collection.skipped


def test_reeds_flowers_lie_flat_in_jpg(tmp_path):
    root = write(
        tmp_path, "jpg/image_06734.jpg", "jpg/image_00001.jpg", "jpg/image_00002.jpg",
        **{"text_c10/class_00001/image_06734.txt": "pink\nround",
           "text_c10/class_00077/image_00001.txt": "blue",
           "text_c10/class_00077/image_99999.txt": "no picture",
           "text_c10/class_00077/image_00002.txt": "\n", "testclasses.txt": "class_00077\n"},
    )  # fmt: skip
    collection = find_collection(root)
    assert collection.layout == "c10"
    assert collection.records == [
        Record("jpg/image_00001.jpg", ("blue",), "test"),
        Record("jpg/image_06734.jpg", ("pink", "round"), "train"),
    ]
    assert collection.skipped == {
        NO_PICTURE: ["text_c10/class_00077/image_99999.txt"],
        "pictures with an empty .txt": ["text_c10/class_00077/image_00002.txt"],
    }


def test_pictures_that_no_text_is_about_and_texts_that_are_broken_are_counted(tmp_path):
    root = write_cub(tmp_path, "text_c10")
    write(root, "CUB_200_2011/images/001.Black_footed_Albatross/x.jpg",
          **{f"text_c10/{BIRD}.txt": b"a bird\ncaf\xe9\n"})  # fmt: skip
    collection = find_collection(root)
    assert [record.path for record in collection.records] == [f"CUB_200_2011/images/{WREN}.jpg"]
    assert collection.skipped == {
        NOT_UTF8: [f"text_c10/{BIRD}.txt, line 2"],
        NO_CAPTION: ["CUB_200_2011/images/001.Black_footed_Albatross/x.jpg"],
    }


def test_a_picture_with_texts_of_both_kinds_is_one_record(tmp_path):
    root = write_cub(tmp_path, "text_c10")
    write_cub(root, "text")
    paths = [record.path for record in find_collection(root).records]
    assert paths == [f"CUB_200_2011/images/{name}.jpg" for name in (BIRD, WREN)]


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("the_pickle_was_run",))


@pytest.mark.parametrize(
    "names",
    [
        b"(lp0\nS'" + WREN.encode() + b"'\np1\na.",  # of Python 2, as AttnGAN has it
        pickle.dumps([WREN], protocol=2),
        pickle.dumps([WREN]),
        pickle.dumps([Bomb(), WREN]),
    ],
    ids=["Python 2", "protocol 2", "new", "hostile"],
)
def test_attngans_birds_are_read_and_their_pickle_is_not_run(tmp_path, monkeypatch, names):
    monkeypatch.chdir(tmp_path)
    root = write_cub(tmp_path / "birds", "text")
    write(root, **{"test/filenames.pickle": names, "train/filenames.pickle": pickle.dumps([BIRD]),
                   "captions.pickle": pickle.dumps(Bomb())})  # fmt: skip
    collection = find_collection(root)
    assert collection.layout == "c10"
    assert collection.records == [
        Record(f"CUB_200_2011/images/{BIRD}.jpg", ("bird 0", "the bird 0"), "train"),
        Record(f"CUB_200_2011/images/{WREN}.jpg", ("bird 1", "the bird 1"), "test"),
    ]
    assert not (tmp_path / "the_pickle_was_run").exists()


def test_attngans_coco_has_texts_without_folders(tmp_path):
    names = [f"COCO_{part}2014_{i:012d}" for part in ("train", "val") for i in range(2)]
    root = write(tmp_path, *(f"images/{n.split('_')[1]}/{n}.jpg" for n in names))
    write(root, **{f"text/{name}.txt": name for name in names[:3]},
          **{"test/filenames.pickle": pickle.dumps([names[2]])})  # fmt: skip
    write(root, "images/train2014/twice.jpg", "images/val2014/twice.jpg")
    write(root, **{"text/twice.txt": "of which of them?"})
    collection = find_collection(root)
    assert collection.records == [
        Record(f"images/train2014/{names[0]}.jpg", (names[0],), "train"),
        Record(f"images/train2014/{names[1]}.jpg", (names[1],), "train"),
        Record(f"images/val2014/{names[2]}.jpg", (names[2],), "test"),
    ]
    assert collection.skipped[NO_PICTURE] == ["text/twice.txt"]
    assert len(collection.skipped[NO_CAPTION]) == 3


def test_the_hostile_pickle_would_run_if_it_were_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps([Bomb()]))
    assert (tmp_path / "the_pickle_was_run").exists()


def test_bounding_boxes_are_those_of_cub(tmp_path):
    root = write_cub(tmp_path, "text")
    write(root, **{"CUB_200_2011/images.txt": f"1 {BIRD}.jpg\n2 {WREN}.jpg\n",
                   "CUB_200_2011/bounding_boxes.txt": "1 1.0 2.0 4.0 3.0\n2 no box\n"})  # fmt: skip
    assert [record.box for record in find_collection(root).records] == [(1.0, 2.0, 4.0, 3.0), None]


def test_crop_boxes_cuts_to_the_square_around_the_box(tmp_path):
    root = write_cub(tmp_path / "birds", "text", size=32)
    write(root, **{"CUB_200_2011/images.txt": f"1 {BIRD}.jpg\n2 {WREN}.jpg\n",
                   "CUB_200_2011/bounding_boxes.txt": "1 8.0 10.0 8.0 4.0\n"})  # fmt: skip
    options = {"image_size": 12, "resize": "nearest"}
    whole = items_of(root, tmp_path / "cache", **options)
    cut = items_of(root, tmp_path / "cache", crop_boxes=True, **options)
    # its middle is (12, 12), and 0.75 * 8 is half the side
    assert same(cut[0][0], pixels(0, 32)[6:18, 6:18])
    assert not torch.equal(cut[0][0], whole[0][0])
    assert torch.equal(cut[1][0], whole[1][0])  # it has no box


# table

TABLES = {
    "t.csv": 'path,caption\na.png,"a red, bird"\nsub/b.png,blue\n',
    "t.tsv": "caption\timage\na red, bird\ta.png\nblue\tsub/b.png\n",
    "semicolons.csv": "file;text;size\na.png;a red, bird;1\nsub/b.png;blue;2\n",
    "no_header.csv": 'a.png,"a red, bird"\nsub/b.png,blue\n',
    "no_header.tsv": "a.png\ta red, bird\nsub/b.png\tblue\n",
    "t.jsonl": jsonl({"filename": "a.png", "prompt": "a red, bird"},
                     {"img": "sub/b.png", "text": "blue"}),
    "rows.json": json.dumps([{"filepath": "a.png", "caption": "a red, bird"},
                             {"image_path": "sub/b.png", "captions": ["blue"]}]),
    "paths.json": json.dumps({"a.png": "a red, bird", "sub/b.png": ["blue"]}),
    "metadata.jsonl": jsonl({"file_name": "a.png", "text": "a red, bird"},
                            {"file_name": "sub/b.png", "text": "blue"}),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_all_kinds_say_the_same(tmp_path, name):
    root = write(tmp_path / "birds", "a.png", "sub/b.png", **{name: TABLES[name]})
    collection = find_collection(root / name)
    assert (collection.layout, collection.name) == ("table", name)
    assert collection.records == [
        Record("a.png", ("a red, bird",)),
        Record("sub/b.png", ("blue",)),
    ]
    assert not collection.skipped


@pytest.mark.parametrize("name", [name for name in TABLES if name != "metadata.jsonl"])
def test_the_only_table_of_a_folder_is_found(tmp_path, name):
    write(tmp_path, "a.png", "sub/b.png", **{name: TABLES[name]})
    collection = find_collection(tmp_path)
    assert collection.layout == "table"
    assert [record.captions for record in collection.records] == [("a red, bird",), ("blue",)]


@pytest.mark.parametrize("name", ["t.tsv", "t.jsonl", "rows.json", "t.csv"])
def test_tables_may_have_upper_case_suffixes(tmp_path, name):
    write(tmp_path, "a.png", "sub/b.png", **{name.upper(): TABLES[name]})
    assert captions_of(tmp_path / name.upper()) == {
        "a.png": ("a red, bird",), "sub/b.png": ("blue",)
    }  # fmt: skip


def test_paths_are_relative_to_the_table_or_to_image_dir(tmp_path):
    write(tmp_path, "pictures/a.png", **{"tables/t.csv": "path,text\na.png,a\n"})
    with pytest.raises(UserError, match=f"1 {MISSING}"):
        find_collection(tmp_path / "tables" / "t.csv")
    options = {"image_dir": str(tmp_path / "pictures")}
    assert captions_of(tmp_path / "tables" / "t.csv", **options) == {"a.png": ("a",)}
    assert captions_of(tmp_path / "tables", **options) == {"a.png": ("a",)}


def test_image_dir_is_refused_where_it_means_nothing(tmp_path):
    write(tmp_path, "a.png", **{"a.txt": "a"})
    with pytest.raises(UserError, match="--image-dir is for tables and annotations"):
        find_collection(tmp_path, DataConfig(image_dir=str(tmp_path)))


def test_image_dir_must_be_a_folder(tmp_path):
    write(tmp_path, "a.png", **{"t.csv": "path,text\na.png,a\n"})
    with pytest.raises(UserError, match="is no folder"):
        find_collection(tmp_path / "t.csv", DataConfig(image_dir=str(tmp_path / "gone")))


def test_several_tables_are_refused_until_one_is_named(tmp_path):
    write(
        tmp_path, "a.png", **{"1.csv": "path,text\na.png,one\n", "2.csv": "path,text\na.png,two\n"}
    )
    with pytest.raises(UserError, match="2 tables; name one of them"):
        find_collection(tmp_path, DataConfig(format="table"))
    assert captions_of(tmp_path / "2.csv") == {"a.png": ("two",)}


def test_a_table_tells_splits(tmp_path):
    rows = [{"path": "a.png", "text": "a", "split": "val"}, {"path": "b.png", "text": "b"}]
    write(tmp_path, "a.png", "b.png", **{"t.json": json.dumps(rows)})
    assert splits_of(tmp_path / "t.json") == {"a.png": "validation", "b.png": None}


# names as captions


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("001.Black_footed_Albatross", "Black footed Albatross"),
        ("golden-retriever", "golden retriever"),
        ("n01440764", "n01440764"),  # of ImageNet: a number without words
        ("\u7ea2\u9e1f", "\u7ea2\u9e1f"),
    ],
)
def test_the_folder_is_the_caption_with_dirname(tmp_path, name, caption):
    write(tmp_path, f"{name}/1.png", "alone.png")
    collection = find_collection(tmp_path, DataConfig(caption_from="dirname"))
    assert collection.layout == "dirnames as captions"
    assert collection.records == [Record(f"{name}/1.png", (caption,))]
    assert collection.skipped == {
        "pictures whose name, or folder's name, says nothing": ["alone.png"]
    }


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("a_red-bird (2)", "a red bird"),
        ("a_red_bird_0012", "a red bird"),
        ("12 a red bird", "a red bird"),
        ("R2D2", "R2D2"),
        ("v1.5", "v1.5"),
    ],
)
def test_the_file_is_the_caption_with_filename(tmp_path, name, caption):
    write(tmp_path, f"train/{name}.png", **{f"train/{name}.txt": "not this"})
    collection = find_collection(tmp_path, DataConfig(caption_from="filename"))
    assert collection.layout == "filenames as captions"
    assert collection.records == [Record(f"train/{name}.png", (caption,), "train")]


# Zip


ZIPPED = {
    "imagefolder": ({"train/metadata.jsonl": jsonl({"file_name": "a.png", "text": "a bird"})}, {}),
    "sidecar": ({"train/a.txt": "a bird"}, {}),
    "table": ({"t.csv": "path,text\ntrain/a.png,a bird\n"}, {}),
    "dirnames as captions": ({}, {"caption_from": "dirname"}),
}


@pytest.mark.parametrize("layout", ZIPPED)
def test_a_zip_is_read_like_the_folder_in_it(tmp_path, layout):
    texts, options = ZIPPED[layout]
    path = write_zip(tmp_path / "x.zip", "train/a.png", "__MACOSX/train/._a.png", **texts)
    collection = find_collection(path, DataConfig(**options))
    caption = "train" if options else "a bird"
    assert (collection.layout, collection.name) == (layout, "x.zip")
    assert collection.records == [Record("train/a.png", (caption,), "train")]
    assert not collection.skipped
    ((picture, captions, _),) = items_of(path, tmp_path / "cache", **options)
    assert same(picture, pixels()) and captions == [caption]


def test_kohya_and_coco_are_read_in_a_zip_too(tmp_path):
    assert find_collection(write_zip(tmp_path / "k.zip", "3_a dog/1.png")).records == [
        Record("3_a dog/1.png", ("a dog",), repeats=3)
    ]
    files = {p.relative_to(tmp_path / "c").as_posix(): p.read_bytes()
             for p in write_coco(tmp_path / "c").rglob("*.*")}  # fmt: skip
    assert find_collection(write_zip(tmp_path / "c.zip", **files)).records == COCO_TRAIN + COCO_VAL


def test_a_zip_that_was_replaced_is_read_anew(tmp_path):
    path = write_zip(tmp_path / "x.zip", "a.png", **{"a.txt": "old"})
    assert captions_of(path) == {"a.png": ("old",)}
    path.unlink()
    write_zip(path, "a.png", "b.png", **{"a.txt": "new", "b.txt": "another"})
    assert captions_of(path) == {"a.png": ("new",), "b.png": ("another",)}


def test_a_text_in_a_zip_that_cannot_be_unpacked_is_refused_or_counted(tmp_path):
    rows = jsonl({"file_name": "a.png", "text": "a bird"})
    path = write_zip(tmp_path / "x.zip", "a.png", **{"metadata.jsonl": rows})
    path.write_bytes(path.read_bytes().replace(b"a bird", b"a bund"))  # the checksum is wrong now
    with pytest.raises(UserError, match=r"metadata\.jsonl"):
        find_collection(path)
    path = write_zip(tmp_path / "y.zip", "a.png", "b.png", **{"a.txt": "a bird", "b.txt": "b"})
    path.write_bytes(path.read_bytes().replace(b"a bird", b"a bund"))
    collection = find_collection(path)
    assert collection.records == [Record("b.png", ("b",))]
    assert len(collection.skipped["texts that cannot be read"]) == 1


# Nothing outside


ESCAPES = ["../x.png", "sub/../../x.png", "/x.png", "C:\\x.png", "C:/x.png", "..\\x.png"]


@pytest.mark.parametrize("name", ESCAPES)
def test_names_in_a_zip_that_lead_out_of_it_are_counted(tmp_path, name):
    write(tmp_path, "x.png")
    texts = {"a.txt": "a", name.replace("png", "txt"): "out"}
    collection = find_collection(write_zip(tmp_path / "x.zip", "a.png", name, **texts))
    assert collection.records == [Record("a.png", ("a",))]
    assert collection.skipped == {OUTSIDE: [name, name.replace("png", "txt")]}


@pytest.mark.parametrize("name", ESCAPES)
def test_names_in_a_tar_that_lead_out_of_it_are_counted(tmp_path, name):
    write(tmp_path, "x.png")
    text = name.replace("png", "txt")
    path = write_tar(tmp_path / "x.tar", ("a.png", PNG), ("a.txt", "a"), (name, PNG), (text, "out"))
    collection = find_collection(path)
    assert without_spans(collection.records) == [Record("x.tar/a.png", ("a",))]
    assert collection.skipped == {OUTSIDE: [f"x.tar/{name}", f"x.tar/{text}"]}


def test_links_in_a_tar_are_not_followed(tmp_path):
    write(tmp_path, "x.png")
    path = write_tar(tmp_path / "x.tar", ("a.png", PNG), ("a.txt", "a"))
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("b.png")
        info.type, info.linkname = tarfile.SYMTYPE, "../x.png"
        archive.addfile(info)
        text = tarfile.TarInfo("b.txt")
        text.size = 1
        archive.addfile(text, io.BytesIO(b"b"))
    collection = find_collection(path)
    assert without_spans(collection.records) == [Record("x.tar/a.png", ("a",))]
    assert collection.skipped == {SPECIAL: ["x.tar/b.png"], NO_PICTURE: ["x.tar/b"]}


@pytest.mark.parametrize("name", ESCAPES)
def test_tables_and_annotations_cannot_lead_out(tmp_path, name):
    root = write(tmp_path / "data", "a.png")
    write(tmp_path, "x.png")
    rows = [{"path": name, "text": "out"}, {"path": "a.png", "text": "a"}]
    write(root, **{"t.json": json.dumps(rows)})
    collection = find_collection(root / "t.json")
    assert collection.records == [Record("a.png", ("a",))]
    assert collection.skipped == {OUTSIDE: ["t.json, entry 0"]}
    data = {
        "images": [{"id": 1, "file_name": name}, {"id": 2, "file_name": "a.png"}],
        "annotations": [{"image_id": i, "caption": "x"} for i in (1, 2)],
    }
    write(root, **{"c.json": json.dumps(data)})
    collection = find_collection(root / "c.json")
    assert collection.records == [Record("a.png", ("x",))]
    assert collection.skipped == {OUTSIDE: ["c.json, annotations[0]"]}


@pytest.mark.parametrize("name", ["Star Wars: a poster", "12:30"])
def test_a_colon_in_a_name_does_not_make_it_a_drive(tmp_path, name):
    root = tmp_path / "folder"
    try:
        row = jsonl({"file_name": f"{name}.png", "text": "a"})
        write(root, f"{name}.png", **{"metadata.jsonl": row})
    except OSError:
        pytest.skip("this system has no such names")
    assert captions_of(root) == {f"{name}.png": ("a",)}
    path = write_zip(tmp_path / "x.zip", f"{name}.png", **{f"{name}.txt": "a"})
    assert captions_of(path) == {f"{name}.png": ("a",)}
    path = write_tar(tmp_path / "x.tar", (f"{name}.png", PNG), (f"{name}.txt", "a"))
    assert captions_of(path) == {f"x.tar/{name}.png": ("a",)}


# Links


def test_links_out_of_the_folder_are_read_only_when_asked_for(tmp_path):
    root = write(tmp_path / "data", "a.png", **{"a.txt": "a"})
    write(tmp_path / "far", "b.png", "c.png", **{"b.txt": "b", "c.txt": "c"})
    link(root, "b.png", tmp_path / "far" / "b.png")
    link(root, "b.txt", tmp_path / "far" / "b.txt")
    link(root, "more", tmp_path / "far")
    collection = find_collection(root)
    assert collection.records == [Record("a.png", ("a",))]
    assert {k: sorted(v) for k, v in collection.skipped.items()} == {
        LINKS: ["b.png", "b.txt", "more"]
    }
    assert captions_of(root, follow_links=True) == {
        "a.png": ("a",), "b.png": ("b",), "more/b.png": ("b",), "more/c.png": ("c",)
    }  # fmt: skip


def test_a_table_may_name_what_is_linked_only_when_asked_for(tmp_path):
    root = write(tmp_path / "data", "a.png", **{"t.csv": "path,text\na.png,a\nb.png,b\n"})
    write(tmp_path, "far.png")
    link(root, "b.png", tmp_path / "far.png")
    collection = find_collection(root / "t.csv")
    assert collection.records == [Record("a.png", ("a",))]
    assert collection.skipped == {OUTSIDE: ["t.csv, line 3"], LINKS: ["b.png"]}
    assert list(captions_of(root / "t.csv", follow_links=True)) == ["a.png", "b.png"]


@pytest.mark.parametrize("target", [".", "sub"])
def test_links_that_lead_round_in_circles_show_nothing_twice(tmp_path, target):
    root = write(tmp_path / "data", "a.png", "sub/b.png", **{"a.txt": "a", "sub/b.txt": "b"})
    link(root / "sub", "round", root / target)
    collection = find_collection(root)
    assert [record.path for record in collection.records] == ["a.png", "sub/b.png"]
    assert collection.skipped == {LINKS: ["sub/round"]}
    assert captions_of(root, follow_links=True) == {"a.png": ("a",), "sub/b.png": ("b",)}


# Which layout it is


def test_layouts_are_looked_for_in_a_fixed_order(tmp_path):
    rows = jsonl({"file_name": "a.png", "text": "a"})
    write(tmp_path, "a.png", **{"a.txt": "a"})
    assert find_collection(tmp_path).layout == "sidecar"
    write(tmp_path, **{"t.csv": "path,text\na.png,a\n"})
    assert find_collection(tmp_path).layout == "sidecar"
    write(tmp_path, "images/1.X/1.png", **{"text/1.X/1.txt": "a"})
    assert find_collection(tmp_path).layout == "c10"
    write(tmp_path, **{"metadata.jsonl": rows})
    assert find_collection(tmp_path).layout == "imagefolder"
    write_coco(tmp_path)
    assert find_collection(tmp_path).layout == "coco"
    write_tar(tmp_path / "0.tar", *img2dataset(0, "a"))
    assert find_collection(tmp_path).layout == "webdataset"
    options = DataConfig(caption_from="filename")
    assert find_collection(tmp_path, options).layout == "filenames as captions"


def test_format_forces_a_layout(tmp_path):
    write(tmp_path, "3_dog/a.png", "images/1.X/1.png",
          **{"3_dog/a.txt": "sidecar", "t.csv": "path,text\n3_dog/a.png,table\n",
             "metadata.jsonl": jsonl({"file_name": "3_dog/a.png", "text": "imagefolder"}),
             "text/1.X/1.txt": "c10"})  # fmt: skip
    write_coco(tmp_path)
    write_tar(tmp_path / "0.tar", *img2dataset(0, "webdataset"))
    found = {
        name: find_collection(tmp_path, DataConfig(format=name))
        for name in ("imagefolder", "sidecar", "kohya", "coco", "webdataset", "c10")
    }
    assert all(collection.layout == name for name, collection in found.items())
    paths = {name: collection.records[0].path for name, collection in found.items()}
    assert paths == {
        "imagefolder": "3_dog/a.png", "sidecar": "3_dog/a.png", "kohya": "3_dog/a.png",
        "coco": COCO_TRAIN[0].path, "webdataset": "0.tar/000000000.jpg", "c10": "images/1.X/1.png",
    }  # fmt: skip
    assert [len(found[name].records) for name in found] == [1, 1, 1, 3, 1, 1]
    assert found["kohya"].records[0] == Record("3_dog/a.png", ("sidecar",), repeats=3)
    options = DataConfig(format="table")
    assert find_collection(tmp_path / "t.csv", options).records == [
        Record("3_dog/a.png", ("table",))
    ]


@pytest.mark.parametrize(
    "name", ["imagefolder", "sidecar", "kohya", "coco", "webdataset", "c10", "table"]
)
@pytest.mark.parametrize("file", ["x.tar", "x.zip", "t.json", "t.csv", ""])
def test_a_format_that_does_not_fit_is_refused_or_read_but_never_crashes(tmp_path, name, file):
    rows = json.dumps([{"path": "a.png", "text": "a"}])
    write(tmp_path, "a.png", **{"a.txt": "a", "t.csv": "path,text\na.png,a\n", "t.json": rows})
    write_tar(tmp_path / "x.tar", *img2dataset(0, "a"))
    write_zip(tmp_path / "x.zip", "a.png", **{"a.txt": "a"})
    try:
        assert find_collection(tmp_path / file, DataConfig(format=name)).layout == name
    except UserError as error:
        assert len(str(error)) > 20


def test_a_format_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UserError, match="format is one of"):
        find_collection(tmp_path, DataConfig(format="parquet"))


# Captions stay text


def csv_of(rows: list[tuple[str, str]], delimiter: str) -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows([("file_name", "text"), *rows])
    return file.getvalue()


def as_coco(caption: str) -> str:
    images, annotations = [{"id": 1, "file_name": "a.png"}], [{"image_id": 1, "caption": caption}]
    return json.dumps({"images": images, "annotations": annotations})


def as_karpathy(caption: str) -> str:
    return json.dumps({"images": [{"filename": "a.png", "sentences": [{"raw": caption}]}]})


WAYS: dict[str, Callable[[Path, str], Path]] = {
    "imagefolder jsonl": lambda p, c: write(
        p, "a.png", **{"metadata.jsonl": jsonl({"file_name": "a.png", "text": c})}),
    "imagefolder csv": lambda p, c: write(
        p, "a.png", **{"metadata.csv": csv_of([("a.png", c)], ",")}),
    "sidecar": lambda p, c: write(p, "a.png", **{"a.txt": c}),
    "sidecar .caption": lambda p, c: write(p, "a.png", **{"a.caption": c}),
    "kohya": lambda p, c: write(p, f"1_{c}/a.png"),
    "coco": lambda p, c: write(p, "a.png", **{"captions_x.json": as_coco(c)}),
    "karpathy": lambda p, c: write(p, "a.png", **{"dataset_x.json": as_karpathy(c)}),
    "webdataset txt": lambda p, c: write_tar(p / "x.tar", ("a.png", PNG), ("a.txt", c)),
    "webdataset json": lambda p, c: write_tar(
        p / "x.tar", ("a.png", PNG), ("a.json", json.dumps({"caption": c}))),
    "c10": lambda p, c: write(p, "images/1.X/a.png", **{"text/1.X/a.txt": c}),
    "table csv": lambda p, c: write(p, "a.png", **{"t.csv": csv_of([("a.png", c)], ",")}),
    "table tsv": lambda p, c: write(p, "a.png", **{"t.tsv": csv_of([("a.png", c)], "\t")}),
    "table semicolon": lambda p, c: write(p, "a.png", **{"t.csv": csv_of([("a.png", c)], ";")}),
    "table jsonl": lambda p, c: write(
        p, "a.png", **{"t.jsonl": jsonl({"img": "a.png", "text": c})}),
    "table json": lambda p, c: write(p, "a.png", **{"t.json": json.dumps({"a.png": c})}),
    "zip": lambda p, c: write_zip(p.with_suffix(".zip"), "a.png", **{"a.txt": c}),
}  # fmt: skip


@pytest.mark.parametrize("caption", NAMED_LIKE_NUMBERS)
@pytest.mark.parametrize("way", WAYS)
def test_captions_that_look_like_something_else_stay_text(tmp_path, way, caption):
    path = WAYS[way](tmp_path / "data", caption)
    assert [record.captions for record in find_collection(path).records] == [(caption,)]


@pytest.mark.parametrize("caption", NAMED_LIKE_NUMBERS)
@pytest.mark.parametrize("caption_from", ["dirname", "filename"])
def test_names_that_look_like_something_else_stay_text(tmp_path, caption_from, caption):
    write(tmp_path, f"{caption}/{caption}.png")
    assert list(captions_of(tmp_path, caption_from=caption_from).values()) == [(caption,)]


def test_parquet_captions_that_look_like_something_else_stay_text(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    names = [f"{i}.png" for i in range(len(NAMED_LIKE_NUMBERS))]
    table = pyarrow.table({"file_name": names, "text": NAMED_LIKE_NUMBERS})
    write(tmp_path, *names)
    parquet.write_table(table, tmp_path / "metadata.parquet")
    assert [r.captions for r in find_collection(tmp_path).records] == [
        (caption,) for caption in NAMED_LIKE_NUMBERS
    ]


def test_control_characters_are_no_part_of_a_caption():
    assert clean_caption("a\x07 \x1b[31mred\x85bird\x7f") == "a [31mred bird"


# Found by reading the readers


def test_a_zip_of_a_folder_holds_its_table_and_kohyas_folders(tmp_path):
    path = write_zip(
        tmp_path / "a.zip", "data/a.png", **{"data/t.csv": "path,text\na.png,a bird\n"}
    )
    assert find_collection(path).records == [Record("data/a.png", ("a bird",))]
    path = write_zip(tmp_path / "k.zip", "data/3_red bird/a.png")
    assert find_collection(path).records == [
        Record("data/3_red bird/a.png", ("red bird",), repeats=3)
    ]


def test_names_that_macos_writes_are_those_of_the_metadata(tmp_path):
    nfc, nfd = "caf\u00e9.png", "cafe\u0301.png"
    path = write_zip(
        tmp_path / "a.zip", nfd, **{"metadata.jsonl": jsonl({"file_name": nfc, "text": "x"})}
    )
    collection = find_collection(path)
    assert collection.records == [Record(nfd, ("x",))] and not collection.skipped


def test_a_folder_is_read_once_however_links_lead_to_it(tmp_path):
    root = write(tmp_path / "data", "z/deep/a.png", **{"z/deep/a.txt": "a"})
    for name in ("0link", "zz"):
        link(root, name, root / "z" / "deep")
    link(root, "round", root)
    collection = find_collection(root, DataConfig(follow_links=True))
    assert collection.records == [Record("z/deep/a.png", ("a",))]


def test_annotations_may_be_named_from_within_their_folder(tmp_path, monkeypatch):
    coco = {"images": [{"id": 1, "file_name": "a.jpg"}],
            "annotations": [{"image_id": 1, "caption": "a bird"}]}  # fmt: skip
    write(tmp_path, "val2014/a.jpg", **{"annotations/captions_val2014.json": json.dumps(coco)})
    blip = [{"image": "val2014/a.jpg", "caption": "a bird"}]
    write(tmp_path, **{"annotations/coco_karpathy_val.json": json.dumps(blip)})
    monkeypatch.chdir(tmp_path / "annotations")
    for name in ("captions_val2014.json", "coco_karpathy_val.json"):
        assert [r.path for r in find_collection(name).records] == ["val2014/a.jpg"]


def test_two_images_with_one_id_are_counted(tmp_path):
    coco = {"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}],
            "annotations": [{"image_id": 1, "caption": "a bird"}]}  # fmt: skip
    write(tmp_path, "a.jpg", "b.jpg", **{"annotations/captions_x.json": json.dumps(coco)})
    skipped = find_collection(tmp_path).skipped
    assert skipped["images with the id of another"] == ["annotations/captions_x.json, images[1]"]


def test_packed_tars_are_refused_with_what_to_do(tmp_path):
    write(tmp_path, **{"0.tar.gz": b"", "1.tgz": b""})
    with pytest.raises(UserError, match="2 packed tars, which are to be unpacked to .tar first"):
        find_collection(tmp_path)


def test_a_caption_that_is_no_text_does_not_hide_one_that_is(tmp_path):
    row = {"file_name": "a.png", "text": 5, "caption": "a bird"}
    write(tmp_path, "a.png", **{"metadata.jsonl": jsonl(row)})
    assert find_collection(tmp_path).records == [Record("a.png", ("a bird",))]


def test_sidecars_end_their_lines_where_editors_do(tmp_path):
    write(tmp_path, "a.png", **{"a.txt": "one\u2028still one\r\ntwo\rthree".encode()})
    assert find_collection(tmp_path).records == [Record("a.png", ("one still one", "two", "three"))]


def test_a_picture_that_is_a_program_is_not_run(tmp_path, monkeypatch):
    """Pillow gives EPS to a program called gs; nothing of a collection is to start a program."""
    gs = tmp_path / "bin" / "gs"
    write(tmp_path, **{"bin/gs": f"#!/bin/sh\ntouch {tmp_path}/started\n"})
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", str(gs.parent), prepend=os.pathsep)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    root = write(tmp_path / "data", "b.png", **{"a.png": eps, "a.txt": "a", "b.txt": "b"})
    data = CaptionedImages(root, image_size=SIZE, validation_share=0.0, show_progress=False,
                           cache_dir=tmp_path / "cache")  # fmt: skip
    assert len(data) == 1 and data.collection.skipped["files that are no readable pictures"]
    assert not (tmp_path / "started").exists()
