"""Protects the readers of folders: every layout is found and nothing outside is read."""

import unicodedata

import pytest
from written import csv_of, expect, find_collection, link, record, refused, splits_of, write

from formats.layouts import read_pairs
from formats.places import LINKS, MISSING, OUTSIDE, is_inside
from formats.tars import NO_CAPTION
from formats.texts import BAD_QUOTES, MORE_CELLS, NO_OBJECT, NOT_UTF8, clean_caption

LOST = "links that lead nowhere"
EMPTY, ALONE, NO_TEXT = (
    "rows without a caption",
    ".txt without a picture",
    "pictures without a .txt",
)
ONLY = "pictures that only {} captions ({})"
BOM = b"\xef\xbb\xbf"


def row(name: object, text: object, **others) -> dict:
    return {"file_name": name, "text": text} | others


# imagefolder


def test_a_row_has_a_caption_or_a_list_of_them(tmp_path):
    rows = [row("a.png", "a red bird"), "",
            row("sub/b.jpg", ["a blue bird", "", "a bird"], year=1)]  # fmt: skip
    write(tmp_path, "a.png", "sub/b.jpg", {"metadata.jsonl": rows})
    records = {"a.png": "a red bird", "sub/b.jpg": ("a blue bird", "a bird")}
    assert expect(tmp_path, records, layout="imagefolder").name == tmp_path.name


@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
def test_the_caption_column_has_one_of_three_names(tmp_path, column):
    rows = [{"file_name": "a.png", column: "a red bird", "label": "bird"}]
    write(tmp_path / "1", "a.png", {"metadata.jsonl": rows})
    table = f"label,{column},file_name\nbird,a red bird,a.png\n"
    write(tmp_path / "2", "a.png", {"metadata.csv": table})
    for folder in "12":
        expect(tmp_path / folder, {"a.png": "a red bird"})


def test_csv_cells_may_hold_commas_quotes_and_line_ends_and_stay_text(tmp_path):
    table = b'file_name,text\r\na.png,"a red, ""big""\r\nbird"\r\nb.png,blue,,\r\n0010,TRUE\r\n'
    write(tmp_path, "a.png", "b.png", "0010", {"metadata.csv": table})
    expect(tmp_path, {"0010": "TRUE", "a.png": 'a red, "big" bird', "b.png": "blue"})


def test_a_caption_whose_commas_have_no_quotes_is_not_cut_but_counted(tmp_path):
    table = "file_name,text\na.png,red, on a branch\nb.png,blue\n"
    write(tmp_path, "a.png", "b.png", {"metadata.csv": table})
    skipped = {MORE_CELLS: ["metadata.csv, line 2"], NO_CAPTION: ["a.png"]}
    expect(tmp_path, {"b.png": "blue"}, skipped)


def test_rows_of_one_picture_are_put_together(tmp_path):
    rows = [("a.png", "one"), ("b.png", "two"), ("./a.png", "three")]
    write(tmp_path, "a.png", "b.png", {"metadata.csv": csv_of(rows)})
    expect(tmp_path, {"a.png": ("one", "three"), "b.png": "two"})


def test_metadata_may_lie_in_subfolders_and_names_are_relative_to_it(tmp_path):
    write(tmp_path, "a.png", {"a.txt": "no row names it"})
    for split in ("test", "train", "validation"):
        write(tmp_path / split, "a.png", {"metadata.csv": csv_of([("a.png", split)])})
    splits = ("test", "train", "validation")
    skipped = {NO_CAPTION: ["a.png"], ONLY.format("sidecar", "--format sidecar"): ["a.png"]}
    expect(tmp_path, [record(f"{s}/a.png", s, split=s) for s in splits], skipped)


def test_captions_of_several_metadata_files_come_in_the_order_of_their_names(tmp_path):
    write(tmp_path, "b/0.png", {"metadata.jsonl": [row("b/0.png", "root", split="")],
                                "b/metadata.jsonl": [row("0.png", "b", split="test")]})  # fmt: skip
    expect(tmp_path, [record("b/0.png", "b", "root", split="test")])


def test_splits_are_told_by_a_column_else_by_the_folder(tmp_path):
    rows = [row("a.png", "x"), row("b.png", "x", split="Dev"), row("b.png", "y", split="test")]
    write(tmp_path, "Train/a.png", "Train/b.png", "c.png", "d.png", {"Train/metadata.jsonl": rows})
    write(tmp_path, {"metadata.jsonl": [row("c.png", "x"), row("d.png", "x", split="VALID")]})
    splits = {"Train/a.png": "train", "Train/b.png": "validation", "c.png": None}
    assert splits_of(tmp_path) == splits | {"d.png": "validation"}


