"""Protects the folders people really have, as they told in bug reports: what captions most pictures
is read, a path is found where it is, and nothing is ignored in silence."""

import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import pixels
from written import (
    PNG,
    coco,
    csv_of,
    expect,
    find_collection,
    png,
    record,
    refused,
    splits_of,
    tar_of,
    write,
    write_zip,
    zip_of,
)

from config import CheckConfig, DataConfig, UserError
from formats import check_or_export
from formats.cache import open_index
from formats.detect import read_collection
from formats.layouts import ALONE, AMBIGUOUS
from formats.places import MISSING, OUTSIDE
from formats.tars import NO_CAPTION, NOT_TOGETHER

NUM = 120
ONLY = "pictures that only {} captions ({})"


def names(num: int = NUM, folder: str = "", suffix: str = ".png") -> list[str]:
    return [f"{folder}{i:03d}{suffix}" for i in range(num)]


def captions(num: int = NUM, say: str = "a bird") -> dict[str, str]:
    """path -> caption, as `expect` takes them."""
    return {name: f"{say} {i}" for i, name in enumerate(names(num))}


def sidecars(num: int = NUM, folder: str = "") -> dict[str, str]:
    return {f"{folder}{name[:-4]}.txt": text for name, text in captions(num).items()}


def samples(num: int, say: str = "a bird") -> bytes:
    """A tar of pictures and their texts."""
    files = ({f"{i:03d}.png": PNG, f"{i:03d}.txt": f"{say} {i}"} for i in range(num))
    return tar_of(*files)


def table(paths: list[str], columns: str = "file_name,text") -> str:
    return "\n".join([columns, *(f"{path},a bird {i}" for i, path in enumerate(paths))])


# A. Which layout


def test_1_texts_of_more_pictures_win_over_a_tar_of_some(tmp_path):
    root = write(tmp_path / "data", *names(200), sidecars(200), {"some.tar": samples(120)})
    way = f"--data {root / 'some.tar'}"
    lost = [f"some.tar/{name}" for name in names(120)]
    found = expect(root, captions(200), {ONLY.format("webdataset", way): lost}, "sidecar")
    assert found.also == [f"also here: webdataset, 120 pictures: {way}"]
    rows = [{"file_name": name, "text": text} for name, text in captions(200).items()]
    root = write(tmp_path / "2", *names(200), {"metadata.jsonl": rows})
    write(root, {"old/shard.tar": samples(120, "an old bird")})
    assert (
        len(
            expect(
                root,
                captions(200),
                {ONLY.format("webdataset", f"--data {root / 'old/shard.tar'}"): 120},
                "imagefolder",
            ).also
        )
        == 1
    )


def test_2_a_packed_or_stray_tar_decides_nothing(tmp_path):
    bird = "CUB_200_2011/images/001.A_b/bird_0.jpg"
    root = write(tmp_path / "birds", bird, {"text_c10/001.A_b/bird_0.txt": "a bird",
                                            "CUB_200_2011.tgz": b"packed"})  # fmt: skip
    assert expect(root, {bird: "a bird"}, layout="sidecar").also == [
        "CUB_200_2011.tgz is packed and not read"
    ]
    root = write(tmp_path / "data", *names(), sidecars(), {"stray.tar": tar_of({"a.py": "1"})})
    expect(root, captions(), layout="sidecar")


def test_3_a_table_of_other_facts_decides_nothing_and_is_named(tmp_path):
    facts = "file_name,width,height,camera\n" + "\n".join(f"{n},48,48,X" for n in names())
    root = write(tmp_path, *names(), sidecars(), {"metadata.csv": facts})
    found = expect(root, captions(), layout="sidecar")
    assert found.also == ["metadata.csv captions nothing"]


@pytest.mark.parametrize("name", ["metadata.csv", "captions.csv"])
def test_4_columns_have_the_same_names_in_every_table(tmp_path, name):
    write(tmp_path, *names(), {name: table(names(), "image,prompt")})
    expect(tmp_path, captions())


def test_5_tables_called_like_splits_are_read_together(tmp_path):
    paths = names(folder="images/")
    parts = {"train": paths[:100], "val": paths[100:110], "test": paths[110:]}
    write(tmp_path, *paths, {f"{name}.csv": table(part) for name, part in parts.items()})
    assert splits_of(tmp_path) == {
        path: {"val": "validation"}.get(name, name) for name, part in parts.items() for path in part
    }
    assert find_collection(tmp_path / "test.csv").records[0].split is None  # by itself: all


