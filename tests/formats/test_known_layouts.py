"""Protects the layouts that other tools write: each is read as its own tool means it."""

import io
import os
import pickle
import sys
import tarfile

import numpy as np
import pytest
from small import items_of, opened
from written import (
    PNG,
    coco,
    csv_of,
    expect,
    find_collection,
    link,
    noise,
    png,
    record,
    refused,
    splits_of,
    tar_of,
    write,
    write_tar,
    write_zip,
    zip_of,
)

from config import UserError
from formats.layouts import ALONE, DAMAGED_BOXES, SHARED
from formats.places import LINKS, MISSING, OUTSIDE
from formats.tars import DAMAGED, NO_CAPTION, NO_IMAGE, OTHER, SPECIAL
from formats.texts import MAX_TEXT, NOT_UTF8

TWICE = "files that are twice in one sample"
EMPTY, NO_TEXT = "rows without a caption", "pictures without a .txt"
NAMED_LIKE_NUMBERS = ["007", "None", "NaN", "1e3", "TRUE", "null"]  # pandas would change them


# imagefolder (Hugging Face datasets)


def test_folders_of_splits_have_all_the_names_that_datasets_knows(tmp_path):
    splits = {"training": "train", "valid": "validation", "dev": "validation", "testing": "test",
              "val": "validation", "eval": "test", "evaluation": "test", "birds": None}  # fmt: skip
    for folder in splits:
        write(tmp_path / "data" / folder, "1.png", {"metadata.csv": csv_of([("1.png", "a")])})
    assert splits_of(tmp_path) == {f"data/{name}/1.png": split for name, split in splits.items()}


def test_a_row_may_have_several_columns_of_names_and_lists_of_them(tmp_path):
    rows = [
        {"before_file_name": "a.png", "after_file_name": "b.png", "prompt": "paint it red"},
        {"file_names": ["c.png", "d.png", "gone.png", None], "text": "a bird"},
        {"side_file_names": ["e.png"], "text": "its side"},
    ]
    write(tmp_path, *(f"{name}.png" for name in "abcde"), {"metadata.jsonl": rows})
    texts = ["paint it red", "paint it red", "a bird", "a bird", "its side"]
    records = {f"{name}.png": text for name, text in zip("abcde", texts, strict=True)}
    expect(tmp_path, records, {MISSING: ["gone.png (metadata.jsonl, line 2)"]})


def test_metadata_files_have_exactly_their_names(tmp_path):
    names = ("metadata.json", "Metadata.csv", "metadata1000.jsonl")
    write(tmp_path, "a.png", {"a.txt": "by the text"} | dict.fromkeys(names, ""))
    expect(tmp_path, {"a.png": "by the text"}, {"files that cannot be read": 1}, layout="sidecar")


def parquet_of(columns: dict) -> bytes:
    pyarrow, file = pytest.importorskip("pyarrow"), io.BytesIO()
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def test_parquet_is_read_like_jsonl(tmp_path):
    columns = {
        "file_name": ["a.png", "sub/b.png", "gone.png", None],
        "text": [["a red bird"], ["007", "a bird"], ["gone"], ["x"]],
        "split": ["train", "test", None, None],
        "size": [1, 2, 3, 4],
    }
    write(tmp_path, "a.png", "sub/b.png", {"metadata.parquet": parquet_of(columns)})
    records = [record("a.png", "a red bird", split="train"),
               record("sub/b.png", "007", "a bird", split="test")]  # fmt: skip
    skipped = {MISSING: ["gone.png (metadata.parquet, row 2)"],
               "rows without file_name": ["metadata.parquet, row 3"]}  # fmt: skip
    expect(tmp_path, records, skipped, "imagefolder")


def test_parquet_that_is_damaged_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    write(tmp_path, "a.png", {"metadata.parquet": b"PAR1 nothing"})
    refused(tmp_path, r"metadata\.parquet cannot be read")


def test_parquet_without_pyarrow_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # import raises ImportError
    write(tmp_path, "a.png", {"metadata.parquet": b"PAR1"})
    refused(tmp_path, r"metadata\.parquet needs pyarrow: pip install pyarrow")


# sidecar


def test_sidecars_are_called_txt_or_caption_and_txt_wins(tmp_path):
    texts = {"a.caption": "a", "b.txt": "b", "c.txt": "from txt", "c.caption": "from caption",
             "d/a.txt": "in another folder"}  # fmt: skip
    write(tmp_path, "a.png", "b.webp", "c.jpg", "d/a.png", texts)
    records = {"a.png": "a", "b.webp": "b", "c.jpg": "from txt", "d/a.png": "in another folder"}
    expect(tmp_path, records, {SHARED: ["c.caption"]}, "sidecar")


def test_upper_case_extensions_are_as_good(tmp_path):
    texts = {"A.TXT": "a", "b.Caption": "b", "c.TXT": "c", "d.txt": "d"}
    write(tmp_path, "A.PNG", "b.JPEG", "c.png", "d.JpEg", texts)
    expect(tmp_path, {"A.PNG": "a", "b.JPEG": "b", "c.png": "c", "d.JpEg": "d"})


def test_folders_tell_the_splits_of_sidecars_the_outermost_first(tmp_path):
    splits = {"birds/test/c": "test", "e": None, "test/train/d": "test", "train/a": "train",
              "val/b": "validation"}  # fmt: skip
    write(tmp_path, *(f"{name}.png" for name in splits), {f"{name}.txt": "x" for name in splits})
    assert splits_of(tmp_path) == {f"{name}.png": split for name, split in splits.items()}


def test_files_of_img2dataset_are_sidecars(tmp_path):
    write(tmp_path / "00000", "0.jpg", "1.jpg",
          {"0.txt": "a red bird", "0.json": {"caption": "other"}, "1.txt": ""})  # fmt: skip
    write(tmp_path, {"00000.parquet": b"PAR1", "00000_stats.json": "{}"})
    skipped = {"pictures with an empty .txt": ["00000/1.jpg"]}
    expect(tmp_path, {"00000/0.jpg": "a red bird"}, skipped, "sidecar")


# kohya


def test_kohya_folders_tell_repeats_and_captions(tmp_path):
    texts = {"10_sks dog/1.txt": "sks dog, sitting", "2_cat/3.caption": "a cat\na pet"}
    write(tmp_path, "10_sks dog/1.png", "10_sks dog/2.png", "2_cat/3.png", texts)
    records = [record("10_sks dog/1.png", "sks dog, sitting", repeats=10),
               record("10_sks dog/2.png", "sks dog", repeats=10),
               record("2_cat/3.png", "a cat", "a pet", repeats=2)]  # fmt: skip
    expect(tmp_path, records, layout="kohya")


