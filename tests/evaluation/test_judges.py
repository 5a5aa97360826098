"""Protects the judges: good enough to judge, kept as they were fitted, known by their weights."""

import copy

import pytest
import torch

import checkpoint
import scenes
from config import UserError
from dataset import CaptionedImages
from evaluation import judges, scene_sets
from evaluation.metrics import r_precision
from evaluation.systems import Evaluation


@pytest.fixture(scope="module")
def panel():
    return judges.read(next(judges.SHIPPED.glob("scenes-*.pth")))


def right_in(recogniser, images, asked):
    """The fraction of the images in which all is right."""
    asked = [a | {"named": ["shape", *scenes.NAMEABLE]} for a in asked]
    return scene_sets.attribute_rates(scene_sets.read(recogniser, images), asked)["all"].mean()


def test_the_shipped_recogniser_is_right_on_fresh_real_scenes(panel):
    for split in ("unseen", "test"):
        images, asked = judges.render_scenes(9, split, 512)
        assert right_in(panel.recogniser, images, asked) >= 0.995
    assert right_in(panel.recogniser, images[1:257], asked[:256]) < 0.01


def test_the_shipped_dual_encoder_is_good_enough_to_judge(panel):
    tests = scene_sets.draw_scenes("validation", 512, 9, (1, 2, 3))
    evaluation = Evaluation(panel.encoder, tests, tests.images)
    seen = evaluation.features(tests.images)["judge"]
    found = []
    for images in (seen, seen.roll(1, 0)):
        similarity = panel.encoder.similarities(images, evaluation.embedded)
        found.append(r_precision(similarity, evaluation.own, evaluation.words)["random"].mean())
    assert found[0] > 0.85 and found[1] < 0.05


def test_padding_does_not_change_how_a_caption_is_judged(panel):
    with torch.no_grad():
        alone = panel.encoder.embed_captions(["a red star"])
        beside = panel.encoder.embed_captions(["a red star", "a very " + "long " * 30])
    assert torch.allclose(alone[0], beside[0], atol=1e-5)


@pytest.mark.slow
def test_judges_of_the_scenes_are_shipped(tmp_path):
    scenes_of_now = CaptionedImages(cache="off", cache_dir=tmp_path)
    assert judges.load(scenes_of_now).recogniser is not None


def test_judges_that_are_fitted_and_kept_come_back(image_folder, tmp_path):
    path, dataset = tmp_path / "judges.pth", CaptionedImages(image_folder, show_progress=False)
    encoder = judges.fit_dual_encoder(dataset, num_images=3 * len(dataset))
    recogniser = judges.fit_recogniser(num_scenes=256, epochs=1)
    judges.save(encoder, recogniser, path)
    panel = judges.read(path)
    for kept, fitted in ((panel.encoder, encoder), (panel.recogniser, recogniser)):
        pairs = zip(kept.state_dict().values(), fitted.state_dict().values(), strict=True)
        assert not kept.training and all(torch.equal(a, b) for a, b in pairs)
    assert panel.encoder.tokenizer.vocabulary == encoder.tokenizer.vocabulary
    recogniser.kinds.bias.data += 1
    for other in (recogniser, None):
        judges.save(encoder, other, path)
        assert judges.read(path).fingerprint != panel.fingerprint
    assert judges.read(path).recogniser is None


def test_judges_in_half_precision_judge_in_single_precision(panel, tmp_path):
    path, halves = tmp_path / "judges.pth", [copy.deepcopy(m).half() for m in panel[:2]]
    judges.save(*halves, path)
    half = judges.read(path)
    assert all(p.dtype == torch.float32 for m in half[:2] for p in m.parameters())
    assert right_in(half.recogniser, *judges.render_scenes(9, "test", 256)) >= 0.98
    judges.save(*(module.float() for module in halves), path)
    assert judges.read(path).fingerprint == half.fingerprint  # of the values, however stored


def test_where_there_are_no_judges_it_is_said_how_to_fit_them(image_folder, tmp_path):
    path = tmp_path / "judges.pth"
    with pytest.raises(UserError, match="--fit-judges"):
        judges.load(CaptionedImages(image_folder, show_progress=False))
    with pytest.raises(UserError, match="no file .*judges.pth; --fit-judges"):
        judges.read(path)
    for state in ({}, {"tokenizer": {}, "encoder": {}}, {"tokenizer": 7, "encoder": []}):
        checkpoint.save(state, path)
        with pytest.raises(UserError, match="holds no judges"):
            judges.read(path)
