"""Protects collections that are written in another layout: read back, they are the same."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import make_flags
from written import png, tar_of, write

from config import CheckConfig, DataConfig, UserError
from formats import check_or_export, export, open_collection


def export_to(out: Path, folder: Path | str, kind: str, **settings) -> None:
    check_or_export(CheckConfig(data=str(folder), out=str(out), export=kind, **settings))


def contents(data: str) -> list[tuple]:
    """(captions, split, pixels) of all that is there, sorted."""
    found = open_collection(data, DataConfig(), image_size=32, show_progress=False)
    records, images = found.collection.records, found.images
    pairs = zip(records, images, strict=True)
    return sorted(((r.captions, r.split, image.tobytes()) for r, image in pairs), key=repr)


def image(colour: str = "black", kind: str = "png") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(file, kind)
    return file.getvalue()


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def flags(tmp_path):
    """60 pictures in folders, of three splits and none, with one or two captions."""
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
    write(folder, {"metadata.jsonl": rows})
    return folder


@pytest.mark.parametrize("first", export.WRITERS)
@pytest.mark.parametrize("second", export.WRITERS)
def test_any_layout_becomes_any_other_and_is_read_back_as_it_was(flags, tmp_path, first, second):
    export_to(tmp_path / "one", flags, first)
    assert contents("one") == contents("flags")
    export_to(tmp_path / "two", tmp_path / "one", second)
    assert contents("two") == contents("flags")


def test_pictures_keep_their_bytes(flags, tmp_path):
    data = png(np.full((10, 40, 4), (1, 2, 3, 4), np.uint8))
    write(flags, {"0/v1.5 00.png": data})
    export_to(tmp_path / "out", flags, "jsonl")
    assert (tmp_path / "out" / "0" / "v1.5 00.png").read_bytes() == data
    export_to(tmp_path / "tars", flags, "tar")
    with tarfile.open(tmp_path / "tars" / "train-00000.tar") as archive:
        assert archive.extractfile("000000000.png").read() == data


def test_resized_pictures_are_those_that_training_sees(flags, tmp_path):
    write(flags, {"1/v1.5 01.png": b"broken"})
    export_to(tmp_path / "out", flags, "sidecar", resized=True, image_size=32)
    seen = [found for found in contents("flags") if any(found[2])]
    assert contents("out") == seen and len(seen) == 59
    with Image.open(next((tmp_path / "out").glob("*/*/*.png"))) as found:
        assert found.size == (32, 32) and found.mode == "RGB"


@pytest.mark.parametrize("kind", export.WRITERS)
@pytest.mark.parametrize(
    "images",
    [{"a.png": "red", "a.bmp": "green", "A.gif": "blue"}, {"train/x.png": "red", "x.png": "green"}],
    ids=["their suffix", "their split"],
)
def test_pictures_that_differ_only_in_that_stay_apart(tmp_path, images, kind):
    rows = [{"file_name": name, "text": text, "split": "train"} for name, text in images.items()]
    files = {name: image(colour, name[-3:]) for name, colour in images.items()}
    write(tmp_path / "data", files, {"metadata.jsonl": rows})
    export_to(tmp_path / kind, "data", kind)
    assert contents(kind) == contents("data")


def test_shards_hold_so_many_samples_and_no_more(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "SHARD", 7)
    export_to(tmp_path / "out", flags, "tar")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names[:3] == ["00000.tar", "00001.tar", "00002.tar"] and len(names) == 12
    assert contents("out") == contents("flags")


def test_nothing_is_overwritten_and_nothing_half_written_is_left(flags, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    write(tmp_path, {"other.unfinished/mine": "of another export"})
    for name, there in (("out", "out"), ("other", "other.unfinished")):
        with pytest.raises(UserError, match=f"{there} exists already"):
            export_to(tmp_path / name, flags, "jsonl")
    assert (tmp_path / "other.unfinished" / "mine").exists()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write", full)
    with pytest.raises(UserError, match="cannot be written.*No space left"):
        export_to(tmp_path / "new", flags, "jsonl")
    assert not list(tmp_path.glob("new*"))


def test_broken_pictures_are_not_handed_on_but_counted(flags, tmp_path, capsys):
    whole = (flags / "2" / "v1.5 02.png").read_bytes()
    write(flags, {"1/v1.5 01.png": b"broken", "2/v1.5 02.png": whole[: len(whole) // 2]})
    for kind in export.WRITERS:
        export_to(tmp_path / kind, flags, kind)
        told = capsys.readouterr().out
        assert "58 pictures in" in told and "left out: 2 pictures that cannot be read" in told


@pytest.mark.parametrize("kind", export.WRITERS)
def test_names_that_are_not_utf8_are_written_as_names_that_are(tmp_path, kind):
    name = os.fsdecode(b"caf\xe9")
    try:
        write(tmp_path / "data", {f"{name}.png": image(), f"{name}.txt": "a bird"})
        write(tmp_path / "tars", {f"{name}.tar": tar_of({"0.png": image(), "0.txt": "a bird"})})
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    export_to(tmp_path / kind, "data", kind)
    assert contents(kind) == contents("data")
    export_to(tmp_path / "of_tars", "tars", "jsonl")
    assert (tmp_path / "of_tars" / "0.png").is_file()  # without the name of the tar


def test_splits_that_a_layout_cannot_tell_are_refused(flags, tmp_path):
    text = (flags / "metadata.jsonl").read_text().replace('"test"', '"unseen"')
    write(flags, {"metadata.jsonl": text})
    for kind in ("sidecar", "tar"):
        with pytest.raises(UserError, match="cannot tell the splits unseen; use --export jsonl"):
            export_to(tmp_path / "out", flags, kind)
    export_to(tmp_path / "out", flags, "jsonl")
    assert contents("out") == contents("flags")


def test_no_name_in_a_tar_leads_out_of_what_is_written(tmp_path):
    evil = "...tar/...tar/...tar/evil"
    write(tmp_path, {"x.tar": tar_of({f"{evil}.png": image(), f"{evil}.txt": "evil"})})
    for kind in export.WRITERS:
        out = tmp_path / "a" / "b" / kind
        export_to(out, "x.tar", kind)
        assert list(out.iterdir())
        assert not [p for p in tmp_path.rglob("*evil*") if not p.is_relative_to(out.parent)]
    with pytest.raises(OSError, match="leads out"):
        export.write(tmp_path / "a", "../evil.png", b"")


@pytest.mark.parametrize("kind", export.WRITERS)
def test_a_folder_in_a_tar_does_not_become_a_split_and_any_suffix_is_a_picture(tmp_path, kind):
    write(tmp_path, {"x.tar": tar_of({"test/1.img": image("red"), "test/1.txt": "red"})})
    export_to(tmp_path / kind, "x.tar", kind)
    assert contents(kind) == contents("x.tar")


def test_what_is_not_kept_is_said(tmp_path, capsys):
    write(tmp_path / "data", {"3_red/a.png": image(), "3_red/b.png": b"broken"})
    export_to(tmp_path / "out", "data", "jsonl", resized=True, image_size=32)
    told = capsys.readouterr().out
    assert "1 pictures in" in told and "how often folders are repeated" in told
    assert "1 files that are no readable pictures" in told