@pytest.mark.parametrize("suffix", ["", ".png"])
def test_6_lists_of_names_tell_the_splits(tmp_path, suffix):
    paths = names(folder="images/")
    lists = {"train.txt": range(100), "test.txt": range(100, NUM)}
    write(tmp_path, *paths, {f"text/{i:03d}.txt": f"a bird {i}" for i in range(NUM)})
    write(tmp_path, {name: "\n".join(f"{i:03d}{suffix}" for i in numbers)
                     for name, numbers in lists.items()})  # fmt: skip
    found = find_collection(tmp_path)
    assert [r.split for r in found.records] == ["train"] * 100 + ["test"] * 20
    assert found.also == ["test.txt tells 20 pictures to be test",
                          "train.txt tells 100 pictures to be train"]  # fmt: skip
    write(tmp_path, {"test.txt": "gone\n100\n101"})
    assert find_collection(tmp_path).skipped["pictures missing that test.txt names"] == ["gone"]


@pytest.mark.parametrize("texts", [False, True])
def test_7_a_picture_beside_kohyas_folders_costs_no_repeats(tmp_path, texts):
    paths = names(folder="img/10_red cat/")
    write(tmp_path, *paths, "preview.png", sidecars(folder="img/10_red cat/") if texts else {})
    records = [record(path, f"a bird {i}" if texts else "red cat", repeats=10)
               for i, path in enumerate(paths)]  # fmt: skip
    expect(tmp_path, records, {"pictures without a .txt": ["preview.png"]}, "kohya")


@pytest.mark.parametrize("name", ["dataset.json", "class_to_idx.json"])
def test_8_a_json_of_classes_is_no_table_and_names_of_folders_are_offered(tmp_path, name):
    content = {"labels": [["cat/000.png", 3]]} if name == "dataset.json" else {"cat": 3, "dog": 5}
    write(tmp_path, *names(folder="cat/"), *names(folder="dog/"), {name: content})
    refused(tmp_path, "--caption-from dirname")
    assert len(find_collection(tmp_path, caption_from="dirname").records) == 2 * NUM


def test_9_what_spreadsheets_write_is_read(tmp_path):
    tabs = "\n".join(["filepath\ttitle", *(f"{n}\t{t}" for n, t in captions().items())])
    stray = tabs.replace("a bird 5\n", '"a bird 5\n')
    printed = csv_of((n, str([t, "a list"])) for n, t in captions().items())
    lines = "\n".join(json.dumps({"image": n, "text": t}) for n, t in captions().items())
    several = {
        "tabs.csv": tabs, "excel.csv": tabs.encode("utf-16"), "lines.json": lines,
    }  # fmt: skip
    for name, content in several.items():
        expect(write(tmp_path / name, *names(), {name: content}), captions(), layout="table")
    expected = captions() | {"005.png": '"a bird 5'}
    expect(write(tmp_path / "stray", *names(), {"t.tsv": stray}), expected)
    expected = {name: (text, "a list") for name, text in captions().items()}
    expect(write(tmp_path / "printed", *names(), {"t.csv": printed}), expected)


def test_10_captions_are_found_under_the_names_they_come_with(tmp_path):
    data = coco(dict(enumerate(names())), *enumerate(captions().values()))
    flickr = {
        "captions.txt": table(names(), "image,caption"),
        "token.txt": "\n".join(f"{n}#0\t{t}" for n, t in captions().items()),
        "results.csv": "\n".join(["image_name| comment_number| comment",
                                  *(f"{n}| 0| {t}" for n, t in captions().items())]),
        "chat.json": [{"id": n, "image": n, "conversations": [
            {"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": t}]}
            for n, t in captions().items()],
        "labels.json": data,
        "_annotations.coco.json": data,
    }  # fmt: skip
    for name, content in flickr.items():
        expect(write(tmp_path / name, *names(folder="data/"), {name: content}),
               {f"data/{n}": t for n, t in captions().items()})  # fmt: skip
    beside = {f"{name[:-4]}.json": {"caption": text} for name, text in captions().items()}
    expect(write(tmp_path / "beside", *names(), beside), captions(), layout="sidecar")