def test_an_epoch_shows_pictures_as_often_as_their_folder_says_and_validation_once(tmp_path):
    root = write(tmp_path / "data", "3_dog/1.png", "2_cat/2.png")
    paths = [path for _, _, path in items_of(opened(root, tmp_path / "cache"))]
    assert paths == ["2_cat/2.png"] * 2 + ["3_dog/1.png"] * 3
    data = opened(root, tmp_path / "cache", fraction=1.0)
    assert len(data.indices("validation")) == 2


def test_repeats_are_not_taken_from_folders_among_others(tmp_path):
    texts = {"10_sks dog/1.txt": "x", "dogs/2.txt": "y"}
    write(tmp_path, "10_sks dog/1.png", "dogs/2.png", texts)
    expect(tmp_path, {"10_sks dog/1.png": "x", "dogs/2.png": "y"}, layout="sidecar")


def test_meta_json_of_kohya_gives_caption_and_tags(tmp_path):
    rows = {
        "a.png": {"caption": "a red bird", "tags": "bird, red", "image_size": [8, 8]},
        "sub/b.png": {"tags": "bird, blue"},
        "c.png": {"caption": "a bird"},
        "d.png": {"image_size": [8, 8]},
    }
    write(tmp_path, *rows, {"meta.json": rows})
    records = {"a.png": "a red bird, bird, red", "c.png": "a bird", "sub/b.png": "bird, blue"}
    expect(tmp_path / "meta.json", records, {EMPTY: ["meta.json, entry 3"]}, "table")


def test_meta_jsonl_of_kohya_is_a_table_and_image_dir_tells_where_the_pictures_are(tmp_path):
    row = {"image_path": "a.png", "caption": "a bird", "tags": "red", "image_size": [8, 8]}
    write(tmp_path, "pictures/a.png", {"meta.jsonl": [row]})
    options = {"image_dir": str(tmp_path / "pictures")}
    expect(tmp_path / "meta.jsonl", {"a.png": "a bird, red"}, **options)


# COCO: two pictures of 2014's training and one of 2017's validation

COCO_TRAIN = [record("train2014/COCO_25.jpg", "A giraffe.", "Two giraffes", split="train"),
              record("train2014/COCO_9.jpg", "A meal in boxes.", split="train")]  # fmt: skip
COCO_VAL = [record("val2017/139.jpg", "A room", split="validation")]
COCO = (
    *(found.path for found in COCO_TRAIN + COCO_VAL),
    {"annotations/captions_train2014.json": coco(
        {9: "COCO_9.jpg", 25: "COCO_25.jpg"},
        (25, "A giraffe. "), (9, "A meal\nin boxes."), (25, "Two giraffes")),
     "annotations/captions_val2017.json": coco({139: "139.jpg"}, (139, "A room")),
     "annotations/instances_val2017.json": "{}"},
)  # fmt: skip


def test_coco_is_found_in_its_folder_and_by_its_json(tmp_path):
    root = write(tmp_path, *COCO)
    expect(root, COCO_TRAIN + COCO_VAL, layout="coco")
    expect(root / "annotations" / "captions_train2014.json", COCO_TRAIN, layout="coco")
    expect(root / "annotations" / "captions_val2017.json", COCO_VAL, layout="coco")


def test_pictures_of_coco_may_lie_in_images_or_elsewhere(tmp_path):
    root = write(tmp_path / "coco", *COCO)
    (root / "images").mkdir()
    (root / "train2014").rename(root / "images" / "train2014")
    (root / "val2017").rename(tmp_path / "elsewhere")
    moved = [found._replace(path=f"images/{found.path}") for found in COCO_TRAIN]
    expect(root / "annotations" / "captions_train2014.json", moved)
    options = {"image_dir": str(tmp_path / "elsewhere")}
    records = [record("139.jpg", "A room", split="validation")]
    expect(root / "annotations" / "captions_val2017.json", records, **options)


def test_what_coco_cannot_use_is_counted_once(tmp_path):
    data = coco({1: "1.jpg", 2: "2.jpg", 3: "gone.jpg"}, (1, "a"), (1, " "), (3, "gone"), (7, "x"))
    data["images"] += [{"id": 4}, 5, {"id": 1, "file_name": "2.jpg"}]
    data["annotations"] += [{"caption": "none"}, 6]
    write(tmp_path, "val2017/1.jpg", "val2017/2.jpg", {"annotations/captions_val2017.json": data})
    skipped = {"images without id or file_name": 1, "entries that are no JSON objects": 1, EMPTY: 1,
               "images with the id of another": ["annotations/captions_val2017.json, images[5]"],
               MISSING: 1, NO_IMAGE: 3, NO_CAPTION: 1}  # fmt: skip
    expect(tmp_path, [record("val2017/1.jpg", "a", split="validation")], skipped)


def test_pictures_that_coco_does_not_describe_are_counted_when_only_the_json_is_named(tmp_path):
    names = {i: f"{name}.jpg" for i, name in enumerate("awqzkbxtm")}
    write(tmp_path, "a.jpg", {"captions.json": coco(names, (0, "a"))})
    skipped = {NO_CAPTION: list(names.values())[1:]}  # in this order
    expect(tmp_path / "captions.json", {"a.jpg": "a"}, skipped)


def test_karpathys_json_gives_sentences_and_splits(tmp_path):
    images = [
        {"filepath": "val2014", "filename": "COCO_42.jpg", "split": "test",
         "sentences": [{"raw": "A shoe.", "tokens": ["a"]}, {"raw": "Shoes ", "tokens": []}]},
        {"filepath": "train2014", "filename": "COCO_9.jpg", "split": "restval",
         "sentences": [{"raw": "A meal"}]},
        {"filepath": "val2014", "filename": "COCO_73.jpg", "split": "val",
         "sentences": [{"raw": "A motorcycle"}]},
    ]  # fmt: skip
    records = [record("train2014/COCO_9.jpg", "A meal", split="train"),
               record("val2014/COCO_42.jpg", "A shoe.", "Shoes", split="test"),
               record("val2014/COCO_73.jpg", "A motorcycle", split="validation")]  # fmt: skip
    root = write(tmp_path, *(r.path for r in records), {"dataset_coco.json": {"images": images}})
    for path in (root, root / "dataset_coco.json"):
        expect(path, records, layout="coco")


