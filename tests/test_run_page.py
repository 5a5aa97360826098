"""Protects the page of a run: it needs nothing but its folder, and shows all of it, as it is."""

import base64
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import TINY, pixels
from test_curves import lines

import train
from checkpoint import Progress
from config import TrainConfig, UserError
from reports.run_page import Examples, Report, marks_of

CONFIG = TrainConfig(images=200)
VOID = {"meta", "img", "input"}


class Page(HTMLParser):
    """Elements with their attributes, and the text outside of scripts and styles."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open, self.elements, self.text = [], [], ""
        self.feed(self.source)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.elements.append((tag, dict(attributes)))
        self.open += [tag] * (tag not in VOID)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(folder: Path, config: TrainConfig = CONFIG, metrics=None, **more) -> Page:
    folder.mkdir(parents=True, exist_ok=True)
    phases = train.phases_of(config, Progress(halvings=2))
    Report(folder, config, phases, 0).update(lines() if metrics is None else metrics, **more)
    return Page(folder / "index.html")


def add_sheets(folder: Path, *seen: int) -> None:
    (folder / "samples").mkdir(parents=True)
    for images in seen:
        Image.new("RGB", (4, 4), (images % 256, 0, 0)).save(folder / f"samples/{images:09d}.png")


def test_the_page_loads_nothing_from_elsewhere_and_tells_what_images_show(tmp_path):
    add_sheets(tmp_path, 100, 200)
    page = page_of(tmp_path, examples=Examples(pixels(2, 3, 32, 32), ["a bird", ""]))
    for _, attributes in page.elements:
        for name in attributes.keys() & {"src", "href", "srcset", "data", "action"}:
            where = attributes[name]
            assert where.startswith("data:image/png;base64,") or (tmp_path / where).is_file(), where
    assert not re.search(r"https?://|url\(|@import|<link|fetch\(", page.source)
    assert all(attributes["alt"] for attributes in page.of("img"))
    assert all(attributes["aria-label"] for attributes in page.of("svg"))
    assert not list(tmp_path.glob("*.tmp"))


def test_all_sheets_can_be_chosen_but_those_a_crash_left_behind(tmp_path):
    add_sheets(tmp_path, 50, 100, 200, 250)
    (tmp_path / "samples/mine.png").touch()
    page = page_of(tmp_path)  # of 200 images
    several = json.loads(re.search(r"SHEETS = (\[\[.*?\]\]);", page.source)[1])
    assert [path for path, _ in several] == [f"samples/{n:09d}.png" for n in (50, 100, 200)]
    (chosen,) = page.of("input")
    assert chosen["max"] == chosen["value"] == "2"
    assert [a["src"] for a in page.of("img")] == ["samples/000000200.png"]
    assert {a["href"] for a in page.of("a")} == {path for path, _ in several}


def test_the_page_tells_how_far_the_run_is_and_what_is_left(tmp_path):
    metrics = [{"images": 100, "split": "train", "x_loss": 1.0, "seconds": 180.0}]
    page = page_of(tmp_path, metrics=metrics, seconds_left=7200.0)
    assert page.of("progress") == [
        {"max": "200", "value": "100", "aria-label": "how far the run is"}
    ]
    assert "100 of 200 images" in page.text and tmp_path.name in page.text
    assert "3 min of training" in page.text and "about 2.0 h left" in page.text
    assert " left ·" in page.text and "finished" not in page.text
    assert " left ·" not in page_of(tmp_path, metrics=metrics).text  # as nobody knows
    assert "finished" in page_of(tmp_path).text


def test_every_term_has_a_curve_and_its_meaning(tmp_path):
    page = page_of(tmp_path)
    labels = [attributes["aria-label"] for attributes in page.of("svg")]
    assert [label.split(" over")[0] for label in labels] == [
        "regression loss", "kl loss", "edge energy", "text dependence", "own nearest"
    ]  # fmt: skip
    assert "at 1, captions are ignored" in page.text


def test_images_of_a_batch_are_shown_as_they_are_with_their_captions(tmp_path):
    images, captions = pixels(2, 3, 16, 16), ["a <unk> bird", ""]
    page = page_of(tmp_path, examples=Examples(images, captions))
    shown = [attributes["src"] for attributes in page.of("img")]
    for source, image in zip(shown, images, strict=True):
        data = base64.b64decode(source.partition(",")[2])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), image.transpose(1, 2, 0))
    assert "a <unk> bird" in page.text and "no caption" in page.text and "at 16 px" in page.text


def test_what_others_wrote_is_text_and_never_runs(tmp_path):
    script = "\"'><script>alert(1)</script>"
    folder = tmp_path / "<script>alert(2)<"
    config = TrainConfig(images=200, data=script, run="x")
    metrics = [{"images": 100, "split": "train", f"{script}_loss": 1.0}]
    page = page_of(folder, config, metrics, examples=Examples(pixels(1, 3, 8, 8), [script]))
    assert not page.of("script")  # there are no sheets to choose from
    assert page.text.count(script) >= 3 and folder.name in page.text


def test_a_run_that_has_told_nothing_yet_has_a_page(tmp_path):
    page = page_of(tmp_path, metrics=[])
    assert "0 of 200 images" in page.text and not page.of("svg") and not page.of("img")
    assert (tmp_path / "loss.png").is_file()


def test_settings_that_were_changed_come_first(tmp_path):
    page = page_of(tmp_path, TrainConfig(images=200, lr=0.25, run="x"))
    changed, others = page.source.split("<details><summary>The others")
    assert "<td>--lr</td><td>0.25</td><td>0.0015</td>" in changed and "--lr<" not in others
    assert "<td>--seed</td>" in others and "<td>--set kl_weight</td>" in others


def test_phases_are_those_that_the_settings_have():
    def told(halvings: int = 2, start: int = 0, **settings) -> list[tuple[int, str]]:
        config = TrainConfig(images=1000, latents="on", **settings)
        return marks_of(train.phases_of(config, Progress(halvings=halvings, start=start)))

    late = [(450, "latents"), (600, "sharpness")]
    assert told() == [(200, "32 px"), (400, "64 px"), *late]
    assert told(grow_at=(0.1,), noise_dim=8, swd_weight=0.0) == [(100, "64 px"), late[0]]
    assert told(1, image_size=32) == [(400, "32 px"), *late]  # 16 px from the beginning
    assert told(0, init_from="file") == late
    again = [{"images": 100, "image_size": 16}]  # of a run that goes on at full size
    config = TrainConfig(images=1000, latents="on")
    resumed = train.phases_of(config, Progress(images_seen=500, metrics=again))
    assert marks_of(resumed) == told()
    assert told(0, start=500) == told(0, init_from="file", completer_only=True) == []
    assert Report(Path(), CONFIG, [], 500).phases == [(500, "trained on")]


def test_a_run_writes_its_page_with_its_sheets_and_batch(image_folder):
    run = train.main(TrainConfig(**TINY | {"data": str(image_folder), "images": 48}))
    page = Page(run / "index.html")
    shown = [attributes["src"] for attributes in page.of("img")]
    assert shown[0] == "samples/000000048.png" and len(shown) == 17
    assert "and then" in page.text and "finished" in page.text


def numbers_in(folder: Path) -> tuple[list[dict], list[int]]:
    """Lines as in metrics.jsonl, and the steps of sheets."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    found, sheets = {}, []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in loader.EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                split, _, name = value.tag.partition("/")
                if value.tag == "samples":
                    sheets.append(event.step)
                    continue
                line = found.setdefault((event.step, split), {"images": event.step, "split": split})
                assert name not in line, f"{name} is told twice"
                number = value.tensor.float_val[0] if value.tensor.float_val else value.simple_value
                line[name] = number
    return list(found.values()), sheets


def test_tensorboard_gets_each_number_and_sheet_once_though_a_run_was_resumed(tmp_path):
    pytest.importorskip("tensorboard")
    add_sheets(tmp_path, 100, 200)
    config = TrainConfig(images=200, run="x", tensorboard=True)
    killed = Report(tmp_path, config, [], 0)
    killed.update(lines()[:10])
    killed.update(lines())
    resumed = Report(tmp_path, config, [], 0)
    resumed.update(lines()[:12])
    resumed.update(lines())
    found, sheets = numbers_in(tmp_path / "tensorboard")
    assert sheets == [100, 200]
    told = [{name: pytest.approx(value) if isinstance(value, float) else value
             for name, value in line.items()} for line in lines()]  # fmt: skip
    assert found == told


def test_a_missing_tensorboard_is_told_before_training(image_folder, monkeypatch):
    for name in ("tensorboard", "tensorboard.compat.proto"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        train.main(TrainConfig(**TINY | {"data": str(image_folder), "tensorboard": True}))
    assert [path.name for path in Path("results/flags").iterdir()] == ["lock"]
