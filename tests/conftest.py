"""Small captioned pictures, made afresh for each test."""

import json

import pytest
from kills import small_config
from PIL import Image

import flow
import runs

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 60),
    "blue": (40, 70, 220),
    "gold": (240, 200, 40),
}


@pytest.fixture
def picture_folder(tmp_path, monkeypatch):
    """60 pictures, left half one colour and right half another, in the imagefolder layout; the
    working directory is the temporary one, so that results/ lands there. New runs are of a small
    model."""
    monkeypatch.setattr(runs, "ModelConfig", small_config)
    monkeypatch.setattr(flow, "HIDDEN", 32)
    folder = tmp_path / "flags"
    folder.mkdir()
    lines = []
    for i in range(60):
        left, right = list(COLOURS)[i % 4], list(COLOURS)[i // 4 % 4]
        picture = Image.new("RGB", (32, 32), COLOURS[left])
        picture.paste(COLOURS[right], (16, 0, 32, 32))
        picture.save(folder / f"{i:02d}.png")
        lines.append(json.dumps({"file_name": f"{i:02d}.png", "text": f"{left} and then {right}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    return folder