def test_karpathys_flickr_lies_flat_in_images(tmp_path):
    images = [{"filename": "1.jpg", "split": "train", "sentences": [{"raw": "A dog"}]}]
    write(tmp_path, "images/1.jpg", {"dataset_flickr8k.json": {"images": images}})
    expect(tmp_path, [record("images/1.jpg", "A dog", split="train")])


def test_blips_list_is_a_table(tmp_path):
    names = ["val2014/COCO_42.jpg", "val2014/COCO_73.jpg"]
    rows = [
        {"image": names[0], "caption": "A shoe", "image_id": "42"},
        {"image": names[0], "caption": "Shoes", "image_id": "42"},
        {"image": names[1], "caption": ["A motorcycle", "A bike"]},
        "no row",
    ]
    write(tmp_path, *names, {"coco_karpathy_train.json": rows})
    # val2014 is no split: Karpathy trains on some of it
    records = {names[0]: ("A shoe", "Shoes"), names[1]: ("A motorcycle", "A bike")}
    skipped = {"entries that are no JSON objects": ["coco_karpathy_train.json, entry 3"]}
    expect(tmp_path / "coco_karpathy_train.json", records, skipped, "table")


def test_annotations_may_be_named_from_within_their_folder(tmp_path, monkeypatch):
    blip = [{"image": "val2014/a.jpg", "caption": "a bird"}]
    write(tmp_path, "val2014/a.jpg", {"annotations/coco_karpathy_val.json": blip,
          "annotations/captions_val2014.json": coco({1: "a.jpg"}, (1, "a bird"))})  # fmt: skip
    monkeypatch.chdir(tmp_path / "annotations")
    for name in ("captions_val2014.json", "coco_karpathy_val.json"):
        assert list(splits_of(name)) == ["val2014/a.jpg"]


# webdataset


def img2dataset(index: int, caption: str, shard: int = 0) -> dict[str, str | bytes | dict]:
    """The three members of a sample, in its order."""
    key = f"{shard:05d}{index:04d}"
    about = {"url": "http://x/1.jpg", "caption": caption, "key": key, "status": "success",
             "error_message": None, "width": 8, "height": 8, "exif": "{}"}  # fmt: skip
    return {f"{key}.jpg": png(noise(index)), f"{key}.json": about, f"{key}.txt": caption}


FOUR = [img2dataset(i, f"no {i}") for i in range(4)]


def test_shards_of_img2dataset_are_read_as_they_are(tmp_path):
    root = write(tmp_path / "laion", {"00000.parquet": b"PAR1", "00000_stats.json": "{}"})
    write_tar(root / "00000.tar", img2dataset(0, "a red bird"), img2dataset(3, "a blue bird"))
    write_tar(root / "00001.tar", img2dataset(0, "a dog", shard=1))
    records = {"00000.tar/000000000.jpg": "a red bird", "00000.tar/000000003.jpg": "a blue bird",
               "00001.tar/000010000.jpg": "a dog"}  # fmt: skip
    for found in expect(root, records, layout="webdataset").records:
        shard, start, size = found.span
        assert shard == found.path.split("/")[0]
        assert (root / shard).read_bytes()[start : start + size].startswith(b"\x89PNG")


def test_training_sees_the_pictures_of_a_tar_as_they_were_packed(tmp_path):
    items = items_of(opened(write_tar(tmp_path / "x.tar", *FOUR), tmp_path / "cache"))
    assert [captions for _, captions, _ in items] == [[f"no {i}"] for i in range(4)]
    assert all(np.array_equal(image, noise(i)) for i, (image, _, _) in enumerate(items))


def test_a_single_tar_is_read_alone_whatever_the_case_of_its_suffix(tmp_path):
    write_tar(tmp_path / "00000.tar", img2dataset(0, "a"))
    path = write_tar(tmp_path / "one" / "A.TAR", img2dataset(0, "b", shard=1))
    for place in (path, path.parent):
        found = expect(place, {"A.TAR/000010000.jpg": "b"}, layout="webdataset")
        assert found.name == place.name
    expect(tmp_path / "00000.tar", {"00000.tar/000000000.jpg": "a"})


def test_the_name_of_a_shard_tells_the_split(tmp_path):
    shards = {"00000.tar": None, "cc3m_valid_0.tar": "validation", "test.tar": "test",
              "train-000000.tar": "train", "trainer.tar": None, "val-000000.tar": "validation",
              "val/00000.tar": "validation"}  # fmt: skip
    write(tmp_path, dict.fromkeys(shards, tar_of("a.jpg", {"a.txt": "a"})))
    assert splits_of(tmp_path) == {f"{shard}/a.jpg": split for shard, split in shards.items()}


def test_many_shards_are_read_like_few(tmp_path):
    names = [f"{i:05d}.tar" for i in range(10)]
    write(tmp_path, dict.fromkeys(names, tar_of("a.jpg", {"a.txt": "a"}, "b.jpg")))
    records = {f"{name}/a.jpg": "a" for name in names}
    expect(tmp_path, records, {NO_CAPTION: [f"{name}/b.jpg" for name in names]})


def test_pictures_and_captions_in_tars_have_fields_of_several_names(tmp_path):
    images = ["JPG", "image", "img", "input.jpg", "jpeg", "jpg", "png", "webp"]
    texts = ["txt", "cap", "caption", "text", "TXT", "txt", "txt", "txt"]
    samples = [{f"d/{i}.{image}": PNG, f"d/{i}.{text}": " a red\nbird"}
               for i, (image, text) in enumerate(zip(images, texts, strict=True))]  # fmt: skip
    path = write_tar(tmp_path / "x.tar", *samples)
    expect(path, {f"x.tar/d/{i}.{image}": "a red bird" for i, image in enumerate(images)})


def test_the_json_of_a_sample_may_hold_a_list_of_captions(tmp_path):
    path = write_tar(
        tmp_path / "x.tar", "a.png", {"a.json": {"captions": ["one", " ", "two"]}},
        "b.png", {"b.json": '\ufeff{"caption": ["three"]}'},
        "c.png", {"c.json": {"caption": None}, "c.txt": "four"},
        "d.png", {"d.json": "no json", "d.txt": "five"}, "e.png", {"e.json": [7]},
    )  # fmt: skip
    texts = {"a": ("one", "two"), "b": "three", "c": "four", "d": "five"}
    records = {f"x.tar/{name}.png": text for name, text in texts.items()}
    expect(path, records, {NO_CAPTION: ["x.tar/e.png"]})


