"""Protects the promise that a fresh clone draws: the shipped file, loaded as the README says."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import scenes
from evaluation import template_reader
from model import TextToImageModel, to_uint8
from tokenizer import split_words

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "results_short" / "text_to_image_model.pth"
EMOJI = ROOT / "results_short" / "emoji.pth"


def shipped_model() -> TextToImageModel:
    model = TextToImageModel()
    model.load_state_dict(torch.load(WEIGHTS))
    return model.eval()


@pytest.mark.parametrize("path", [WEIGHTS, EMOJI])
def test_the_files_are_state_dicts_of_cpu_tensors_and_small(path):
    state = torch.load(path)
    assert path.stat().st_size <= 20e6
    extra = state.pop("_extra_state")
    assert extra.keys() == {"config", "tokenizer"}
    assert all(isinstance(v, torch.Tensor) and v.device.type == "cpu" for v in state.values())
    assert all(v.isfinite().all() for v in state.values())


def test_it_draws_a_picture_in_a_notebook():
    picture = shipped_model().generate("a big red circle", seed=0)
    assert isinstance(picture, Image.Image) and picture.size == (64, 64)


def test_the_prompt_of_the_readme_shows_red_left_and_blue_right_on_white(tmp_path):
    prompt = "a big red circle at the left and a small blue star at the right on a white background"
    command = [sys.executable, str(ROOT / "generate.py"), "--input", prompt, "--output", "x.png"]
    command += ["--model", str(WEIGHTS)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    pixels = np.asarray(Image.open(tmp_path / "x.png")).astype(int)
    red, green, blue = pixels[29:36, 13:20].mean(axis=(0, 1))
    assert red > 150 and green < 110 and blue < 110
    red, green, blue = pixels[30:35, 46:51].mean(axis=(0, 1))
    assert blue > 140 and red < 140
    assert pixels[[2, 2, -3, -3], [2, -3, 2, -3]].min() > 200


@pytest.mark.parametrize("path, prompt", [(WEIGHTS, "a red circle"), (EMOJI, "astronaut")])
def test_both_files_complete_what_a_person_types_and_keep_it(path, prompt):
    model = TextToImageModel()
    model.load_state_dict(torch.load(path))
    captions = model.complete([prompt] * 16, range(16))
    words = set(prompt.removeprefix("a ").split())
    assert len(set(captions)) > 8 or path == EMOJI
    assert all(words < set(split_words(caption)) for caption in captions)


def test_a_red_circle_is_a_single_red_circle_at_a_place_that_varies_with_the_seed():
    model, seeds = shipped_model(), range(16)
    captions = model.complete(["a red circle"] * 16, seeds)
    found = template_reader.read(to_uint8(model.draw(captions, seeds)))
    objects = [seen["objects"] for seen in found]
    right = [o[0] for o in objects if [(x["shape"], x["colour"]) for x in o] == [("circle", "red")]]
    assert len(right) >= 15
    assert len({o["place"] for o in right}) > 3


def test_objects_stand_at_their_places_in_their_colours_for_captions_never_trained_on():
    captions, objects = [], []
    for index in range(150):
        attributes, (plain, *_), _ = scenes.compose(0, index, "validation")
        captions.append(plain)
        objects.append(attributes["objects"])
    pictures = to_uint8(shipped_model().draw(captions, range(len(captions))))
    found = []
    for picture, several in zip(pictures.permute(0, 2, 3, 1).numpy(), objects, strict=True):
        for o in several:
            x, y = (int(64 * c) for c in scenes.PLACES[o["place"]])
            cell = picture[y - 7 : y + 8, x - 7 : x + 8].astype(int)
            distance = np.abs(cell - scenes.COLOURS[o["colour"]]).max(axis=2)
            found.append((distance < 50).sum() >= 10)
    assert len(found) > 150
    assert np.mean(found) > 0.9
