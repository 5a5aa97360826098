"""Protects the example collection of icons: which size is taken, and which names they get."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).parent.parent / "examples" / "icon_dataset.py"


def icon(root: Path, name: str, size: int, colour: str) -> Path:
    path = root / "usr/share/icons" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", (size, size), colour).save(path)
    return path


@pytest.fixture
def unpacked(tmp_path) -> Path:
    root = tmp_path / "unpacked"
    icon(root, "one/16x16/apps/star-new.png", 16, "black")
    icon(root, "one/96x96/apps/star-new.png", 96, "blue")
    best = icon(root, "one/64x64/apps/star-new.png", 64, "red")
    (best.parent / "favourite.png").symlink_to(best.name)
    (best.parent / "broken.png").symlink_to("nothing.png")
    icon(root, "two/places/48/Folder_home.png", 48, "#00ff0000")  # transparent
    icon(root, "two/places/24/tiny.png", 24, "black")
    icon(root, "two/places/scalable/other.png", 64, "black")
    icon(root, "two/apps/48/pen-symbolic.png", 48, "black")
    return root


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_icons_are_named_by_all_their_files_and_taken_at_the_size_that_fits(unpacked, tmp_path):
    out = tmp_path / "icons"
    assert "2 pictures" in run(unpacked, out).stdout
    lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    colours = {}
    for line in lines:
        with Image.open(out / line["file_name"]) as image:
            assert image.size == (64, 64) and image.mode == "RGB"
            colours[tuple(line["text"])] = image.getpixel((32, 32))
    assert colours == {("favourite, apps", "star new, apps"): (255, 0, 0),
                       ("folder home, places",): (255, 255, 255)}  # fmt: skip


def test_nothing_is_overwritten_and_an_empty_folder_is_told(unpacked, tmp_path):
    assert run(unpacked, tmp_path / "a", "--only", 1).stdout.startswith("1 pictures")
    again = run(unpacked, tmp_path / "a")
    assert again.returncode == 2 and "exists already" in again.stderr
    nothing = run(tmp_path, tmp_path / "b")
    assert nothing.returncode == 2 and "holds no icons" in nothing.stderr
    assert not (tmp_path / "b").exists()
