"""Protects collections that are written in another layout: read back, they are the same."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
from kills import make_flags
from PIL import Image

import check
import export
from command_line import UserError
from dataset import CaptionedImages


def write(folder, out, kind: str, **settings) -> None:
    export.main(check.CheckConfig(data=str(folder), out=str(out), export=kind, **settings))


def contents(data, **settings) -> list[tuple]:
    """(captions, split, pixels) of all that is there, in the order of its paths."""
    dataset = CaptionedImages(data, image_size=32, show_progress=False, **settings)
    records, pictures = dataset.collection.records, dataset.pictures
    return [(r.captions, r.split, pictures[i].tobytes()) for i, r in enumerate(records)]


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """60 pictures in folders, of three splits and none, with one or two captions."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "flags"
    make_flags(folder)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    splits = ("train", "validation", "test", None)
    for i, row in enumerate(rows):
        path = f"{i % 3}/v1.5 {row['file_name']}"
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / row["file_name"]).rename(folder / path)
        row |= {"file_name": path, "split": splits[i % 4]}
        if i % 2:
            row["text"] = [row["text"], 'the "other", \u7ea2\U0001f426']
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.mark.parametrize("kind", export.WRITERS)
def test_what_is_written_is_read_back_as_it_was(flags, tmp_path, kind):
    write(flags, tmp_path / "out", kind)
    assert sorted(contents("out"), key=repr) == sorted(contents("flags"), key=repr)


@pytest.mark.parametrize("first", export.WRITERS)
@pytest.mark.parametrize("second", export.WRITERS)
def test_any_layout_becomes_any_other(flags, tmp_path, first, second):
    write(flags, tmp_path / "one", first)
    write(tmp_path / "one", tmp_path / "two", second)
    assert sorted(contents("two"), key=repr) == sorted(contents("flags"), key=repr)


def test_pictures_keep_their_bytes(flags, tmp_path):
    picture = flags / "0" / "v1.5 00.png"
    Image.new("RGBA", (40, 10), (1, 2, 3, 4)).save(picture)
    write(flags, tmp_path / "out", "jsonl")
    assert (tmp_path / "out" / "0" / "v1.5 00.png").read_bytes() == picture.read_bytes()
    write(flags, tmp_path / "tars", "tar")
    with tarfile.open(tmp_path / "tars" / "train-00000.tar") as archive:
        assert archive.extractfile("000000000.png").read() == picture.read_bytes()


def test_resized_pictures_are_those_that_training_sees(flags, tmp_path):
    (flags / "1" / "v1.5 01.png").write_bytes(b"broken")
    write(flags, tmp_path / "out", "sidecar", resized=True, image_size=32)
    assert sorted(contents("out"), key=repr) == [
        c for c in sorted(contents("flags"), key=repr) if np.frombuffer(c[2], np.uint8).any()
    ]
    with Image.open(next((tmp_path / "out").glob("*/*/*.png"))) as picture:
        assert picture.size == (32, 32) and picture.mode == "RGB"


def test_pictures_that_differ_in_their_suffix_alone_keep_their_captions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    rows = []
    for i, name in enumerate(("a.png", "a.bmp", "A.gif")):
        Image.new("RGB", (32, 32), (80 * i, 0, 0)).save(tmp_path / "data" / name)
        rows.append(json.dumps({"file_name": name, "text": f"number {i}"}))
    (tmp_path / "data" / "metadata.jsonl").write_text("\n".join(rows))
    for kind in export.WRITERS:
        write(tmp_path / "data", tmp_path / kind, kind)
        assert sorted(contents(kind)) == sorted(contents("data")), kind


def test_shards_hold_so_many_samples_and_no_more(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "SHARD", 7)
    write(flags, tmp_path / "out", "tar")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names[:3] == ["00000.tar", "00001.tar", "00002.tar"] and len(names) == 12
    assert sorted(contents("out"), key=repr) == sorted(contents("flags"), key=repr)


def test_nothing_is_overwritten_and_nothing_half_written_is_left(flags, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="out exists already"):
        write(flags, tmp_path / "out", "jsonl")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write", full)
    with pytest.raises(UserError, match="cannot be written.*No space left"):
        write(flags, tmp_path / "new", "jsonl")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("new")]


