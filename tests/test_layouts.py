"""Protects the readers of folders: every layout is found and nothing outside is read."""

import json
import os
import unicodedata

import pytest

from command_line import UserError
from layouts import Record, find_collection, read_pairs
from places import LINKS, is_inside
from texts import MORE_CELLS, NOT_UTF8, clean_caption


def touch(folder, *names: str) -> None:
    """Empty files; the readers of layouts never open a picture."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def write_jsonl(folder, *rows: dict | str) -> None:
    """A row is a dict, or a line as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_sidecars(folder, captions: dict[str, str]) -> None:
    """Pictures with a .txt of the same name: name of the picture -> its captions."""
    for name, text in captions.items():
        touch(folder, name)
        (folder / name).with_suffix(".txt").write_text(text, encoding="utf-8")


def captions_of(folder) -> dict[str, tuple[str, ...]]:
    return {record.path: record.captions for record in find_collection(folder).records}


def link(folder, name: str, target) -> None:
    """A symbolic link, or no test where the system has none."""
    try:
        os.symlink(target, folder / name)
    except OSError:
        pytest.skip("this system cannot make links")


# imagefolder


def test_jsonl_gives_string_and_list_captions(tmp_path):
    touch(tmp_path, "a.png", "sub/b.jpg")
    write_jsonl(
        tmp_path,
        {"file_name": "a.png", "text": "a red bird"},
        "",
        {"file_name": "sub/b.jpg", "text": ["a blue bird", "", "a bird"], "year": 1},
    )
    collection = find_collection(tmp_path)
    assert collection.layout == "imagefolder"
    assert collection.name == tmp_path.name
    assert collection.records == [
        Record("a.png", ("a red bird",)),
        Record("sub/b.jpg", ("a blue bird", "a bird")),
    ]
    assert not collection.skipped


@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
def test_the_caption_column_has_one_of_three_names(tmp_path, column):
    touch(tmp_path, "a.png")
    write_jsonl(tmp_path, {"file_name": "a.png", column: "a red bird", "label": "bird"})
    assert captions_of(tmp_path) == {"a.png": ("a red bird",)}
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text(
        f"label,{column},file_name\nbird,a red bird,a.png\n", encoding="utf-8"
    )
    assert captions_of(tmp_path) == {"a.png": ("a red bird",)}


def test_csv_cells_stay_text(tmp_path):
    texts = ["007", "None", "1e3", "NaN", "TRUE", "null"]
    touch(tmp_path, *(f"{i}.png" for i in range(len(texts))), "0010")
    rows = [f"{i}.png,{text}" for i, text in enumerate(texts)]
    (tmp_path / "metadata.csv").write_text(
        "\n".join(["file_name,text", *rows, "0010,ten"]), encoding="utf-8"
    )
    found = captions_of(tmp_path)
    assert [found[f"{i}.png"] for i in range(len(texts))] == [(text,) for text in texts]
    assert found["0010"] == ("ten",)


def test_csv_cells_may_hold_commas_quotes_and_line_ends(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.csv").write_bytes(
        b'file_name,text\r\na.png,"a red, ""big""\r\nbird"\r\nb.png,blue,,\r\n'
    )
    assert captions_of(tmp_path) == {"a.png": ('a red, "big" bird',), "b.png": ("blue",)}