def test_10_two_captions_of_flickr_are_of_one_picture(tmp_path):
    write(tmp_path, "a.jpg", {"token.txt": "a.jpg#0\ta bird\na.jpg#1\ta red bird"})
    expect(tmp_path, {"a.jpg": ("a bird", "a red bird")}, layout="table")


@pytest.mark.parametrize("name", ["data/train-00000.parquet", "train/data-00000.arrow"])
def test_10_tables_that_hold_the_pictures_are_told_how_to_become_a_folder(tmp_path, name):
    write(tmp_path, {name: b"PAR1", "dataset_info.json": "{}"})
    kind = name.rpartition(".")[2]
    refused(tmp_path, rf'holds the pictures themselves.*datasets.load_dataset\("{kind}"')


def test_10_members_of_a_sample_that_lie_apart_are_told_so(tmp_path):
    apart = tar_of({n: PNG for n in names()}, sidecars())
    refused(write(tmp_path / "1", {"0.tar": apart}), f"120 {NOT_TOGETHER}")
    root = write(tmp_path / "2", {"0.tar": apart, "1.tar": samples(3)})
    assert len(find_collection(root).skipped[NOT_TOGETHER]) == NUM


# B. Where the picture is


META = {
    "without suffix": lambda n: n[:-4],
    "absolute": lambda n: f"/home/me/{n}",
}


@pytest.mark.parametrize("path", META.values(), ids=META)
@pytest.mark.parametrize("inside", [False, True])
def test_11_kohyas_meta_cap_names_pictures_in_its_own_ways(tmp_path, path, inside):
    rows = {path(name): {"caption": text} for name, text in captions().items()}
    content = {"format_version": "1.0", "images": rows} if inside else rows
    write(tmp_path, *names(), {"meta_cap.json": content})
    expect(tmp_path / "meta_cap.json", captions())


@pytest.mark.parametrize("image_dir", [False, True])
@pytest.mark.parametrize(
    "where", ["/somewhere/else/img/{}", "E:\\pics\\img\\{}", "/data/upload/1/{}", "{root}/img/{}"]
)
def test_12_absolute_paths_of_pictures_that_are_inside_are_found(tmp_path, where, image_dir):
    root = tmp_path / "data"
    paths = [where.format(name, root=root) for name in names()]
    write(root, *names(folder="img/"), {"t.csv": table(paths)})
    prefix = "" if image_dir else "img/"
    options = {"image_dir": str(root / "img")} if image_dir else {}
    expect(root / "t.csv", {prefix + n: t for n, t in captions().items()}, **options)


@pytest.mark.parametrize(
    ("table_in", "path"),
    [
        ("img/metadata.csv", "img/{}.png"),
        ("metadata.csv", "{}.png"),
        ("metadata.csv", "IMG/{}.PNG"),
        ("metadata.csv", "{}"),
        ("metadata.csv", "img/{}.jpg"),
        ("tables/t/metadata.csv", "../img/{}.png"),
        ("tables/metadata.csv", "../img/{}.png"),
    ],
)
def test_13_a_path_is_matched_from_its_end(tmp_path, table_in, path):
    paths = [path.format(f"{i:03d}") for i in range(NUM)]
    write(tmp_path, *names(folder="img/"), {table_in: table(paths)})
    expect(tmp_path, {f"img/{n}": t for n, t in captions().items()})


def test_13_texts_may_have_the_whole_name_of_their_picture(tmp_path):
    texts = {f"{name}.txt": text for name, text in captions().items()}
    expect(write(tmp_path, *names(), texts), captions(), layout="sidecar")


def test_13_where_a_name_is_missing_the_nearest_that_nothing_names_is_offered(tmp_path):
    write(tmp_path, *names(), {"img/grasshopper.png": PNG, "t.csv": table(
        [*names(), "img/grashopper.png"])})  # fmt: skip
    told = "img/grashopper.png (t.csv, line 122); there is img/grasshopper.png"
    expect(tmp_path, captions(), {MISSING: [told], NO_CAPTION: 1})