def test_one_metadata_file_names_pictures_in_folders_of_splits_which_names_of_files_are_not(
    tmp_path,
):
    names = ["train/1.png", "test/1.png", "test_01.png"]
    write(tmp_path, *names, {"metadata.csv": csv_of((name, "a") for name in names)})
    assert splits_of(tmp_path) == dict(zip(names, ["train", "test", None], strict=True))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, end):
    line = BOM + (b'{"file_name": "a.png", "text": "red"}' + end.encode())
    table = BOM + end.join(["file_name,text", "a.png,red", ""]).encode()
    write(tmp_path / "1", "a.png", {"metadata.jsonl": line})
    write(tmp_path / "2", "a.png", {"metadata.csv": table})
    for folder in "12":
        expect(tmp_path / folder, {"a.png": "red"})


def test_of_two_kinds_of_metadata_the_one_that_captions_most_is_read(tmp_path):
    write(tmp_path, "a.png", "b.png", {"metadata.csv": csv_of([("a.png", "one"), ("b.png", "two")]),
                                       "metadata.jsonl": [row("a.png", "red")]})  # fmt: skip
    found = expect(tmp_path, {"a.png": "one", "b.png": "two"}, layout="imagefolder")
    assert found.also == [
        f"also here: imagefolder, 1 pictures: --data {tmp_path / 'metadata.jsonl'}"
    ]
    expect(tmp_path / "metadata.jsonl", {"a.png": "red"})
    write(tmp_path, {"metadata.jsonl": [row("a.png", "red"), row("b.png", "blue")]})
    expect(tmp_path, {"a.png": "red", "b.png": "blue"})


# What is skipped


def test_missing_pictures_and_rows_without_name_or_caption_are_skipped_and_counted(tmp_path):
    rows = [row("a.png", "a"), row("gone.png", "gone"), row("folder.png", "a folder"),
            row("b.png", " \t"), row("c.png", [None, ""]), {"file_name": "d.png"},
            {"text": "no name"}, row("", "no name"), row(7, "no name")]  # fmt: skip
    write(tmp_path, *(f"{name}.png" for name in "abcd"), {"metadata.jsonl": rows})
    (tmp_path / "folder.png").mkdir()
    missing = [f"{name}.png (metadata.jsonl, line {i})" for name, i in (("gone", 2), ("folder", 3))]
    skipped = {MISSING: missing, EMPTY: 3, "rows without file_name": 3}
    expect(tmp_path, {"a.png": "a"}, skipped)


def test_captions_that_are_no_text_are_skipped_and_counted(tmp_path):
    texts = [7, 1.5, True, {"en": "a bird"}, [["a bird"]], [7]]
    rows = [row("b.png", "b"), *(row("a.png", text) for text in texts)]
    write(tmp_path, "a.png", "b.png", {"metadata.jsonl": rows})
    expect(tmp_path, {"b.png": "b"}, {EMPTY: len(texts)})


def test_paths_that_leave_the_folder_are_skipped_and_counted(tmp_path):
    root = write(tmp_path / "root", "a.png", "train/b.png")
    write(tmp_path, "outside.png")
    link(root, "link.png", tmp_path / "outside.png")
    link(root, "linked_folder", tmp_path)
    names = ["../outside.png", "train/../../outside.png", "..\\outside.png",
             "train\\..\\..\\outside.png", (tmp_path / "outside.png").as_posix(), "C:\\x.png",
             "C:/x.png", "\\\\server\\share\\x.png", "file:///x.png", "https://example.com/x.png",
             "link.png", "linked_folder/outside.png"]  # fmt: skip
    below = [row("../../outside.png", "out"), row("/etc/passwd", "out"), row("b.png", "in")]
    write(root, {"metadata.jsonl": [row(name, "out") for name in names] + [row("a.png", "in")],
                 "train/metadata.jsonl": below})  # fmt: skip
    skipped = [f"{name} (metadata.jsonl, line {i + 1})" for i, name in enumerate(names)]
    skipped += [f"{r['file_name']} (train/metadata.jsonl, line {i})"
                for i, r in enumerate(below[:2], start=1)]  # fmt: skip
    expect(root, [record("a.png", "in"), record("train/b.png", "in", split="train")],
           {OUTSIDE: skipped, LINKS: 2})  # fmt: skip