def test_broken_pictures_are_not_handed_on_but_counted(flags, tmp_path, capsys):
    (flags / "1" / "v1.5 01.png").write_bytes(b"broken")
    whole = (flags / "2" / "v1.5 02.png").read_bytes()
    (flags / "2" / "v1.5 02.png").write_bytes(whole[: len(whole) // 2])
    for kind in export.WRITERS:
        write(flags, tmp_path / kind, kind)
        told = capsys.readouterr().out
        assert "58 pictures in" in told and "left out: 2 pictures that cannot be read" in told


def test_names_that_are_not_utf8_are_written_as_names_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"caf\xe9")
    (tmp_path / "data").mkdir()
    try:
        Image.new("RGB", (32, 32)).save(tmp_path / "data" / f"{name}.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    (tmp_path / "data" / f"{name}.txt").write_text("a bird")
    for kind in export.WRITERS:
        write("data", tmp_path / kind, kind)
        assert contents(kind) == contents("data"), kind


def test_the_name_of_a_tar_is_left_out_whatever_its_bytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = io.BytesIO()
    Image.new("RGB", (32, 32)).save(picture, "PNG")
    (tmp_path / "data").mkdir()
    try:
        archive = tarfile.open(tmp_path / "data" / os.fsdecode(b"caf\xe9.tar"), "w")  # noqa: SIM115
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    with archive:
        for name, data in (("0.png", picture.getvalue()), ("0.txt", b"a bird")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    write("data", tmp_path / "out", "jsonl")
    assert (tmp_path / "out" / "0.png").is_file()


def test_splits_that_a_layout_cannot_tell_are_refused(flags, tmp_path):
    text = (flags / "metadata.jsonl").read_text().replace('"test"', '"unseen"')
    (flags / "metadata.jsonl").write_text(text)
    for kind in ("sidecar", "tar"):
        with pytest.raises(UserError, match="cannot tell the splits unseen; use --export jsonl"):
            write(flags, tmp_path / "out", kind)
    write(flags, tmp_path / "out", "jsonl")
    assert sorted(contents("out"), key=repr) == sorted(contents("flags"), key=repr)


def test_no_name_in_a_tar_leads_out_of_what_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = io.BytesIO()
    Image.new("RGB", (32, 32)).save(picture, "PNG")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, data in ((".png", picture.getvalue()), (".txt", b"evil")):
            member = tarfile.TarInfo(f"...tar/...tar/...tar/evil{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    for kind in export.WRITERS:
        out = tmp_path / "a" / "b" / kind
        write("x.tar", out, kind)
        assert list(out.iterdir())
        assert not [p for p in tmp_path.rglob("*evil*") if not p.is_relative_to(out.parent)]
    with pytest.raises(OSError, match="leads out"):
        export.write(tmp_path / "a", "../evil.png", b"")


def test_pictures_that_get_one_name_only_by_their_split_stay_two(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = []
    for colour, name in (("red", "train/x.png"), ("green", "x.png")):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), colour).save(tmp_path / "data" / name)
        rows.append(json.dumps({"file_name": name, "text": colour, "split": "train"}))
    (tmp_path / "data" / "metadata.jsonl").write_text("\n".join(rows))
    for kind in export.WRITERS:
        write(tmp_path / "data", tmp_path / kind, kind)
        assert sorted(contents(kind)) == sorted(contents("data")), kind


def test_a_folder_in_a_tar_does_not_become_a_split_and_any_suffix_is_a_picture(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(picture, "PNG")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, data in (("test/1.img", picture.getvalue()), ("test/1.txt", b"red")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    for kind in export.WRITERS:
        write("x.tar", tmp_path / kind, kind)
        assert contents(kind) == contents("x.tar"), kind


def test_what_is_not_kept_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "3_red").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "data" / "3_red" / "a.png")
    (tmp_path / "data" / "3_red" / "b.png").write_bytes(b"broken")
    write("data", tmp_path / "out", "jsonl", resized=True, image_size=32)
    told = capsys.readouterr().out
    assert "1 pictures in" in told and "how often folders are repeated" in told
    assert "1 files that are no readable pictures" in told


def test_what_another_export_is_writing_is_left_alone(flags, tmp_path):
    (tmp_path / "out.unfinished").mkdir()
    (tmp_path / "out.unfinished" / "mine").write_text("mine")
    with pytest.raises(UserError, match="out.unfinished exists already"):
        write(flags, tmp_path / "out", "jsonl")
    assert (tmp_path / "out.unfinished" / "mine").exists()