def test_13_a_picture_is_of_the_name_that_fits_best_and_of_none_where_two_do(tmp_path):
    """a/ is lost; what its rows say must not go to pictures of b/ with the same names."""
    rows = [("a/0.png", "lost"), ("b/0.png", "kept"), ("/x/a/1.png", "lost"),
            ("/x/b/1.png", "kept"), ("/y/2.png", "whose?"), ("/z/2.png", "whose?")]  # fmt: skip
    for i, order in enumerate((rows, rows[::-1])):
        root = write(tmp_path / str(i), "b/0.png", "b/1.png", "b/2.png",
                     {"t.csv": csv_of(order)})  # fmt: skip
        found = find_collection(root)
        assert [(r.path, r.captions) for r in found.records] == [
            ("b/0.png", ("kept",)), ("b/1.png", ("kept",))]  # fmt: skip
        assert len(found.skipped[MISSING]) == 2
        assert len(found.skipped[AMBIGUOUS]) == 2


def test_13_only_what_really_leaves_the_folder_is_said_to(tmp_path):
    root = write(tmp_path / "data", "a.png", {"t.csv": csv_of([
        ("a.png", "a"), ("/far/b.png", "b"), (f"{tmp_path}/data/c.png", "c"), ("x/../d.png", "d"),
    ])})  # fmt: skip
    write(tmp_path, "b.png")
    expect(root, {"a.png": "a"}, {
        OUTSIDE: ["/far/b.png (t.csv, line 3)"],
        MISSING: [f"{tmp_path}/data/c.png (t.csv, line 4)", "x/../d.png (t.csv, line 5)"],
    })  # fmt: skip


# C. What is said


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """What `python dataset.py FOLDER` prints, and its exit status."""
    monkeypatch.chdir(tmp_path)

    def checked(folder: Path, **options) -> tuple[str, int]:
        status = 0
        try:
            check_or_export(CheckConfig(data=str(folder), reports=str(tmp_path / "out"), **options))
        except SystemExit as stop:
            status = stop.code
        except UserError as error:
            return str(error), 2
        return capsys.readouterr().out, status

    return checked


def different(num: int, folder: str = "", size: int = 16) -> dict[str, bytes]:
    """Pictures of which no two look the same."""
    return {f"{folder}{i:03d}.png": png(pixels(size, size, 3, seed=i)) for i in range(num)}


def test_14_of_two_pictures_of_one_name_it_is_said_which_is_read(tmp_path, check):
    write(tmp_path / "data", different(NUM), {"007.jpg": PNG}, sidecars())
    told, status = check(tmp_path / "data")
    assert status == 1
    assert "1 pictures beside another of the same name, which is read (e.g. 007.png)" in told


def test_14_a_picture_that_was_saved_anew_is_a_copy(tmp_path, check):
    photo = Image.effect_noise((8, 8), 90).resize((64, 64)).convert("RGB")
    again = io.BytesIO()
    photo.save(again, "JPEG", quality=85)
    root = write(tmp_path / "data", different(NUM, "train/"), {
        "train/photo.png": png(np.asarray(photo)), "train/photo.txt": "a photo",
        "test/copy.jpg": again.getvalue(), "test/copy.txt": "a copy"},
        {f"train/{name}": text for name, text in sidecars().items()})  # fmt: skip
    told, status = check(root)
    assert status == 1
    assert (
        "1 pictures are in training and in another split (e.g. train/photo.png = test/cop" in told
    )


@pytest.mark.parametrize(("num", "name"), [(40, "photo ({})"), (20, "IMG_{:04d}"), (20, "{}")])
def test_15_at_least_one_of_twenty_pictures_is_held_out_whatever_their_names(
    tmp_path, check, num, name
):
    files = different(num).values()
    write(tmp_path / "data", {f"{name.format(i)}.png": file for i, file in enumerate(files)},
          {f"{name.format(i)}.txt": f"a bird {i}" for i in range(num)})  # fmt: skip
    told, _ = check(tmp_path / "data")
    sizes = {part.split()[1]: int(part.split()[0]) for part in
             told.split("splits: ")[1].split(" (")[0].split(", ")}  # fmt: skip
    assert sizes["validation"] >= 1 and sum(sizes.values()) == num


def test_15_of_fewer_none_is_held_out_and_training_goes_on(tmp_path, check):
    from dataset import CaptionedImages

    root = write(tmp_path / "data", different(19), sidecars(19))
    told, status = check(root)
    assert status == 1 and "19 train, 0 validation; too few to hold any out" in told
    data = CaptionedImages(root, show_progress=False, cache_dir=tmp_path / "cache")
    assert len(data) == len(data.other_split("validation")) == 19


