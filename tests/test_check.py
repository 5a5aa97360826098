"""Protects what `python dataset.py PATH` tells of a collection before hours are spent on it."""

import json
import shutil

import pytest
from kills import make_flags
from PIL import Image

import check
from command_line import UserError


def checked(folder, capsys, **settings) -> tuple[int, str, str]:
    """(exit status, what was printed, report) of a check."""
    config = check.CheckConfig(data=str(folder), reports=str(folder.parent / "out"), **settings)
    status = 0
    try:
        check.main(config)
    except SystemExit as stop:
        status = stop.code
    report = folder.parent / "out" / folder.name / "report.txt"
    return status, capsys.readouterr().out, report.read_text(encoding="utf-8")


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def write_rows(folder, rows: list[dict]) -> None:
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """120 pictures, no two of which are the same."""
    monkeypatch.chdir(tmp_path)
    make_flags(tmp_path / "flags", 120)
    for i in range(120):
        with Image.open(tmp_path / "flags" / f"{i:02d}.png") as picture:
            picture.putpixel((i % 32, i // 32), (0, 0, 0))
            picture.save(tmp_path / "flags" / f"{i:02d}.png")
    return tmp_path / "flags"


def test_a_sound_collection_is_described_and_has_status_0(flags, capsys):
    status, told, report = checked(flags, capsys)
    assert status == 0 and "no problems found" in told
    for part in ("flags (imagefolder), 120 pictures with 120 captions", "typically 32 x 32",
                 "120 RGB", "120 are smaller than 64 pixels", "4 to 4 words", "sheet.png",
                 "no picture is there twice"):  # fmt: skip
        assert part in told, part
    assert report.splitlines()[0] in told
    with Image.open(flags.parent / "out" / "flags" / "sheet.png") as sheet:
        assert min(sheet.size) > 200


def test_what_is_skipped_is_a_problem_and_each_file_is_in_the_report(flags, capsys):
    (flags / "03.png").write_bytes(b"broken")
    (flags / "04.png").unlink()
    Image.new("RGB", (8, 8)).save(flags / "lonely.png")
    status, told, report = checked(flags, capsys)
    assert status == 1
    for name in ("  03.png", "  04.png (metadata.jsonl, line 5)", "  lonely.png"):
        assert name in report.splitlines()


def test_the_same_picture_in_training_and_validation_is_a_problem(flags, capsys):
    rows = rows_of(flags)
    for i, row in enumerate(rows):
        row["split"] = "validation" if i >= 100 else "train"
    write_rows(flags, rows)
    shutil.copy(flags / "05.png", flags / "06.png")
    assert "1 pictures are there more than once" in checked(flags, capsys)[1]
    shutil.copy(flags / "07.png", flags / "110.png")
    status, told, report = checked(flags, capsys)
    assert status == 1
    assert "1 pictures are in training and in another split (e.g. 07.png = 110.png)" in told
    assert {"  05.png = 06.png", "  07.png = 110.png"} <= set(report.splitlines())


def test_captions_that_will_not_be_learnt_are_problems(flags, capsys):
    rows = rows_of(flags)
    for i, row in enumerate(rows):
        row["text"] = "red " * 80 if i == 0 else f"word{i} x{chr(97 + i % 26)}{chr(97 + i // 26)}"
        row["split"] = "validation" if i >= 100 else "train"
    write_rows(flags, rows)
    status, told, _ = checked(flags, capsys)
    assert status == 1
    assert "1 captions are cut to 64 tokens" in told
    assert "words in validation captions are known" in told
    for row in rows:
        row["text"] = "a picture"
    write_rows(flags, rows)
    assert "100 of 100 captions are the same: 'a picture'" in checked(flags, capsys)[1]


def test_long_pictures_and_few_pictures_are_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_flags(tmp_path / "flags")
    Image.new("RGB", (100, 10)).save(tmp_path / "flags" / "00.png")
    _, told, _ = checked(tmp_path / "flags", capsys)
    assert "1 are more than 2 times as long as wide" in told and "only 60 pictures" in told
    assert "times as long" not in checked(tmp_path / "flags", capsys, fit="pad")[1]


def test_a_check_without_a_cache_finds_the_same(flags, capsys):
    (flags / "03.png").write_bytes((flags / "03.png").read_bytes()[:60])  # whole header, no pixels
    cached, streamed = checked(flags, capsys), checked(flags, capsys, cache="off")
    assert cached[0] == streamed[0] == 1
    assert cached[1].split("problems:")[1] == streamed[1].split("problems:")[1]


def test_too_little_to_train_on_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_flags(tmp_path / "flags", 3)
    with pytest.raises(UserError, match="3 pictures to train on and 0 to validate with"):
        checked(tmp_path / "flags", capsys)
    with pytest.raises(UserError, match="say what to check"):
        check.CheckConfig()
    with pytest.raises(UserError, match="to export: python dataset.py PATH"):
        check.CheckConfig(data="flags", export="jsonl")
