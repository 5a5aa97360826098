"""Protects what `python dataset.py PATH` tells of a collection before hours are spent on it."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from small import make_flags, pixels
from written import write

from config import PRESETS, CheckConfig, TrainConfig, UserError, parse_flags
from formats import check_or_export


def checked(folder: Path, capsys, **settings) -> tuple[int, str, list[str]]:
    """(exit status, what was printed, lines of the report) of a check."""
    config, status = (
        CheckConfig(data=str(folder), reports=str(folder.parent / "out"), **settings),
        0,
    )
    try:
        check_or_export(config)
    except SystemExit as stop:
        status = stop.code
    report = folder.parent / "out" / folder.name / "report.txt"
    return status, capsys.readouterr().out, report.read_text(encoding="utf-8").splitlines()


def rewrite(folder: Path, **columns) -> None:
    """Fill columns of the metadata anew: number of a row -> what it holds."""
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    rows = [
        json.loads(line) | {k: f(i) for k, f in columns.items()} for i, line in enumerate(lines)
    ]
    write(folder, {"metadata.jsonl": rows})


def last_20(i: int) -> str:
    return "validation" if i >= 100 else "train"


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """120 pictures, no two of which look the same."""
    monkeypatch.chdir(tmp_path)
    make_flags(tmp_path / "flags", 120)
    for i in range(120):
        with Image.open(tmp_path / "flags" / f"{i:02d}.png") as image:
            image.paste(Image.fromarray(pixels(16, 16, 3, seed=i)))
            image.save(tmp_path / "flags" / f"{i:02d}.png")
    return tmp_path / "flags"


def test_a_sound_collection_is_described_and_has_status_0(flags, capsys):
    status, told, report = checked(flags, capsys)
    assert status == 0 and "no problems found" in told and report[0] in told
    for part in ("flags (imagefolder), 120 pictures with 120 captions", "typically 32 x 32",
                 "120 RGB", "120 are smaller than 64 pixels", "4 to 4 words", "sheet.png",
                 "no picture is there twice"):  # fmt: skip
        assert part in told, part
    with Image.open(flags.parent / "out" / "flags" / "sheet.png") as sheet:
        assert min(sheet.size) > 200


def test_what_is_skipped_is_a_problem_and_each_file_is_in_the_report(flags, capsys):
    write(flags, "lonely.png", {"03.png": b"broken"})
    (flags / "04.png").unlink()
    status, _, report = checked(flags, capsys)
    assert status == 1
    assert {
        "  03.png",
        "  04.png (metadata.jsonl, line 5)",
        "  lonely.png",
    } <= set(report)


def test_the_same_picture_in_training_and_validation_is_a_problem(flags, capsys):
    rewrite(flags, split=last_20)
    shutil.copy(flags / "05.png", flags / "06.png")
    assert "1 pictures are there more than once" in checked(flags, capsys)[1]
    shutil.copy(flags / "07.png", flags / "110.png")
    status, told, report = checked(flags, capsys)
    assert status == 1
    assert "1 pictures are in training and in another split (e.g. 07.png = 110.png)" in told
    assert {"  05.png = 06.png", "  07.png = 110.png"} <= set(report)


def test_captions_that_will_not_be_learnt_are_problems(flags, capsys):
    def rare(i: int) -> str:
        return f"word{i} x{chr(97 + i % 26)}{chr(97 + i // 26)}" if i else "red " * 80

    rewrite(flags, text=rare, split=last_20)
    status, told, _ = checked(flags, capsys)
    assert status == 1 and "1 captions are cut to 64 tokens" in told
    assert "words in validation captions are known" in told
    rewrite(flags, text=lambda i: "a picture")
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
    told = streamed[1].replace(" --set cache=off", "")
    assert cached[1].split("problems:")[1] == told.split("problems:")[1]


def test_too_little_to_train_on_is_told_and_nothing_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_flags(tmp_path / "flags", 3)
    status, told, _ = checked(tmp_path / "flags", capsys)
    assert status == 1 and "only 3 pictures to train and validate with" in told
    rewrite(tmp_path / "flags", split=lambda i: "test")
    with pytest.raises(UserError, match="gives no pictures to train on"):
        checked(tmp_path / "flags", capsys)
    with pytest.raises(UserError, match="say what to check"):
        CheckConfig()
    with pytest.raises(UserError, match="to export: python dataset.py PATH"):
        CheckConfig(data="flags", export="jsonl")


def test_what_to_type_to_train_on_a_collection_is_told(flags, capsys):
    rewrite(flags, text=lambda i: " ".join(["word"] * 70))
    more = {"fit": "pad", "crop_boxes": True, "cache": "off", "image_size": 32, "min_count": 3}
    _, told, _ = checked(flags, capsys, **more)
    command = told.rpartition("to train on it: python train.py ")[2].split()
    config = parse_flags(TrainConfig, "", PRESETS, command)
    assert {name: getattr(config, name) for name in more} == more
    assert (config.data, config.max_tokens) == (str(flags), 71)