def test_16_words_that_are_there_once_are_learnt_from_a_small_collection(tmp_path, check):
    texts = {f"{i:03d}.txt": f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(NUM)}
    told, _ = check(write(tmp_path / "data", different(NUM), texts))
    assert "vocabulary: 0 words" not in told and "hold 1 times or more" in told


def test_16_a_tag_a_line_is_said_to_be_a_caption_each(tmp_path, check):
    texts = {f"{i:03d}.txt": "bird\nred\nwings\n" for i in range(NUM)}
    told, status = check(write(tmp_path / "data", different(NUM), texts))
    assert "each line of a text is a caption: 3.0 a picture; 100% of captions" in told
    assert status == 1 and "put them in one line, with commas between" in told


def test_17_pictures_that_are_not_read_are_named_with_what_converts_them(tmp_path, check):
    heic = names(NUM, suffix=".heic")
    refused(write(tmp_path / "1", dict.fromkeys(heic, b"ftypheic"), sidecars()),
            "120 pictures of a kind that is not read; convert them: magick")  # fmt: skip
    root = write(tmp_path / "2", different(NUM), sidecars(), {"a.heic": b"", "a.txt": "a bird"})
    told, status = check(root)
    assert status == 1 and "1 pictures of a kind that is not read" in told
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    told, _ = check(write(tmp_path / "3", different(NUM), {"000.png": pointer}, sidecars()))
    assert "1 pointers of git-lfs instead of pictures; git lfs pull fetches these" in told


def test_17_captions_with_seeds_or_weights_are_counted_and_shown(tmp_path, check):
    texts = sidecars() | {"000.txt": "a red circle 3141592650", "001.txt": "a (red:1.3) circle"}
    told, status = check(write(tmp_path / "data", different(NUM), texts))
    assert status == 1
    assert "1 captions end in a long number, as a seed is (e.g. 'a red circle 31415926" in told
    assert "1 captions hold weights of words, which are read as words (e.g. 'a (red:1.3)" in told


def test_17_folders_of_a_nas_and_of_regularisation_are_skipped_with_a_word(tmp_path):
    write(tmp_path, *names(folder="img/10_red cat/"), "reg/1_cat/a.png", "img/@eaDir/b.png")
    records = [record(path, "red cat", repeats=10) for path in names(folder="img/10_red cat/")]
    expect(tmp_path, records, {
        "folders of thumbnails, which a NAS made": ["img/@eaDir"],
        "regularisation pictures of kohya (reg), which are of no use here": ["reg/1_cat/a.png"],
    }, "kohya")  # fmt: skip


def test_18_what_is_packed_is_refused_for_one_reason(tmp_path):
    locked = bytearray(zip_of({"a.png": PNG, "a.txt": "a bird"}))
    for sign, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # each header's flags
        start = -1
        while (start := locked.find(sign, start + 1)) >= 0:
            locked[start + at] |= 1
    write(tmp_path, {"locked.zip": bytes(locked), "x.tar.gz": b"packed",
                     "nested.zip": zip_of({"inner.zip": zip_of({"a.png": PNG})})})  # fmt: skip
    refused(tmp_path / "locked.zip", r"locked with a password; unpack it, and name the folder$")
    refused(tmp_path / "nested.zip", r"unpack what is packed \(.zip\), and name the folder$")
    refused(tmp_path / "x.tar.gz", r"is packed; unpack it \(tar -xf FILE\), and name the folder$")


def test_18_a_very_long_name_of_a_folder_is_no_obstacle(tmp_path, check):
    told, _ = check(write(tmp_path / ("x" * 250), different(NUM), sidecars()))
    assert f"{NUM} pictures with {NUM} captions" in told


# What reviewers lost