def test_a_caption_whose_commas_have_no_quotes_is_not_cut_but_counted(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,red, on a branch\nb.png,blue\n")
    collection = find_collection(tmp_path)
    assert collection.records == [Record("b.png", ("blue",))]
    assert collection.skipped[MORE_CELLS] == ["metadata.csv, line 2"]


def test_rows_of_one_picture_are_put_together(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.csv").write_text(
        "file_name,text\na.png,one\nb.png,two\n./a.png,three\n", encoding="utf-8"
    )
    assert captions_of(tmp_path) == {"a.png": ("one", "three"), "b.png": ("two",)}


def test_metadata_may_lie_in_subfolders_and_names_are_relative_to_it(tmp_path):
    touch(tmp_path, "train/a.png", "test/a.png", "a.png")
    write_jsonl(tmp_path / "train", {"file_name": "a.png", "text": "train"})
    write_jsonl(tmp_path / "test", {"file_name": "a.png", "text": "test"})
    assert captions_of(tmp_path) == {"test/a.png": ("test",), "train/a.png": ("train",)}


def test_splits_are_told_by_a_column_else_by_the_folder(tmp_path):
    touch(tmp_path, "Train/a.png", "Train/b.png", "birds/c.png")
    write_jsonl(tmp_path / "Train", {"file_name": "a.png", "text": "x"},
                {"file_name": "b.png", "text": "x", "split": "Dev"},
                {"file_name": "b.png", "text": "y", "split": "test"})  # fmt: skip
    write_jsonl(tmp_path / "birds", {"file_name": "c.png", "text": "x"})
    records = find_collection(tmp_path).records
    assert {record.path: record.split for record in records} == {
        "Train/a.png": "train", "Train/b.png": "validation", "birds/c.png": None,
    }  # fmt: skip


def test_splits_are_told_in_csv_too(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.csv").write_text("file_name,text,split\na.png,x,VALID\nb.png,x,\n")
    assert [record.split for record in find_collection(tmp_path).records] == ["validation", None]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, end):
    touch(tmp_path, "a.png")
    row = json.dumps({"file_name": "a.png", "text": "red"})
    (tmp_path / "metadata.jsonl").write_bytes(b"\xef\xbb\xbf" + (row + end).encode())
    assert captions_of(tmp_path) == {"a.png": ("red",)}
    (tmp_path / "metadata.jsonl").unlink()
    text = end.join(["file_name,text", "a.png,red", ""])
    (tmp_path / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert captions_of(tmp_path) == {"a.png": ("red",)}


def test_both_kinds_of_metadata_at_once_are_refused(tmp_path):
    touch(tmp_path, "a.png", "metadata.csv")
    write_jsonl(tmp_path, {"file_name": "a.png", "text": "red"})
    with pytest.raises(UserError, match="keep one"):
        find_collection(tmp_path)


# What is skipped


def test_missing_pictures_and_rows_without_name_or_caption_are_skipped_and_counted(tmp_path):
    touch(tmp_path, "a.png", "b.png", "c.png", "d.png")
    (tmp_path / "folder.png").mkdir()
    write_jsonl(
        tmp_path,
        {"file_name": "a.png", "text": "a"},
        {"file_name": "gone.png", "text": "gone"},
        {"file_name": "folder.png", "text": "a folder"},
        {"file_name": "b.png", "text": " \t"},
        {"file_name": "c.png", "text": [None, ""]},
        {"file_name": "d.png"},
        {"text": "no name"},
        {"file_name": "", "text": "no name"},
        {"file_name": 7, "text": "no name"},
    )
    collection = find_collection(tmp_path)
    assert [record.path for record in collection.records] == ["a.png"]
    counts = {reason: len(found) for reason, found in collection.skipped.items()}
    assert counts == {
        "pictures missing": 2,
        "rows without a caption": 3,
        "rows without file_name": 3,
        "pictures without a caption": 3,
    }
    assert "gone.png" in collection.skipped["pictures missing"][0]
    assert "line 2" in collection.skipped["pictures missing"][0]


@pytest.mark.parametrize("text", [7, 1.5, True, {"en": "a bird"}, [["a bird"]], [7]])
def test_captions_that_are_no_text_are_skipped_and_counted(tmp_path, text):
    touch(tmp_path, "a.png", "b.png")
    write_jsonl(tmp_path, {"file_name": "a.png", "text": text}, {"file_name": "b.png", "text": "b"})
    collection = find_collection(tmp_path)
    assert collection.records == [Record("b.png", ("b",))]
    assert len(collection.skipped["rows without a caption"]) == 1


@pytest.mark.parametrize(
    "name",
    [
        "../outside.png",
        "train/../../outside.png",
        "..\\outside.png",
        "train\\..\\..\\outside.png",
        "{outside}",  # its absolute path
        "C:\\x.png",
        "C:/x.png",
        "\\\\server\\share\\x.png",
        "file:///x.png",
        "https://example.com/x.png",
        "link.png",
        "linked_folder/outside.png",
    ],
)
def test_paths_that_leave_the_folder_are_skipped_and_counted(tmp_path, name):
    root = tmp_path / "root"
    touch(root, "a.png", "train/b.png")
    touch(tmp_path, "outside.png")
    link(root, "link.png", tmp_path / "outside.png")
    link(root, "linked_folder", tmp_path)
    name = name.replace("{outside}", (tmp_path / "outside.png").as_posix())
    write_jsonl(root, {"file_name": name, "text": "out"}, {"file_name": "a.png", "text": "in"})
    collection = find_collection(root)
    assert collection.records == [Record("a.png", ("in",))]
    assert collection.skipped["paths that leave the folder"] == ["metadata.jsonl, line 1"]


def test_subfolders_with_metadata_cannot_leave_the_root_either(tmp_path):
    root = tmp_path / "root"
    touch(root, "a.png", "train/b.png")
    touch(tmp_path, "outside.png")
    write_jsonl(
        root / "train",
        {"file_name": "../../outside.png", "text": "out"},
        {"file_name": "/etc/passwd", "text": "out"},
        {"file_name": "b.png", "text": "in"},
    )
    collection = find_collection(root)
    assert collection.records == [Record("train/b.png", ("in",), "train")]
    assert len(collection.skipped["paths that leave the folder"]) == 2


def test_backslashes_and_links_that_stay_inside_are_fine(tmp_path):
    touch(tmp_path, "train/a.png", "train/..b.png")
    link(tmp_path, "link.png", tmp_path / "train" / "a.png")
    names = ["train\\a.png", "link.png", "train/..b.png"]
    write_jsonl(tmp_path, *({"file_name": name, "text": name} for name in names))
    assert sorted(captions_of(tmp_path)) == ["link.png", "train/..b.png", "train/a.png"]
    assert is_inside(tmp_path, "train/a.png") and not is_inside(tmp_path, "../a.png")


@pytest.mark.parametrize("name", ["a\0.png", "x" * 300 + ".png", "\ud83d.png"])
def test_impossible_file_names_count_as_missing(tmp_path, name):
    touch(tmp_path, "b.png")
    write_jsonl(tmp_path, {"file_name": name, "text": "a"}, {"file_name": "b.png", "text": "b"})
    collection = find_collection(tmp_path)
    assert collection.records == [Record("b.png", ("b",))]
    assert len(collection.skipped["pictures missing"]) == 1
    collection.skipped_line().encode()  # it can be printed


def test_a_link_to_itself_is_skipped_and_counted(tmp_path):
    write_sidecars(tmp_path, {"b.png": "b"})
    link(tmp_path, "loop.png", "loop.png")
    (tmp_path / "loop.txt").write_text("loop", encoding="utf-8")
    for _ in ("sidecar", "imagefolder"):
        collection = find_collection(tmp_path)
        assert collection.records == [Record("b.png", ("b",))]
        assert collection.skipped["links that lead nowhere"] == ["loop.png"]
        write_jsonl(
            tmp_path,
            {"file_name": "loop.png", "text": "loop"},
            {"file_name": "b.png", "text": "b"},
        )


# sidecar


def test_each_line_of_a_sidecar_that_is_not_empty_is_a_caption(tmp_path):
    write_sidecars(
        tmp_path,
        {"a.png": "a red bird\n\n  a bird \r\n", "sub/b.jpg": "blue", "v1.5.png": "\ufeffdots"},
    )
    collection = find_collection(tmp_path)
    assert collection.layout == "sidecar"
    assert collection.records == [
        Record("a.png", ("a red bird", "a bird")),
        Record("sub/b.jpg", ("blue",)),
        Record("v1.5.png", ("dots",)),
    ]
    assert not collection.skipped


def test_suffixes_may_be_upper_case(tmp_path):
    touch(tmp_path, "A.PNG", "b.JpEg")
    (tmp_path / "A.TXT").write_text("a", encoding="utf-8")
    (tmp_path / "b.txt").write_text("b", encoding="utf-8")
    assert captions_of(tmp_path) == {"A.PNG": ("a",), "b.JpEg": ("b",)}


def test_pictures_and_texts_without_each_other_are_skipped_and_counted(tmp_path):
    write_sidecars(tmp_path, {"a.png": "a", "empty.png": " \n\n"})
    touch(tmp_path, "lonely.png", "notes.txt", "archive.zip")
    collection = find_collection(tmp_path)
    assert collection.records == [Record("a.png", ("a",))]
    assert collection.skipped == {
        "pictures with an empty .txt": ["empty.png"],
        "pictures without a .txt": ["lonely.png"],
        ".txt without a picture": ["notes.txt"],
    }


def test_pictures_linked_from_outside_are_skipped_and_counted(tmp_path):
    root = tmp_path / "root"
    touch(tmp_path, "outside.png")
    write_sidecars(root, {"a.png": "a"})
    link(root, "b.png", tmp_path / "outside.png")
    (root / "b.txt").write_text("b", encoding="utf-8")
    link(root, "folder", tmp_path)
    collection = find_collection(root)
    assert collection.records == [Record("a.png", ("a",))]
    assert sorted(collection.skipped[LINKS]) == ["b.png", "folder"]


def test_texts_linked_from_outside_are_not_read(tmp_path):
    root = tmp_path / "root"
    write_sidecars(root, {"a.png": "a"})
    touch(root, "b.png")
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    link(root, "b.txt", tmp_path / "secret")
    collection = find_collection(root)
    assert collection.records == [Record("a.png", ("a",))]
    assert collection.skipped == {
        "pictures without a .txt": ["b.png"],
        LINKS: ["b.txt"],
    }


def test_links_that_lead_nowhere_are_skipped_and_counted(tmp_path):
    write_sidecars(tmp_path, {"a.png": "a"})
    (tmp_path / "b.txt").write_text("b", encoding="utf-8")
    link(tmp_path, "b.png", "gone.png")
    touch(tmp_path, "c.png")
    link(tmp_path, "c.txt", "gone.txt")
    collection = find_collection(tmp_path)
    assert collection.records == [Record("a.png", ("a",))]
    assert sorted(collection.skipped["links that lead nowhere"]) == ["b.png", "c.txt"]


# Order, litter and text


def test_records_come_in_a_fixed_order(tmp_path):
    names = ["c.png", "a.png", "b/z.png", "b/a.png", "B.png", "aa.png"]
    orders = []
    for i, order in enumerate((names, names[::-1])):
        folder = tmp_path / str(i)
        folder.mkdir()
        write_sidecars(folder, dict.fromkeys(order, "text"))
        sidecar = [record.path for record in find_collection(folder).records]
        write_jsonl(folder, *({"file_name": name, "text": "text"} for name in order))
        imagefolder = [record.path for record in find_collection(folder).records]
        assert sorted(sidecar) == imagefolder == sorted(names)
        orders.append(sidecar)
    assert orders[0] == orders[1]


def test_what_was_skipped_comes_in_a_fixed_order(tmp_path):
    """Its first is shown as the example, and must not differ from run to run."""
    write_sidecars(tmp_path, {"a.png": "a"})
    touch(tmp_path, *(f"{letter}.txt" for letter in "qxbznkehr"))
    skipped = find_collection(tmp_path).skipped[".txt without a picture"]
    assert skipped == [f"{letter}.txt" for letter in sorted("qxbznkehr")]


@pytest.mark.parametrize("layout", ["sidecar", "imagefolder"])
def test_litter_of_operating_systems_is_ignored(tmp_path, layout):
    write_sidecars(tmp_path, {"a.png": "a"})
    if layout == "imagefolder":
        write_jsonl(tmp_path, {"file_name": "a.png", "text": "a"})
    touch(tmp_path, ".DS_Store", "Thumbs.db", "._a.png", "._a.txt", ".trash/b.png")
    write_sidecars(tmp_path, {"__MACOSX/a.png": "litter", ".hidden/c.png": "litter"})
    collection = find_collection(tmp_path)
    assert (collection.layout, collection.records) == (layout, [Record("a.png", ("a",))])
    assert not collection.skipped


@pytest.mark.parametrize("folder", ["__MACOSX", ".ipynb_checkpoints"])
def test_metadata_in_litter_is_ignored(tmp_path, folder):
    write_sidecars(tmp_path, {"a.png": "a"})
    touch(tmp_path, f"{folder}/b.png")
    write_jsonl(tmp_path / folder, {"file_name": "b.png", "text": "litter"})
    assert captions_of(tmp_path) == {"a.png": ("a",)}


def test_captions_are_cleaned_but_keep_their_case_and_script():
    assert clean_caption("  A\tRed\r\nBird\u3000 ") == "A Red Bird"
    assert clean_caption("cafe\u0301") == "caf\u00e9"
    assert clean_caption("\ufeffa\0b") == "a b"
    assert clean_caption("\u7ea2\u9e1f \u092a\u0915\u094d\u0937\u0940 \U0001f426") == (
        "\u7ea2\u9e1f \u092a\u0915\u094d\u0937\u0940 \U0001f426"
    )
    assert clean_caption(None) == clean_caption(7) == clean_caption(" \n") == ""
    assert unicodedata.is_normalized("NFC", clean_caption("A\u030a\u1100\u1161"))


def test_captions_can_always_be_written_to_a_file(tmp_path):
    touch(tmp_path, "a.png")
    write_jsonl(tmp_path, '{"file_name": "a.png", "text": "a bird \\ud83d"}')  # half an emoji
    (caption,) = captions_of(tmp_path)["a.png"]
    assert caption.startswith("a bird")
    caption.encode()


# Mistakes


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "a.txt"])
def test_text_that_is_not_utf8_is_skipped_and_counted_with_file_and_line(tmp_path, name):
    touch(tmp_path, "a.png", "b.png")
    lines = {
        "metadata.jsonl": [b"", b'{"file_name": "a.png", "text": "caf\xe9"}',
                           b'{"file_name": "b.png", "text": "caf\xc3\xa9"}'],
        "metadata.csv": [b"file_name,text", b"a.png,caf\xe9", b"b.png,caf\xc3\xa9"],
        "a.txt": [b"a bird", b"caf\xe9"],
    }  # fmt: skip
    (tmp_path / name).write_bytes(b"\n".join(lines[name]))
    if name == "a.txt":
        (tmp_path / "b.txt").write_text("caf\u00e9", encoding="utf-8")
    collection = find_collection(tmp_path)
    assert collection.records == [Record("b.png", ("caf\u00e9",))]
    assert collection.skipped[NOT_UTF8] == [f"{name}, line 2"]