def test_backslashes_and_links_that_stay_inside_are_fine(tmp_path):
    names = ["link.png", "train/b..c.png", "train\\a.png", "x/../train/d.png"]
    write(
        tmp_path,
        "train/a.png",
        "train/b..c.png",
        "train/d.png",
        {"metadata.csv": csv_of((name, "x") for name in names)},
    )
    link(tmp_path, "link.png", tmp_path / "train" / "a.png")
    found = ["link.png", "train/a.png", "train/b..c.png", "train/d.png"]
    assert list(splits_of(tmp_path)) == found
    assert is_inside(tmp_path, "train/a.png") and not is_inside(tmp_path, "../a.png")


def test_impossible_file_names_count_as_missing(tmp_path):
    names = ["a\0.png", "x" * 300 + ".png", "\ud83d.png"]
    rows = [row("b.png", "b"), *(row(name, "a") for name in names)]
    write(tmp_path, "b.png", {"metadata.jsonl": rows})
    found = expect(tmp_path, {"b.png": "b"}, {MISSING: 3})
    found.skipped_line().encode()  # it can be printed


def test_links_that_lead_nowhere_or_to_themselves_are_skipped_and_counted(tmp_path):
    texts = {"a.txt": "a", "b.txt": "b", "loop.txt": "loop"}
    write(tmp_path, "a.png", "c.png", texts)
    for name, target in {"b.png": "gone.png", "c.txt": "gone.txt", "loop.png": "loop.png"}.items():
        link(tmp_path, name, target)
    lost = ["b.png", "c.txt", "loop.png"]
    found = find_collection(tmp_path)
    assert found.records == [record("a.png", "a")] and sorted(found.skipped[LOST]) == lost
    assert found.skipped[ALONE] == ["b.txt", "loop.txt"] and found.skipped[NO_TEXT] == ["c.png"]
    write(tmp_path, {"metadata.jsonl": [row("loop.png", "loop"), row("a.png", "a")]})
    found = expect(tmp_path, {"a.png": "a"}, {LOST: 3, MISSING: 1, NO_CAPTION: 1}, "imagefolder")


# sidecar


def test_each_line_of_a_sidecar_that_is_not_empty_is_a_caption(tmp_path):
    texts = {"a.txt": "a red bird\n\n  a bird \r\n", "sub/b.txt": "blue", "v1.5.txt": "\ufeffdots",
             "z.txt": "one\u2028still one\r\ntwo\rthree"}  # fmt: skip
    write(tmp_path, "a.png", "sub/b.jpg", "v1.5.png", "z.png", texts)
    records = {"a.png": ("a red bird", "a bird"), "sub/b.jpg": "blue", "v1.5.png": "dots"}
    expect(tmp_path, records | {"z.png": ("one still one", "two", "three")}, layout="sidecar")


def test_pictures_and_texts_without_each_other_are_skipped_and_counted(tmp_path):
    write(tmp_path, "a.png", "empty.png", "lonely.png",
          {"a.txt": "a", "empty.txt": " \n\n", "notes.txt": "", "archive.zip": ""})  # fmt: skip
    skipped = {"pictures with an empty .txt": ["empty.png"], NO_TEXT: ["lonely.png"]}
    expect(tmp_path, {"a.png": "a"}, skipped | {ALONE: ["notes.txt"]})


# Order, litter and text


def test_records_and_what_was_skipped_come_in_a_fixed_order(tmp_path):
    """The first that was skipped is shown as the example, and must not differ from run to run."""
    names = ["c", "a", "b/z", "b/a", "B", "aa"]
    alone = [f"{letter}.txt" for letter in "qxbznkehr"]
    for i, order in enumerate((names, names[::-1])):
        root = write(tmp_path / str(i), *(f"{name}.png" for name in order),
                     {f"{name}.txt": "x" for name in order} | dict.fromkeys(alone, ""))  # fmt: skip
        records = {f"{name}.png": "x" for name in sorted(names)}
        expect(root, records, {ALONE: sorted(alone)}, "sidecar")
        write(root, {"metadata.csv": csv_of((f"{name}.png", "x") for name in order)})
        expect(root, records, {}, "imagefolder")


@pytest.mark.parametrize("layout", ["sidecar", "imagefolder"])
def test_litter_of_operating_systems_is_ignored(tmp_path, layout):
    write(tmp_path, "a.png", "._a.png", ".trash/b.png", "__MACOSX/a.png", ".hidden/c.png",
          {"a.txt": "a", ".DS_Store": "", "Thumbs.db": "", "desktop.ini": "", "._a.txt": "litter",
           "__MACOSX/a.txt": "litter", ".hidden/c.txt": "litter"})  # fmt: skip
    for folder in ("__MACOSX", ".ipynb_checkpoints"):
        write(tmp_path / folder, "b.png", {"metadata.jsonl": [row("b.png", "litter")]})
    if layout == "imagefolder":
        write(tmp_path, {"metadata.jsonl": [row("a.png", "a")]})
    expect(tmp_path, {"a.png": "a"}, layout=layout)


