"""Protects the example collection: captions, what is held out, and that nothing is overwritten."""

import io
import json
import subprocess
import sys
import tarfile
from collections import defaultdict
from pathlib import Path

import pytest
from PIL import Image

from dataset import CaptionedImages

SCRIPT = Path(__file__).parent.parent / "examples" / "emoji_dataset.py"


def write_package(folder: Path, name: str, files: dict[str, bytes]) -> None:
    with tarfile.open(folder / f"{name}-1.0.0.tgz", "w:gz") as archive:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.fixture
def packages(tmp_path) -> Path:
    """120 emoji, two skin tones each, with the variation selector in one of the packages only."""
    codes = [f"{0x1F400 + i:X}" for i in range(120)]
    tones = {c: (f"{c}-1F3FB", f"1F9D1-{c}-1F3FF") for c in codes}  # couples tell it of each part
    emoji = []
    for i, code in enumerate(codes):
        skins = [{"label": f"thing {i}: tone {tone[-5:]}", "hexcode": tone, "tags": []}
                 for tone in tones[code]]  # fmt: skip
        emoji.append({"label": f"thing: {i}", "hexcode": code, "tags": ["a", "b"], "skins": skins})
    folder = tmp_path / "packages"
    folder.mkdir()
    write_package(folder, "emojibase-data", {"package/en/data.json": json.dumps(emoji).encode()})
    for kind, selector in (("google", "-fe0f"), ("twitter", "")):
        files = {"64/1f9ff.png": b"has no name"}
        for i, code in enumerate(codes):
            for name in (code + selector, *tones[code]):
                png = io.BytesIO()
                Image.new("RGBA", (64, 64), (i, i, 0, 255)).save(png, "PNG")
                files[f"64/{name.lower()}.png"] = png.getvalue()
                files[f"sheets/{name.lower()}.png"] = b"no picture of an emoji"
        files = {f"package/img/{kind}/{name}": data for name, data in files.items()}
        write_package(folder, f"emoji-datasource-{kind}", files)
    return folder


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_collection_holds_names_styles_and_what_training_must_not_see(packages, tmp_path):
    out = tmp_path / "emoji"
    assert "720 pictures" in run(packages, out).stdout
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    texts = {row["file_name"]: row["text"] for row in rows}
    plain = ["thing, 0, noto style", "thing, 0 (a, b), noto style"]
    assert texts["noto/1f400-fe0f.png"] == plain
    assert texts["twemoji/1f401-1f3fb.png"][0] == "thing 1, tone 1F3FB, twemoji style"

    splits, bases = defaultdict(dict), defaultdict(set)
    for row in rows:
        style, name = row["file_name"].split("/")
        code = name[:-4].replace("-fe0f", "")
        splits[code][style] = row["split"]
        bases[code.removeprefix("1f9d1-")[:5]].add(row["split"])
    for both in splits.values():  # a combination held out has its twin in training
        assert " ".join(sorted(both.values())) in ("train train", "test test", "train validation")
    held_out = [s for both in splits.values() for s, split in both.items() if split == "validation"]
    assert set(held_out) == {"noto", "twemoji"}
    tests = [found for found in bases.values() if "test" in found]
    assert tests and all(found == {"test"} for found in tests)  # with all their tones

    dataset = CaptionedImages(out, image_size=32, cache_dir=tmp_path / "cache", show_progress=False)
    sizes = [len(dataset.other_split(split)) for split in ("train", "validation", "test")]
    assert sizes[1] == len(held_out) and sum(sizes) == 720
    assert "CC-BY 4.0" in (out / "LICENSES.txt").read_text()


def test_a_random_part_is_the_same_each_time(packages, tmp_path):
    found = []
    for name in ("one", "two"):
        assert "100 pictures" in run(packages, tmp_path / name, "--only", 100).stdout
        found.append((tmp_path / name / "metadata.jsonl").read_text())
        assert len(list((tmp_path / name).glob("*/*.png"))) == 100
    assert found[0] == found[1] and "noto/" in found[0] and "twemoji/" in found[0]


def test_missing_packages_are_named_and_nothing_is_overwritten(packages, tmp_path):
    out = tmp_path / "emoji"
    out.mkdir()
    assert run(packages, out).returncode == 2
    assert not any(out.iterdir())
    (packages / "emojibase-data-1.0.0.tgz").unlink()
    failed = run(packages, tmp_path / "other")
    assert failed.returncode == 2 and "npm pack emojibase-data" in failed.stderr
    assert not (tmp_path / "other").exists()