def test_a_folder_that_is_gone_captions_no_pictures_of_another(tmp_path):
    """Only absolute paths, which are of another machine, may name folders that are not there."""
    rows = [(f"photos/{i}.png", f"photo {i}") for i in range(9)]
    root = write(tmp_path / "1", *(f"photos/{i}.png" for i in range(3)),
                 *(f"sketches/{i}.png" for i in range(3, 9)), {"t.csv": csv_of(rows)})  # fmt: skip
    found = find_collection(root)
    assert [r.path for r in found.records] == [f"photos/{i}.png" for i in range(3)]
    assert found.skipped[MISSING][0] == "photos/3.png (t.csv, line 5); there is sketches/3.png"
    for where in ("train/{}", "/x/train/{}"):
        rows = [(where.format(name), text) for name, text in captions(9).items()]
        root = write(tmp_path / where[1:2], *names(9, "val/"), {"t.csv": csv_of(rows)})
        refused(root, "9 pictures missing|9 paths that leave")


def test_metadata_of_two_folders_do_not_share_a_picture_that_is_in_neither(tmp_path):
    rows = csv_of([("0.png", "whose?")])
    write(tmp_path, "pics/0.png", "a.png", {"a.txt": "a", "x/metadata.csv": rows,
                                            "y/metadata.csv": rows})  # fmt: skip
    assert [r.path for r in find_collection(tmp_path).records] == ["a.png"]
    write(tmp_path, "0.png", {"metadata.csv": csv_of([("0.png", "the root's")])})
    (tmp_path / "pics/0.png").unlink()
    found = find_collection(tmp_path, format="imagefolder")
    assert [(r.path, r.captions) for r in found.records] == [("0.png", ("the root's",))]


def test_of_texts_in_folders_of_their_own_the_one_that_fits_best_is_read(tmp_path):
    write(tmp_path, "b/0.png", {"t/a/0.txt": "lost", "t/b/0.txt": "kept"})
    expect(tmp_path, {"b/0.png": "kept"}, {ALONE: ["t/a/0.txt"]})


def test_a_text_called_like_a_split_beside_its_picture_is_no_list(tmp_path):
    write(tmp_path, "test.png", "train.png", "dog.png",
          {"test.txt": "test", "train.txt": "dog", "dog.txt": "a dog"})  # fmt: skip
    expect(tmp_path, {"dog.png": "a dog", "test.png": "test", "train.png": "dog"})


def test_words_of_folders_do_not_win_over_captions(tmp_path):
    paths = names(folder="10_red cat/")
    write(tmp_path, *paths, {"metadata.csv": table(paths[1:])})
    found = find_collection(tmp_path)
    assert found.layout == "imagefolder" and len(found.records) == NUM - 1


def test_boxes_of_yolo_are_no_captions(tmp_path):
    boxes = {f"labels/{name[:-4]}.txt": "0 0.5 0.5 0.2 0.3\n7 .1 .1 .2 .2" for name in names()}
    write(tmp_path, *names(folder="images/"), boxes)
    refused(tmp_path, "120 texts of numbers only, as YOLO has them")


@pytest.mark.parametrize("files", ["folder", "zip"])
def test_what_else_is_there_can_be_read_by_what_is_told(tmp_path, files):
    tables = {"a.csv": table(names()), "my b.csv": table(names()), "train.csv": table(names()),
              "test.csv": table(names(3))}  # fmt: skip
    if files == "zip":
        found = find_collection(write_zip(tmp_path / "x.zip", *names(), sidecars(), tables))
        assert not any("--data" in line for line in found.also)
        return
    root = write(tmp_path / "data", *names(), sidecars(), tables)
    also = find_collection(root).also
    assert len(also) == 3
    for line in also:
        layout, num, way = re.fullmatch(r"also here: (\w+), (\d+) pictures: (.*)", line).groups()
        told = shlex.split(way)
        data, options = (told[1], {}) if told[0] == "--data" else (root, {"format": told[1]})
        again = find_collection(data, **options)
        assert (again.layout, len(again.records)) == (layout, int(num))


def test_a_table_that_is_named_is_read_whatever_else_is_there(tmp_path):
    write(tmp_path, *names(), sidecars(), {"t.csv": table(names(3)), "u.csv": table(names())})
    expect(tmp_path / "t.csv", captions(3), layout="table")


def test_captions_of_several_folders_are_one_table(tmp_path):
    for folder in "ab":
        write(tmp_path / folder, *names(), {"captions.csv": table(names())})
    assert len(find_collection(tmp_path).records) == 2 * NUM