def test_the_key_ends_at_the_first_dot_of_the_last_part_of_the_path(tmp_path):
    path = write_tar(
        tmp_path / "x.tar", "a/b.c/img.png", {"a/b.c/img.txt": "a folder with a dot"},
        "22.05.png", {"22.05.txt": "a name with a dot"},
        "y.left.jpg", "y.jpg", {"y.txt": "the whole"},
    )  # fmt: skip
    others = {"05.png": "22.05.png", "05.txt": "22.05.txt", "left.jpg": "y.left.jpg"}
    expect(path, {"x.tar/a/b.c/img.png": "a folder with a dot", "x.tar/y.jpg": "the whole"},
           {f"{OTHER} ({field})": [f"x.tar/{name}"] for field, name in others.items()})  # fmt: skip


def test_a_field_that_is_twice_in_a_sample_is_counted_and_the_first_is_kept(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"a.png": png(noise(1)), "a.txt": "first"},
                     {"a.txt": "second", "a.png": PNG})  # fmt: skip
    expect(path, {"x.tar/a.png": "first"}, {TWICE: ["x.tar/a.txt", "x.tar/a.png"]})
    ((image, _, _),) = items_of(opened(path, tmp_path / "cache"))
    assert np.array_equal(image, noise(1))


def test_samples_without_a_member_are_counted_and_no_sample_spans_shards(tmp_path):
    write_tar(tmp_path / "0.tar", "a.png", {"a.txt": "a", "b.txt": "no picture"}, "c.png",
              "d.png", {"d.txt": "", "e.txt": "x" * MAX_TEXT + "x"}, "e.png",
              "f.png", {"f.txt": b"caf\xe9"}, "g.png")  # fmt: skip
    write_tar(tmp_path / "1.tar", {"g.txt": "in another shard"})
    skipped = {NO_IMAGE: ["0.tar/b", "1.tar/g"], NOT_UTF8: ["0.tar/f.png"],
               "texts that are too large": ["0.tar/e.txt"],
               NO_CAPTION: [f"0.tar/{name}.png" for name in "cdeg"]}  # fmt: skip
    expect(tmp_path, {"0.tar/a.png": "a"}, skipped)


def test_texts_that_are_alone_and_say_nothing_are_counted(tmp_path):
    samples = ({"a.txt": "", "b.txt": b"caf\xe9"}, "c.png", {"c.txt": "c"})
    path = write_tar(tmp_path / "x.tar", *samples)
    expect(path, {"x.tar/c.png": "c"}, {NO_IMAGE: ["x.tar/a", "x.tar/b"]})


def test_metadata_and_litter_in_tars_are_no_samples(tmp_path):
    path = write_tar(
        tmp_path / "x.tar", {"__metadata__": "{}", "__info.json__": "{}"}, "d/._a.jpg",
        "d/.hidden.jpg", {"README": "no field"}, "d/a.jpg", {"d/a.txt": "a"},
        # only names that end in underscores, too, are metadata
        "__a__.jpg", {"__a__.txt": "b"},
    )  # fmt: skip
    expect(path, {"x.tar/__a__.jpg": "b", "x.tar/d/a.jpg": "a"})


@pytest.mark.parametrize("where", ["picture", "header", "name"])
def test_a_tar_that_is_cut_short_or_damaged_gives_what_came_before(tmp_path, where):
    path = write_tar(tmp_path / "x.tar", *FOUR)
    data, start = path.read_bytes(), find_collection(path).records[2].span[1]  # a third picture
    if where == "name":  # a header whose checksum is wrong does not end a tar unseen
        data = data[: start - 500] + bytes([data[start - 500] ^ 1]) + data[start - 499 :]
    else:
        data = data[: start + 50 if where == "picture" else start - 300]
    write(tmp_path, {"x.tar": data})
    records = {"x.tar/000000000.jpg": "no 0", "x.tar/000000001.jpg": "no 1"}
    lost = {NO_CAPTION: ["x.tar/000000002.jpg"]} if where == "picture" else {}
    found = expect(path, records, {DAMAGED: 1} | lost)
    assert found.skipped[DAMAGED][0].startswith("x.tar/after ")


def test_tars_that_are_none_or_packed_are_counted_and_told_what_to_do(tmp_path):
    write(tmp_path, {"0.tar.gz": b"", "1.tgz": b""})
    refused(tmp_path, r"unpack what is packed \(.tar.gz, .tgz\)")
    write(tmp_path, {"0.tar": tar_of(FOUR[0]), "1.tar": b"no tar", "2.tar": b""})
    found = expect(tmp_path, {"0.tar/000000000.jpg": "no 0"}, {DAMAGED: 2})
    assert found.also == [f"{name} is packed and not read" for name in ("0.tar.gz", "1.tgz")]


# CUB birds and Oxford flowers


BIRD = "001.Black_footed_Albatross/Black_Footed_Albatross_0001_796111"
WREN = "200.Common_Yellowthroat/Common_Yellowthroat_0003_190521"
PATHS = [f"CUB_200_2011/images/{name}.jpg" for name in (BIRD, WREN)]
CUB = [record(PATHS[0], "bird 0", "the bird 0", split="train"),
       record(PATHS[1], "bird 1", "the bird 1", split="test")]  # fmt: skip


def cub(texts: str, size: int = 8) -> dict[str, str | bytes]:
    return {path: png(noise(i, size)) for i, path in enumerate(PATHS)} | {
        f"{texts}/{name}.txt": f"bird {i}\nthe bird {i}\n" for i, name in enumerate((BIRD, WREN))
    }


def test_reeds_birds_are_read_with_their_test_classes(tmp_path):
    write(tmp_path, cub("text_c10"), {
        f"text_c10/{BIRD}.h5": b"h5", "images/001.t7": b"t7",
        "testclasses.txt": "200.Common_Yellowthroat\n",
        "trainvalclasses.txt": "001.Black_footed_Albatross\n",
    })  # fmt: skip
    expect(tmp_path, CUB, layout="sidecar")