def test_captions_are_cleaned_but_keep_their_case_and_script():
    assert clean_caption("  A\tRed\r\nBird\u3000 ") == "A Red Bird"
    assert clean_caption("cafe\u0301") == "caf\u00e9"
    assert clean_caption("\ufeffa\0b") == "a b"
    assert clean_caption("a\x07 \x1b[31mred\x85bird\x7f") == "a [31mred bird"
    scripts = "\u7ea2\u9e1f \u092a\u0915\u094d\u0937\u0940 \U0001f426"
    assert clean_caption(scripts) == scripts
    assert clean_caption(None) == clean_caption(7) == clean_caption(" \n") == ""
    assert unicodedata.is_normalized("NFC", clean_caption("A\u030a\u1100\u1161"))


def test_captions_can_always_be_written_to_a_file(tmp_path):
    line = '{"file_name": "a.png", "text": "a bird \\ud83d"}'  # half an emoji
    expect(write(tmp_path, "a.png", {"metadata.jsonl": line}), {"a.png": "a bird"})


# Mistakes


@pytest.mark.parametrize(
    ("name", "lines", "broken"),
    [
        ("metadata.jsonl", [b"", b'{"file_name": "a.png", "text": "caf\xe9"}', b"caf\xe9",
                            b'{"file_name": "b.png", "text": "caf\xc3\xa9"}'], [2, 3]),
        ("metadata.csv", [b"file_name,text", b"a.png,caf\xe9", b"b.png,caf\xc3\xa9"], [2]),
        ("a.txt", [b"a bird", b"caf\xe9"], [2]),
    ],
)  # fmt: skip
def test_text_that_is_not_utf8_is_skipped_and_counted_with_file_and_line(
    tmp_path, name, lines, broken
):
    write(tmp_path, "a.png", "b.png", {name: b"\n".join(lines), "b.txt": "caf\u00e9"})
    skipped = {NOT_UTF8: [f"{name}, line {i}" for i in broken]}
    lost = {} if name == "a.txt" else {NO_CAPTION: ["a.png"]}
    expect(tmp_path, {"b.png": "caf\u00e9"}, skipped | lost)


def test_of_two_pictures_of_one_name_the_first_has_the_text_and_the_other_is_counted(tmp_path):
    write(tmp_path, "a.png", "a.jpg", "b.png", {"a.txt": "a", "b.txt": "b"})
    skipped = {"pictures beside another of the same name, which is read": ["a.png"]}
    expect(tmp_path, {"a.jpg": "a", "b.png": "b"}, skipped)
    write(tmp_path, {"a.txt": b"caf\xe9"})
    expect(tmp_path, {"b.png": "b"}, skipped | {NOT_UTF8: 1})


def test_windows_text_with_its_mark_is_read(tmp_path):
    half = b"\xff\xfe" + b"x\xd8"  # of a letter
    write(tmp_path, "a.png", "b.png", {"a.txt": "caf\u00e9\r\n".encode("utf-16"), "b.txt": half})
    expect(tmp_path, {"a.png": "caf\u00e9"}, {NOT_UTF8: 1})


def test_lines_that_are_no_json_objects_are_skipped_and_counted_with_their_numbers(tmp_path):
    lines = ['{"file_name": "a.png", "text": "a"', "a.png: a", "[1, 2]", '"a"', "7", "null",
             "[" * 100_000]  # fmt: skip
    write(tmp_path, "a.png", {"metadata.jsonl": [row("a.png", "a"), "", *lines]})
    skipped = {NO_OBJECT: [f"metadata.jsonl, line {i + 3}" for i in range(len(lines))]}
    expect(tmp_path, {"a.png": "a"}, skipped)


@pytest.mark.parametrize(
    "line", ['a.png,"no end\nb.png,b\n', 'a.png,"one" two\nb.png,b\n', "a.png," + "x" * (1 << 21)]
)
def test_a_row_whose_quotes_or_sizes_are_wrong_is_counted_and_costs_no_other(tmp_path, line):
    write(tmp_path, "a.png", "b.png", {"metadata.csv": f"file_name,text\n{line}"})
    rows = {"b.png": "b"} if "b.png" in line else {}
    skipped = {BAD_QUOTES: ["metadata.csv, line 2"], NO_CAPTION: ["a.png"]}
    if rows:
        expect(tmp_path, rows, skipped)
    else:
        refused(tmp_path, f"1 {BAD_QUOTES}")