def test_a_table_of_a_split_means_the_folder_of_that_name(tmp_path):
    write(tmp_path, *names(9, "train/"), *names(9, "val/"),
          {"train.csv": table(names(9)), "val.csv": table(names(9))})  # fmt: skip
    assert [r.split for r in find_collection(tmp_path).records] == ["train"] * 9 + [
        "validation"
    ] * 9


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path, monkeypatch):
    import sys

    root = write(tmp_path / "data", *names(3), sidecars(3), {"metadata.parquet": b"PAR1"})
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # import raises ImportError
    tried = []
    monkeypatch.setattr("formats.cache.read_collection",
                        lambda source: tried.append(1) or read_collection(source))  # fmt: skip
    for _ in range(2):
        open_index(root, DataConfig(), tmp_path / "cache")
    assert len(tried) == 2


@pytest.mark.parametrize("header", ["id,file_name,text", "text,file_name", "image,text"])
def test_a_quote_swallows_no_row_wherever_the_image_is_named(tmp_path, header):
    rows = [{"id": i, "file_name": f"{i}.png", "image": i, "text": f"a bird {i}"} for i in range(9)]
    rows[2]["text"], rows[5]["text"] = '"an open', 'a closing"'
    lines = [",".join(str(row[name]) for name in header.split(",")) for row in rows]
    write(tmp_path, *(f"{i}.png" for i in range(9)), {"t.csv": "\n".join([header, *lines])})
    found = find_collection(tmp_path)
    own = {f"{i}.png": row["text"] for i, row in enumerate(rows)}
    assert len(found.records) >= 7
    assert all(r.captions[0] in (own[r.path], own[r.path].strip('"')) for r in found.records)


def test_a_text_of_another_class_captions_no_picture_of_the_same_name(tmp_path):
    write(tmp_path, "images/dogs/1.png", "images/cats/2.png",
          {"text/cats/1.txt": "a cat", "text/cats/2.txt": "another cat"})  # fmt: skip
    skipped = {"pictures without a .txt": ["images/dogs/1.png"], ALONE: ["text/cats/1.txt"]}
    expect(tmp_path, {"images/cats/2.png": "another cat"}, skipped)


def test_annotations_in_folders_of_splits_name_pictures_beside_them(tmp_path):
    data = coco({1: "1.jpg"}, (1, "a bird"))
    for split in ("train", "valid"):
        write(tmp_path / split, "1.jpg", {"_annotations.coco.json": data})
    assert splits_of(tmp_path) == {"train/1.jpg": "train", "valid/1.jpg": "validation"}
    (tmp_path / "train/1.jpg").unlink()
    found = find_collection(tmp_path)
    assert [r.captions for r in found.records] == [("a bird",)]
    assert len(found.skipped[MISSING]) == 1


def test_tables_of_splits_name_pictures_beside_them_or_in_folders_of_their_names(tmp_path):
    write(tmp_path, "1.png", "2.png", "thumbs/1.png", "thumbs/2.png",
          {"train.csv": table(["1.png"]), "val.csv": table(["2.png"])})  # fmt: skip
    assert splits_of(tmp_path) == {"1.png": "train", "2.png": "validation"}
    assert find_collection(tmp_path).also == []


def test_one_bad_entry_of_a_split_costs_no_other(tmp_path):
    data = {"train": [{"file_name": "1.png", "text": "a"}],
            "test": [None, {"file_name": "2.png", "text": "b"}]}  # fmt: skip
    write(tmp_path, "1.png", "2.png", {"rows.json": data})
    found = find_collection(tmp_path)
    assert [r.split for r in found.records] == ["train", "test"]
    assert found.skipped["entries that are no JSON objects"] == ["rows.json, test, entry 0"]


def test_a_table_called_like_a_picture_is_read(tmp_path):
    write(tmp_path, *names(), "captions.png", {"captions.csv": table(names())})
    assert len(find_collection(tmp_path).records) == NUM


def test_folders_of_another_machine_that_are_called_like_splits_do_no_harm(tmp_path):
    rows = [(f"/home/dev/birds/{name}", text) for name, text in captions(9).items()]
    write(tmp_path, *names(9, "train/"), {"t.csv": csv_of(rows)})
    assert len(find_collection(tmp_path).records) == 9


def test_texts_that_fit_two_pictures_but_for_their_case_are_nobodys(tmp_path):
    write(tmp_path, "cat.png", "CAT.png", {"Cat.txt": "which?"})
    refused(tmp_path, "1 .txt without a picture")