def test_reeds_flowers_lie_flat_in_jpg(tmp_path):
    texts = {"class_00001/6734": "pink\nround", "class_00077/1": "blue",
             "class_00077/99": "no picture", "class_00077/2": "\n"}  # fmt: skip
    write(tmp_path, "jpg/6734.jpg", "jpg/1.jpg", "jpg/2.jpg", {"testclasses.txt": "class_00077\n"},
          {f"text_c10/{name}.txt": text for name, text in texts.items()})  # fmt: skip
    records = [record("jpg/1.jpg", "blue", split="test"),
               record("jpg/6734.jpg", "pink", "round", split="train")]  # fmt: skip
    skipped = {ALONE: ["text_c10/class_00077/99.txt"],
               "pictures with an empty .txt": ["jpg/2.jpg"]}  # fmt: skip
    expect(tmp_path, records, skipped, "sidecar")


def test_pictures_that_no_text_is_about_and_texts_that_are_broken_are_counted(tmp_path):
    alone = "CUB_200_2011/images/001.Black_footed_Albatross/x.jpg"
    write(tmp_path, cub("text_c10"), alone, {f"text_c10/{BIRD}.txt": b"a bird\ncaf\xe9\n"})
    skipped = {NOT_UTF8: [f"text_c10/{BIRD}.txt, line 2"], NO_TEXT: [alone]}
    expect(tmp_path, {PATHS[1]: ("bird 1", "the bird 1")}, skipped)


def test_a_picture_with_texts_of_both_kinds_is_one_record(tmp_path):
    write(tmp_path, cub("text_c10"), cub("text"))
    expect(tmp_path, [found._replace(split=None) for found in CUB], {SHARED: 2})


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
    bomb = pickle.dumps(Bomb())
    root = write(tmp_path / "birds", cub("text"), {
        "captions.pickle": bomb, "test/filenames.pickle": names,
        "train/filenames.pickle": pickle.dumps([BIRD]),
    })  # fmt: skip
    expect(root, CUB, layout="sidecar")
    assert not (tmp_path / "the_pickle_was_run").exists()
    pickle.loads(bomb)  # which would be run if it were loaded
    assert (tmp_path / "the_pickle_was_run").exists()


def test_attngans_coco_has_texts_without_folders(tmp_path):
    names = [f"COCO_{part}2014_{i}" for part in ("train", "val") for i in range(2)]
    paths = [f"images/{name.split('_')[1]}/{name}.jpg" for name in names]
    twice = ("images/train2014/twice.jpg", "images/val2014/twice.jpg")
    write(tmp_path, *paths, *twice, {f"text/{name}.txt": name for name in names[:3]},
          {"test/filenames.pickle": pickle.dumps([names[2]]),
           "text/twice.txt": "of which of them?"})  # fmt: skip
    splits = ("train", "train", "test")
    records = [record(paths[i], names[i], split=splits[i]) for i in range(3)]
    skipped = {ALONE: ["text/twice.txt"], NO_TEXT: [twice[0], paths[3], twice[1]]}
    expect(tmp_path, records, skipped)


def test_bounding_boxes_are_those_of_cub(tmp_path):
    write(tmp_path, cub("text"), {
        "CUB_200_2011/images.txt": f"1 {BIRD}.jpg\n2 {WREN}.jpg\n",
        "CUB_200_2011/bounding_boxes.txt": "1 1.0 2.0 4.0 3.0\n2 no box\n",
    })  # fmt: skip
    records = [record(PATHS[0], "bird 0", "the bird 0", box=(1.0, 2.0, 4.0, 3.0)),
               record(PATHS[1], "bird 1", "the bird 1")]  # fmt: skip
    expect(tmp_path, records, {DAMAGED_BOXES: ["CUB_200_2011/bounding_boxes.txt, line 2"]})


def test_crop_boxes_cuts_to_the_square_around_the_box(tmp_path):
    root = write(tmp_path / "birds", cub("text", size=32), {
        "CUB_200_2011/images.txt": f"1 {BIRD}.jpg\n2 {WREN}.jpg\n",
        "CUB_200_2011/bounding_boxes.txt": "1 8.0 10.0 8.0 4.0\n",
    })  # fmt: skip
    options = {"image_size": 12, "resize": "nearest"}
    whole = items_of(opened(root, tmp_path / "cache", **options))
    cut = items_of(opened(root, tmp_path / "cache", crop_boxes=True, **options))
    # its middle is (12, 12), and 0.75 * 8 is half the side
    assert np.array_equal(cut[0][0], noise(0, 32)[6:18, 6:18])
    assert not np.array_equal(cut[0][0], whole[0][0])
    assert np.array_equal(cut[1][0], whole[1][0])  # it has no box


# table