def test_windows_text_with_its_mark_is_read(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text("caf\u00e9\r\n", encoding="utf-16")  # with its mark
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe" + b"x\xd8")  # and half a letter
    collection = find_collection(tmp_path)
    assert collection.records == [Record("a.png", ("caf\u00e9",))]
    assert len(collection.skipped[NOT_UTF8]) == 1


@pytest.mark.parametrize(
    "line",
    ['{"file_name": "a.png", "text": "a"', "a.png: a", "[1, 2]", '"a"', "7", "null", "[" * 100_000],
)
def test_a_line_that_is_no_json_object_is_skipped_and_counted_with_its_number(tmp_path, line):
    touch(tmp_path, "a.png")
    write_jsonl(tmp_path, {"file_name": "a.png", "text": "a"}, "", line)
    collection = find_collection(tmp_path)
    assert collection.records == [Record("a.png", ("a",))]
    assert collection.skipped == {"rows that are no JSON object": ["metadata.jsonl, line 3"]}


@pytest.mark.parametrize(
    "row", ['a.png,"no end\nb.png,b\n', 'a.png,"one" two\nb.png,b\n', "a.png," + "x" * (1 << 21)]
)
def test_a_csv_whose_quotes_or_sizes_are_wrong_is_refused_with_its_line(tmp_path, row):
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\n" + row, encoding="utf-8")
    with pytest.raises(UserError, match=r"metadata\.csv, line \d"):
        find_collection(tmp_path)


def test_long_captions_are_read_whole_up_to_a_limit_of_memory(tmp_path):
    long = " ".join(["word"] * 100_000)
    write_sidecars(tmp_path, {"a.png": long, "b.png": "x" * (1 << 20) + "x"})
    collection = find_collection(tmp_path)
    assert collection.records == [Record("a.png", (long,))]
    assert "b.txt is larger than" in collection.skipped["texts that cannot be read"][0]
    (tmp_path / "metadata.csv").write_text(f"file_name,text\na.png,{long}\n")
    assert captions_of(tmp_path) == {"a.png": (long,)}


def test_only_a_list_of_images_makes_annotations_of_a_json(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("a bird")
    (tmp_path / "dataset_info.json").write_text('{"features": {"images": [{"dtype": "image"}]}}')
    assert captions_of(tmp_path) == {"a.png": ("a bird",)}
    about = {"categories": [{"name": "x" * 100}] * 80, "images": [{"id": 1, "file_name": "a.png"}],
             "annotations": [{"image_id": 1, "caption": "a cat"}]}  # fmt: skip
    (tmp_path / "annotations" / "of").mkdir(parents=True)
    (tmp_path / "annotations" / "of" / "captions_x.json").write_text(json.dumps(about))
    assert captions_of(tmp_path) == {"a.png": ("a cat",)}


def test_captions_of_several_metadata_files_come_in_the_order_of_their_names(tmp_path):
    touch(tmp_path, "b/0.png")
    for folder, name in (("", "b/0.png"), ("b", "0.png")):
        row = {"file_name": name, "text": folder or "root", "split": folder and "test"}
        (tmp_path / folder / "metadata.jsonl").write_text(json.dumps(row))
    assert captions_of(tmp_path) == {"b/0.png": ("b", "root")}


def test_a_table_without_the_columns_is_told_which_it_needs(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "rows.csv").write_text("foo,bar\n1,2\n")
    with pytest.raises(UserError, match=r"rows\.csv.*1 rows without file_name.*image_path.*prompt"):
        find_collection(tmp_path / "rows.csv")


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist; --data takes a folder"):
        find_collection(tmp_path / "nowhere")


def test_a_file_of_another_kind_is_refused(tmp_path):
    touch(tmp_path, "a.rar", "a.zip")
    with pytest.raises(UserError, match=r"a\.rar is a file of a kind.*takes a folder"):
        find_collection(str(tmp_path / "a.rar"))
    with pytest.raises(UserError, match=r"a\.zip cannot be read as a zip"):
        find_collection(str(tmp_path / "a.zip"))


def test_an_empty_folder_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"no captioned pictures.*nothing.*metadata\.jsonl"):
        find_collection(tmp_path)


def test_pictures_without_captions_are_refused_with_what_was_found_and_what_to_do(tmp_path):
    touch(tmp_path, "a.png", "b.PNG", "c.doc")
    with pytest.raises(UserError) as error:
        find_collection(tmp_path)
    for part in ("2 x .png", "1 x .doc", "2 pictures without a .txt (e.g. a.png)", "beside each"):
        assert part in str(error.value)


def test_metadata_of_which_nothing_can_be_used_is_refused_with_the_reason(tmp_path):
    write_jsonl(tmp_path, {"file_name": "gone.png", "text": "gone"})
    with pytest.raises(UserError, match=r"1 pictures missing \(e\.g\. gone\.png"):
        find_collection(tmp_path)
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text("picture;text\na.png;a\n", encoding="utf-8")
    with pytest.raises(UserError, match="1 rows without file_name"):
        find_collection(tmp_path)


# A Python list


def test_a_list_of_pairs_gives_records_and_counts_what_is_missing(tmp_path):
    touch(tmp_path, "a.png", "b.png", "c.png")
    collection = read_pairs(
        [
            (tmp_path / "b.png", ["one", " ", "two"]),
            (str(tmp_path / "a.png"), "a  red bird"),
            (tmp_path / "c.png", ""),
            (tmp_path / "gone.png", "gone"),
        ]
    )
    assert [record.captions for record in collection.records] == [("one", "two"), ("a red bird",)]
    assert [record.path for record in collection.records] == [
        (tmp_path / name).as_posix() for name in ("b.png", "a.png")
    ]
    assert {reason: len(found) for reason, found in collection.skipped.items()} == {
        "pictures without a caption": 1,
        "pictures missing": 1,
    }