def test_a_quote_that_opens_in_one_row_and_closes_in_another_swallows_none(tmp_path):
    rows = [f"{i:02d}.png,a bird {i}" for i in range(60)]
    rows[5], rows[9], rows[20], rows[50] = '05.png,"five', '09.png,nine"', '20.png,"x', '50.png,y"'
    write(tmp_path, *(f"{i:02d}.png" for i in range(60)))
    write(tmp_path, {"t.csv": "\n".join(["path,text", *rows])})
    found = find_collection(tmp_path)
    assert found.skipped[BAD_QUOTES] == ["t.csv, line 7", "t.csv, line 22"]
    assert len(found.records) == 58 and max(len(r.captions[0]) for r in found.records) < 10


def test_long_captions_are_read_whole_up_to_a_limit_of_memory(tmp_path):
    long = " ".join(["word"] * 100_000)
    write(tmp_path, "a.png", "b.png", {"a.txt": long, "b.txt": "x" * (1 << 20) + "x"})
    found = expect(tmp_path, {"a.png": long}, {"texts that cannot be read": 1})
    assert "b.txt is larger than" in found.skipped_line()
    write(tmp_path, {"metadata.csv": csv_of([("a.png", long)])})
    expect(tmp_path, {"a.png": long}, {NO_CAPTION: 1})


def test_only_a_list_of_images_makes_annotations_of_a_json(tmp_path):
    info = '{"features": {"images": [{"dtype": "image"}]}}'
    write(tmp_path, "a.png", {"a.txt": "a bird", "dataset_info.json": info})
    expect(tmp_path, {"a.png": "a bird"})
    about = {"categories": [{"name": "x" * 100}] * 80, "images": [{"id": 1, "file_name": "a.png"}],
             "annotations": [{"image_id": 1, "caption": "a cat"}]}  # fmt: skip
    write(tmp_path, {"annotations/of/captions_x.json": about})
    expect(tmp_path, {"a.png": "a cat"})


def test_a_table_without_the_columns_is_told_which_it_needs(tmp_path):
    write(tmp_path, "a.png", {"rows.csv": "foo,bar\n1,2\n"})
    refused(tmp_path / "rows.csv", r"rows\.csv.*1 rows without file_name.*image_path.*prompt")


def test_what_is_missing_empty_or_of_another_kind_is_refused_with_what_to_do(tmp_path):
    refused(tmp_path / "nowhere", "nowhere does not exist; --data takes a folder")
    refused(tmp_path, r"no captioned pictures.*holds nothing.*there are no pictures in it")
    write(tmp_path, {"a.doc": "", "a.tar.gz": "", "a.zip": ""})
    refused(str(tmp_path / "a.doc"), r"a\.doc is a file of a kind.*takes a folder")
    refused(str(tmp_path / "a.tar.gz"), r"a\.tar\.gz is packed; unpack it \(tar -xf")
    refused(str(tmp_path / "a.zip"), r"a\.zip cannot be read as a zip")


def test_pictures_without_captions_are_refused_with_what_was_found_and_what_to_do(tmp_path):
    write(tmp_path, "a.png", "b.PNG", {"c.doc": ""})
    for part in (
        "2 x .png",
        "1 x .doc",
        r"2 pictures without a .txt \(e.g. a.png\)",
        "beside each",
    ):
        refused(tmp_path, part)


def test_metadata_of_which_nothing_can_be_used_is_refused_with_the_reason(tmp_path):
    write(tmp_path / "1", {"metadata.jsonl": [row("gone.png", "gone")]})
    refused(tmp_path / "1", r"1 pictures missing \(e\.g\. gone\.png")
    write(tmp_path / "2", {"metadata.csv": "picture;text\na.png;a\n"})
    refused(tmp_path / "2", "1 rows without file_name")


# A Python list


def test_a_list_of_pairs_gives_records_and_counts_what_is_missing(tmp_path):
    write(tmp_path, "a.png", "b.png", "c.png")
    a, b, c, gone = (tmp_path / f"{name}.png" for name in ("a", "b", "c", "gone"))
    pairs = [(b, ["one", " ", "two"]), (str(a), "a  red bird"), (c, ""), (gone, "gone")]
    found = read_pairs(pairs)
    assert found.records == [record(b.as_posix(), "one", "two"),
                             record(a.as_posix(), "a red bird")]  # fmt: skip
    assert found.skipped == {NO_CAPTION: [str(c)], MISSING: [str(gone)]}