TABLES = {
    "t.csv": 'path,caption\na.png,"a red, bird"\nsub/b.png,blue\n',
    "t.tsv": "caption\timage\na red, bird\ta.png\nblue\tsub/b.png\n",
    "semicolons.csv": "file;text;size\na.png;a red, bird;1\nsub/b.png;blue;2\n",
    "no_header.csv": 'a.png,"a red, bird"\nsub/b.png,blue\n',
    "no_header.tsv": "a.png\ta red, bird\nsub/b.png\tblue\n",
    "t.jsonl": [{"filename": "a.png", "prompt": "a red, bird"},
                {"img": "sub/b.png", "text": "blue"}],
    "rows.json": [{"filepath": "a.png", "caption": "a red, bird"},
                  {"image_path": "sub/b.png", "captions": ["blue"]}],
    "paths.json": {"a.png": "a red, bird", "sub/b.png": ["blue"]},
    "metadata.jsonl": [{"file_name": "a.png", "text": "a red, bird"},
                       {"file_name": "sub/b.png", "text": "blue"}],
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_all_kinds_say_the_same_named_or_found_and_in_upper_case(tmp_path, name):
    for folder, called in (("1", name), ("2", name.upper())):
        root = write(tmp_path / folder, "a.png", "sub/b.png", {called: TABLES[name]})
        for path in (root / called, root) if called != "metadata.jsonl" else (root / called,):
            found = expect(path, {"a.png": "a red, bird", "sub/b.png": "blue"}, layout="table")
            assert found.name == path.name


@pytest.mark.parametrize("name", ["t.csv", "metadata.jsonl", "t.json"])
def test_columns_of_any_name_are_read_where_they_are_named(tmp_path, name):
    table = [{"Picture": "a.png", "text": "a dog", "Says": "a red bird"}]
    if name == "t.csv":
        table = "id,Picture,text,Says\n7,a.png,a dog,a red bird\n"
    write(tmp_path, "a.png", {name: table})
    if name != "t.json":  # one that captions nothing is hardly ever meant to
        refused(tmp_path, "(?i)the columns.*picture, text, says.*--image-column NAME")
    expect(tmp_path, {"a.png": "a dog"}, image_column="Picture")
    expect(tmp_path, {"a.png": "a red bird"}, image_column="Picture", caption_column="Says")
    if name != "t.json":
        told = "there is no such column; the table is .*(?i:picture, text, says)"
        refused(tmp_path, told, image_column="Picture", caption_column="Said")
        refused(tmp_path, told, image_column="Pictur")


def test_a_column_is_refused_where_there_is_no_table(tmp_path):
    write(tmp_path, "a.png", {"a.txt": "a"})
    refused(tmp_path, "has no columns; leave out", caption_column="text")


def test_an_image_whose_row_is_blank_is_counted_once(tmp_path):
    write(tmp_path, "a.png", "b.png", {"t.csv": "path,text\na.png,a\nb.png,\n"})
    expect(tmp_path, {"a.png": "a"}, {EMPTY: 1})


def test_paths_are_relative_to_the_table_or_to_image_dir(tmp_path):
    write(tmp_path, "pictures/a.png", {"tables/t.csv": "path,text\na.png,a\n"})
    refused(tmp_path / "tables" / "t.csv", f"1 {MISSING}")
    for path in (tmp_path / "tables" / "t.csv", tmp_path / "tables"):
        expect(path, {"a.png": "a"}, image_dir=str(tmp_path / "pictures"))


def test_image_dir_is_refused_where_it_means_nothing_or_is_no_folder(tmp_path):
    write(tmp_path, "a.png", {"a.txt": "a"})
    told = "--image-dir is for tables and annotations.*has none"
    refused(tmp_path, told, image_dir=str(tmp_path))
    write(tmp_path, {"t.csv": "path,text\na.png,by the table\n"})
    expect(tmp_path, {"a.png": "by the table"}, image_dir=str(tmp_path))
    refused(tmp_path / "t.csv", "is no folder", image_dir=str(tmp_path / "gone"))


def test_of_several_tables_the_first_is_read_and_the_others_are_named(tmp_path):
    tables = {f"{i}.csv": f"path,text\na.png,{i}\n" for i in (1, 2)}
    write(tmp_path, "a.png", tables)
    for options in ({}, {"format": "table"}):
        found = expect(tmp_path, {"a.png": "1"}, **options)
        assert found.also == [f"also here: table, 1 pictures: --data {tmp_path / '2.csv'}"]
    expect(tmp_path / "2.csv", {"a.png": "2"})


def test_a_table_tells_splits(tmp_path):
    rows = [{"path": "a.png", "text": "a", "split": "val"}, {"path": "b.png", "text": "b"}]
    write(tmp_path, "a.png", "b.png", {"t.json": rows})
    assert splits_of(tmp_path / "t.json") == {"a.png": "validation", "b.png": None}


def test_a_caption_that_is_no_text_does_not_hide_one_that_is(tmp_path):
    rows = [{"file_name": "a.png", "text": 5, "caption": "a bird"}]
    expect(write(tmp_path, "a.png", {"metadata.jsonl": rows}), {"a.png": "a bird"})


# names as captions


def test_the_folder_is_the_caption_with_dirname(tmp_path):
    captions = {"001.Black_footed_Albatross": "Black footed Albatross",
                "golden-retriever": "golden retriever",
                "n01440764": "n01440764",  # of ImageNet: a number without words
                "\u7ea2\u9e1f": "\u7ea2\u9e1f"}  # fmt: skip
    write(tmp_path, "alone.png", *(f"{name}/1.png" for name in captions))
    records = {f"{name}/1.png": caption for name, caption in captions.items()}
    skipped = {"pictures whose name, or folder's name, says nothing": ["alone.png"]}
    expect(tmp_path, records, skipped, "dirnames as captions", caption_from="dirname")


def test_the_file_is_the_caption_with_filename(tmp_path):
    captions = {"12 a red bird": "a red bird", "R2D2": "R2D2", "a_red-bird (2)": "a red bird",
                "a_red_bird_0012": "a red bird", "v1.5": "v1.5"}  # fmt: skip
    write(tmp_path, *(f"train/{name}.png" for name in captions), {"train/v1.5.txt": "not this"})
    records = [record(f"train/{name}.png", text, split="train") for name, text in captions.items()]
    expect(tmp_path, records, {}, "filenames as captions", caption_from="filename")


# Zip


@pytest.mark.parametrize(
    ("layout", "texts", "options"),
    [
        ("imagefolder", {"train/metadata.csv": "file_name,text\na.png,train\n"}, {}),
        ("sidecar", {"train/a.txt": "train"}, {}),
        ("table", {"t.csv": "path,text\ntrain/a.png,train\n"}, {}),
        ("dirnames as captions", {}, {"caption_from": "dirname"}),
    ],
)
def test_a_zip_is_read_like_the_folder_in_it(tmp_path, layout, texts, options):
    path = write_zip(tmp_path / "x.zip", "train/a.png", "__MACOSX/train/._a.png", texts)
    records = [record("train/a.png", "train", split="train")]
    assert expect(path, records, {}, layout, **options).name == "x.zip"
    ((image, captions, _),) = items_of(opened(path, tmp_path / "cache", **options))
    assert np.array_equal(image, noise()) and captions == ["train"]


def test_kohya_coco_and_a_table_are_read_in_a_zip_too_and_in_a_folder_there(tmp_path):
    for folder in ("", "data/"):
        path = write_zip(tmp_path / f"{folder}k.zip", f"{folder}3_red bird/1.png")
        expect(path, [record(f"{folder}3_red bird/1.png", "red bird", repeats=3)])
    expect(write_zip(tmp_path / "c.zip", *COCO), COCO_TRAIN + COCO_VAL)
    path = write_zip(tmp_path / "t.zip", "data/a.png", {"data/t.csv": "path,text\na.png,a bird\n"})
    expect(path, {"data/a.png": "a bird"})


def test_a_zip_that_was_replaced_is_read_anew(tmp_path):
    path = write_zip(tmp_path / "x.zip", "a.png", {"a.txt": "old"})
    expect(path, {"a.png": "old"})
    path.unlink()
    write_zip(path, "a.png", "b.png", {"a.txt": "new", "b.txt": "another"})
    expect(path, {"a.png": "new", "b.png": "another"})


def test_a_text_in_a_zip_that_cannot_be_unpacked_is_refused_or_counted(tmp_path):
    def damaged(*files) -> bytes:
        return zip_of(*files).replace(b"a bird", b"a bund")  # the checksum is wrong now

    table = {"metadata.csv": "file_name,text\na.png,a bird\n"}
    refused(write(tmp_path, {"x.zip": damaged("a.png", table)}) / "x.zip", r"metadata\.csv")
    write(tmp_path, {"y.zip": damaged("a.png", "b.png", {"a.txt": "a bird", "b.txt": "b"})})
    expect(tmp_path / "y.zip", {"b.png": "b"}, {"texts that cannot be read": 1})


def test_names_that_are_twice_in_a_zip_are_counted_and_the_first_is_kept(tmp_path):
    path = write_zip(tmp_path / "x.zip", "a.png", {"a.txt": "first"}, {"./a.txt": "second"})
    expect(path, {"a.png": "first"}, {"files that are twice in the zip": ["./a.txt"]})


def test_a_file_without_a_name_in_a_zip_is_no_obstacle(tmp_path):
    path = write_zip(tmp_path / "x.zip", "a.png", {"a.txt": "a", "": "nothing"})
    expect(path, {"a.png": "a"})


def test_names_that_macos_writes_are_those_of_the_metadata(tmp_path):
    nfc, nfd = "caf\u00e9.png", "cafe\u0301.png"
    path = write_zip(tmp_path / "a.zip", nfd, {"metadata.csv": csv_of([(nfc, "x")])})
    expect(path, {nfd: "x"})


# Nothing outside


ESCAPES = ["../x.png", "sub/../../x.png", "/x.png", "C:\\x.png", "C:/x.png", "..\\x.png"]
ESCAPED = {name: text for n in ESCAPES for name, text in ((n, PNG), (n.replace("png", "txt"), "x"))}


def test_names_in_a_zip_or_a_tar_that_lead_out_of_it_are_counted(tmp_path):
    write(tmp_path, "x.png")
    files = ("a.png", {"a.txt": "a"}, ESCAPED)
    expect(write_zip(tmp_path / "x.zip", *files), {"a.png": "a"}, {OUTSIDE: [*ESCAPED]})
    skipped = {OUTSIDE: [f"x.tar/{name}" for name in ESCAPED]}
    expect(write_tar(tmp_path / "x.tar", *files), {"x.tar/a.png": "a"}, skipped)


def test_tables_and_annotations_cannot_lead_out(tmp_path):
    root, numbers = write(tmp_path / "data", "a.png"), range(len(ESCAPES))
    write(tmp_path, "x.png")
    annotations = coco(dict(enumerate([*ESCAPES, "a.png"])), *((i, "in") for i in range(7)))
    write(root, {"t.json": dict.fromkeys([*ESCAPES, "a.png"], "in"), "c.json": annotations})
    skipped = {OUTSIDE: [f"{ESCAPES[i]} (t.json, entry {i})" for i in numbers]}
    expect(root / "t.json", {"a.png": "in"}, skipped)
    skipped = {OUTSIDE: [f"{ESCAPES[i]} (c.json, annotations[{i}])" for i in numbers]}
    expect(root / "c.json", {"a.png": "in"}, skipped)


def test_links_in_a_tar_are_not_followed(tmp_path):
    path = write_tar(write(tmp_path, "x.png") / "x.tar", "a.png", {"a.txt": "a"})
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("b.png")
        info.type, info.linkname = tarfile.SYMTYPE, "../x.png"
        archive.addfile(info)
        archive.addfile(tarfile.TarInfo("b.txt"))
    expect(path, {"x.tar/a.png": "a"}, {SPECIAL: ["x.tar/b.png"], NO_IMAGE: ["x.tar/b"]})


@pytest.mark.parametrize("name", ["Star Wars: a poster", "12:30"])
def test_a_colon_in_a_name_does_not_make_it_a_drive(tmp_path, name):
    files, root = (f"{name}.png", {f"{name}.txt": "a"}), tmp_path / "folder"
    try:
        write(root, f"{name}.png", {"metadata.csv": csv_of([(f"{name}.png", "a")])})
    except OSError:
        pytest.skip("this system has no such names")
    expect(root, {f"{name}.png": "a"})
    expect(write_zip(tmp_path / "x.zip", *files), {f"{name}.png": "a"})
    expect(write_tar(tmp_path / "x.tar", *files), {f"x.tar/{name}.png": "a"})


def test_a_picture_that_is_a_program_is_not_run(tmp_path, monkeypatch):
    """Pillow gives EPS to a program called gs; nothing of a collection is to start a program."""
    gs = write(tmp_path, {"bin/gs": f"#!/bin/sh\ntouch {tmp_path}/started\n"}) / "bin" / "gs"
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", str(gs.parent), prepend=os.pathsep)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    root = write(tmp_path / "data", "b.png", {"a.png": eps, "a.txt": "a", "b.txt": "b"})
    data = opened(root, tmp_path / "cache")
    assert len(data.splits["train"]) == 1
    assert data.collection.skipped["files that are no readable pictures"] == ["a.png"]
    assert not (tmp_path / "started").exists()


# Links


def test_links_out_of_the_folder_are_read_only_when_asked_for(tmp_path):
    root = write(tmp_path / "data", "a.png", "c.png", {"a.txt": "a"})
    far = write(tmp_path / "far", "b.png", "d.png", {"b.txt": "b", "d.txt": "d"})
    for name, target in {"b.png": "b.png", "b.txt": "b.txt", "c.txt": "d.txt", "more": ""}.items():
        link(root, name, far / target)
    found = find_collection(root)
    assert found.records == [record("a.png", "a")] and found.skipped[NO_TEXT] == ["c.png"]
    assert sorted(found.skipped[LINKS]) == ["b.png", "b.txt", "c.txt", "more"]
    records = {"a.png": "a", "b.png": "b", "c.png": "d", "more/b.png": "b", "more/d.png": "d"}
    expect(root, records, follow_links=True)


def test_a_table_may_name_what_is_linked_only_when_asked_for(tmp_path):
    root = write(tmp_path / "data", "a.png", {"t.csv": "path,text\na.png,a\nb.png,b\n"})
    link(root, "b.png", write(tmp_path, "far.png") / "far.png")
    expect(root / "t.csv", {"a.png": "a"}, {OUTSIDE: ["b.png (t.csv, line 3)"], LINKS: ["b.png"]})
    expect(root / "t.csv", {"a.png": "a", "b.png": "b"}, follow_links=True)


@pytest.mark.parametrize("target", [".", "sub"])
def test_links_that_lead_round_in_circles_show_nothing_twice(tmp_path, target):
    root = write(tmp_path / "data", "a.png", "sub/b.png", {"a.txt": "a", "sub/b.txt": "b"})
    link(root / "sub", "round", root / target)
    expect(root, {"a.png": "a", "sub/b.png": "b"}, {LINKS: ["sub/round"]})
    expect(root, {"a.png": "a", "sub/b.png": "b"}, follow_links=True)


def test_a_folder_is_read_once_however_links_lead_to_it(tmp_path):
    root = write(tmp_path / "data", "z/deep/a.png", {"z/deep/a.txt": "a"})
    for name, target in {"0link": "z/deep", "zz": "z/deep", "round": ""}.items():
        link(root, name, root / target)
    expect(root, {"z/deep/a.png": "a"}, follow_links=True)


# Which layout it is


def test_layouts_that_caption_as_many_have_a_fixed_order(tmp_path):
    steps = [
        ("webdataset", ({"0.tar": tar_of(FOUR[0])},)),
        ("sidecar", ("a.png", {"a.txt": "a"})),
        ("table", ({"t.csv": "path,text\na.png,a\n"},)),
        ("coco", ({"annotations/captions_x.json": coco({1: "a.png"}, (1, "a"))},)),
        ("imagefolder", ({"metadata.jsonl": [{"file_name": "a.png", "text": "a"}]},)),
        ("coco", COCO),  # captions more
    ]
    for layout, files in steps:
        assert find_collection(write(tmp_path, *files)).layout == layout
    found = find_collection(tmp_path, caption_from="filename")
    assert found.layout == "filenames as captions"


def test_format_forces_a_layout(tmp_path):
    path = "3_dog/a.png"
    write(tmp_path, path, *COCO, {
        "3_dog/a.txt": "sidecar", "t.csv": f"path,text\n{path},table\n", "0.tar": tar_of(FOUR[0]),
        "metadata.jsonl": [{"file_name": path, "text": "imagefolder"}],
    })  # fmt: skip
    expected = {
        "imagefolder": [record(path, "imagefolder")],
        "sidecar": [record(path, "sidecar")],
        "kohya": [record(path, "sidecar", repeats=3)],
        "coco": COCO_TRAIN + COCO_VAL,
        "webdataset": [record("0.tar/000000000.jpg", "no 0")],
        "table": [record(path, "table")],
    }
    for name, records in expected.items():
        found = find_collection(tmp_path / ("t.csv" if name == "table" else ""), format=name)
        assert found.layout == name
        assert [r._replace(span=None) for r in found.records] == records


@pytest.mark.parametrize("name", ["imagefolder", "sidecar", "kohya", "coco", "webdataset", "table"])
@pytest.mark.parametrize("file", ["x.tar", "x.zip", "t.json", "t.csv", ""])
def test_a_format_that_does_not_fit_is_refused_or_read_but_never_crashes(tmp_path, name, file):
    pair = ("a.png", {"a.txt": "a"})
    write(tmp_path, *pair, {"t.csv": "path,text\na.png,a\n", "t.json": {"a.png": "a"},
                            "x.tar": tar_of(*pair), "x.zip": zip_of(*pair)})  # fmt: skip
    try:
        assert find_collection(tmp_path / file, format=name).layout == name
    except UserError as error:
        assert len(str(error)) > 20


def test_a_format_that_does_not_exist_is_refused(tmp_path):
    refused(tmp_path, "format is one of", format="parquet")


# Captions stay text

WAYS = {  # caption -> what lies beside a.png
    "imagefolder jsonl": lambda c: {"metadata.jsonl": [{"file_name": "a.png", "text": c}]},
    "imagefolder csv": lambda c: {"metadata.csv": csv_of([("a.png", c)])},
    "imagefolder parquet": lambda c: {
        "metadata.parquet": parquet_of({"file_name": ["a.png"], "text": [c]})},
    "sidecar": lambda c: {"a.txt": c},
    "sidecar .caption": lambda c: {"a.caption": c},
    "coco": lambda c: {"captions_x.json": coco({1: "a.png"}, (1, c))},
    "karpathy": lambda c: {
        "dataset_x.json": {"images": [{"filename": "a.png", "sentences": [{"raw": c}]}]}},
    "webdataset txt": lambda c: {"x.tar": tar_of("a.png", {"a.txt": c})},
    "webdataset json": lambda c: {"x.tar": tar_of("a.png", {"a.json": {"caption": c}})},
    "c10": lambda c: {"images/1.X/b.png": PNG, "text/1.X/b.txt": c},
    "table csv": lambda c: {"t.csv": csv_of([("a.png", c)])},
    "table tsv": lambda c: {"t.tsv": csv_of([("a.png", c)], "\t")},
    "table semicolon": lambda c: {"t.csv": csv_of([("a.png", c)], ";")},
    "table jsonl": lambda c: {"t.jsonl": [{"img": "a.png", "text": c}]},
    "table json": lambda c: {"t.json": {"a.png": c}},
    "zip": lambda c: {"x.zip": zip_of("a.png", {"a.txt": c})},
}  # fmt: skip


@pytest.mark.parametrize("caption", NAMED_LIKE_NUMBERS)
@pytest.mark.parametrize("way", WAYS)
def test_captions_that_look_like_something_else_stay_text(tmp_path, way, caption):
    write(tmp_path, "a.png", WAYS[way](caption))
    found = find_collection(tmp_path / ("x.zip" if way == "zip" else ""))
    assert [r.captions for r in found.records] == [(caption,)]


@pytest.mark.parametrize("caption", NAMED_LIKE_NUMBERS)
@pytest.mark.parametrize("caption_from", ["dirname", "filename", ""])
def test_names_that_look_like_something_else_stay_text(tmp_path, caption_from, caption):
    path = f"{caption}/{caption}.png" if caption_from else f"1_{caption}/a.png"  # kohya's
    expect(write(tmp_path, path), {path: caption}, caption_from=caption_from)
