"""Comparisons of attributes, R-precision, the controls, and evaluate.py as it is used."""

import dataclasses
import json
import random
from pathlib import Path

import pytest
import torch
from PIL import Image

import checkpoint
import dataset
import evaluate
import held_out_scenes
import judges
import metrics
import runs
import scenes
from command_line import UserError
from dataset import CaptionedImages
from layouts import DataConfig, reading
from model import TextToImageModel


def test_right_captions_have_precision_one_and_random_ones_are_at_chance():
    own, rng = torch.arange(400), torch.Generator().manual_seed(0)
    similarity = torch.rand(400, 500, generator=rng)
    words = torch.rand(400, 500, generator=rng)
    for values in evaluate.r_precision(similarity, own, words).values():
        assert values.mean().item() == pytest.approx(1 / evaluate.CANDIDATES, abs=0.02)
    similarity[own, own] += 2
    for values in evaluate.r_precision(similarity, own, words).values():
        assert (values == 1).all()


def test_the_probability_over_candidates_is_that_of_drawing_them():
    num, better = 150, 2  # two of the 149 others are closer than the own caption
    similarity = torch.zeros(1, num)
    similarity[0, 7], similarity[0, :better] = 0.5, 1
    words, own = torch.zeros(1, num), torch.tensor([7])
    found = evaluate.r_precision(similarity, own, words)["random"].item()
    rng, others = random.Random(0), [i for i in range(num) if i != 7]
    draws = [min(rng.sample(others, evaluate.CANDIDATES - 1)) >= better for _ in range(20_000)]
    assert found == pytest.approx(sum(draws) / len(draws), abs=0.01)


def test_hard_captions_are_those_that_share_most_words(monkeypatch):
    monkeypatch.setattr(evaluate, "CANDIDATES", 2)
    captions = ["red big star", "red big circle", "blue moon"]
    words = evaluate.shared_words(captions, captions)
    assert words[0].tolist() == pytest.approx([1, 0.5, 0])
    similarity = torch.tensor([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.1, 0.2, 0.5]])
    hard = evaluate.r_precision(similarity, torch.arange(3), words)["hard"]
    assert hard.tolist() == [0, 1, 1]  # only the second picture's rival is not the closest


class LooksAtWords:
    """Stands for a dual encoder that captions alone matter to."""

    def embed_captions(self, captions):
        return torch.tensor([[float(len(c)), 1.0] for c in captions])

    def embed_pictures(self, pictures):
        return pictures.flatten(1)[:, :64]


def test_captions_of_training_are_rivals_and_the_own_one_never_is():
    captions, real = ["a star", "a star", "a moon"], torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    tests, seen = (captions, real, []), ["a moon", "a red moon", "a star"]
    evaluation = evaluate.Evaluation(LooksAtWords(), tests, real, seen)
    assert evaluation.candidates == ["a star", "a moon", "a red moon"]
    assert evaluation.own.tolist() == [0, 0, 1]
    assert evaluation.words.shape == (3, 3) and len(evaluation.embedded) == 3


def test_copies_of_the_training_pictures_are_flagged_and_new_ones_are_not():
    training, real, drawn = torch.randint(0, 256, (3, 120, 3, 32, 32), dtype=torch.uint8)
    seen = metrics.thumbnails(evaluate.from_uint8(training))
    numbers, *_ = evaluate.memorisation(training[:50], real, seen)
    assert numbers["looks_copied"] and numbers["memorisation_ratio"][0] < 0.01
    numbers, _, nearest = evaluate.memorisation(drawn, real, seen)
    assert not numbers["looks_copied"]
    assert numbers["memorisation_ratio"][0] == pytest.approx(1, abs=0.1)


def test_copies_are_looked_for_among_all_training_pictures(picture_folder, monkeypatch):
    """Also where captions are compared with a part of them only."""
    monkeypatch.setitem(evaluate.MAX_CAPTIONS, True, 5)
    pictures = CaptionedImages(picture_folder, image_size=32, show_progress=False)
    config = evaluate.EvaluateConfig(data=str(picture_folder), quick=True)
    _, _, training, _ = evaluate.test_data(config, pictures, 32)
    assert len(training.captions) == len(training.numbers) == 5
    seen = evaluate.thumbnails_of(training.pictures)
    assert len(seen) == len(pictures)
    last = pictures.batch([len(pictures) - 1])[0]
    _, distance, number = evaluate.memorisation(last, last, seen)
    assert distance.item() == 0 and number.item() == len(pictures) - 1


class PaintsWithNoise:
    """Stands for a model: a flat gray decided by the seed, times `spread`."""

    def __init__(self, spread):
        self.spread = spread

    def draw(self, prompts, seeds):
        gray = torch.tensor([self.spread * ((s * 37 % 11) / 11 - 0.5) for s in seeds])
        return gray[:, None, None, None].expand(-1, 3, 64, 64)


@pytest.mark.parametrize("spread, ratio", [(0.0, 0.0), (1.0, 1.0), (2.0, 4.0)])
def test_diversity_is_the_variance_over_seeds_beside_the_real_one(spread, ratio):
    captions, seeds = [f"caption {i}" for i in range(4)], list(range(evaluate.SEEDS))
    real = evaluate.draw(PaintsWithNoise(1.0), [""] * evaluate.SEEDS, seeds)
    drawn = evaluate.draw_again(PaintsWithNoise(spread), captions)
    assert drawn.shape == (4, evaluate.SEEDS, 3, 64, 64)
    numbers = evaluate.diversity(drawn, [real] * 4)
    assert numbers["diversity_pixels"][0] == pytest.approx(ratio, abs=0.05)
    features = [metrics.random_features(evaluate.from_uint8(x)).numpy() for x in (drawn[0], real)]
    over_seeds = [x.var(axis=0, ddof=1).mean() for x in features]
    assert numbers["diversity"][0] == pytest.approx(over_seeds[0] / over_seeds[1], abs=1e-4)
    # All that varies: of 4 x 8 drawings with 31 degrees of freedom, of which 4 x 7 are over seeds.
    assert numbers["variance_from_noise"] == pytest.approx(31 / 28 if spread else 0, abs=1e-3)


def test_drawings_do_not_depend_on_how_many_are_drawn_at_once():
    model = PaintsWithNoise(1.0)
    seeds = list(range(130))
    one_by_one = torch.cat([evaluate.draw(model, [""], [s]) for s in seeds])
    assert torch.equal(evaluate.draw(model, [""] * 130, seeds), one_by_one)


@pytest.fixture(scope="module")
def panel():
    return judges.read(next(judges.SHIPPED.glob("scenes-*.pth")))


def test_the_shipped_recogniser_is_right_on_fresh_real_scenes(panel):
    for split in ("validation", "unseen"):
        pictures, _, asked = judges.render_scenes(9, split, 1_024)
        asked = [a | {"named": ["shape", *scenes.NAMEABLE]} for a in asked]
        rates = held_out_scenes.attribute_rates(panel.recogniser, pictures, asked)
        assert rates["all"].mean() >= 0.995
        rates = held_out_scenes.attribute_rates(panel.recogniser, pictures[1:257], asked[:256])
        assert rates["all"].mean() < 0.01


def test_the_shipped_dual_encoder_is_good_enough_to_judge(panel):
    tests = held_out_scenes.draw_scenes("validation", 512, 9, (1, 2, 3))
    evaluation = evaluate.Evaluation(panel.encoder, tests, tests[1])
    seen = evaluation.features(tests[1])["judge"]
    for pictures, fits in ((seen, lambda p: p > 0.85), (seen.roll(1, 0), lambda p: p < 0.05)):
        similarity = panel.encoder.similarities(pictures, evaluation.embedded)
        rates = evaluate.r_precision(similarity, evaluation.own, evaluation.words)
        assert fits(rates["random"].mean())


def test_padding_does_not_change_how_a_caption_is_judged(panel):
    with torch.no_grad():
        alone = panel.encoder.embed_captions(["a red star"])
        beside = panel.encoder.embed_captions(["a red star", "a very " + "long " * 30])
    assert torch.allclose(alone[0], beside[0], atol=1e-5)


def test_judging_without_judges_says_how_to_fit_them(picture_folder):
    with pytest.raises(UserError, match="--fit-judges"):
        judges.load(CaptionedImages(picture_folder, show_progress=False))


def hold_out(folder, told):
    """Move the pictures with these numbers into splits, each with a caption of its own."""
    lines = [json.loads(x) for x in (folder / "metadata.jsonl").read_text().splitlines()]
    for name, numbers in told.items():
        for i in numbers:
            lines[i] |= {"split": name, "text": f"{name} {i}"}
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))


def test_a_small_collection_can_be_judged_by_judges_of_a_larger_one(picture_folder, tmp_path):
    hold_out(picture_folder, {"validation": range(20)})
    weights = tmp_path / "weights.pth"
    torch.save(TextToImageModel(runs.ModelConfig(image_size=32)).state_dict(), weights)
    with_judges = {"data": str(picture_folder), "judges": str(tmp_path / "none.pth")}
    config = evaluate.EvaluateConfig(model=str(weights), **with_judges)
    with pytest.raises(UserError, match="no file .*none.pth"):
        evaluate.main(config)
    with pytest.raises(UserError, match="without --fit-judges"):
        evaluate.EvaluateConfig(fit_judges=True, **with_judges)

    emoji = next(judges.SHIPPED.glob("emoji-*.pth"))
    result = evaluate.main(
        dataclasses.replace(config, judges=str(emoji), output=str(tmp_path), quick=True)
    )
    assert result["about"]["judges"] == judges.read(emoji).fingerprint
    assert "all_attributes" not in result


def run_evaluate(folder):
    weights = str(checkpoint.SHIPPED_WEIGHTS)
    config = evaluate.EvaluateConfig(model=weights, quick=True, output=str(folder), device="cpu")
    panel = judges.read(next(judges.SHIPPED.glob("scenes-*.pth")))
    with pytest.MonkeyPatch.context() as patch:  # with fewer scenes and resamples, to be quick
        patch.chdir(folder)
        patch.setitem(metrics.bootstrap.__kwdefaults__, "resamples", 50)
        patch.setitem(dataset.NUM_SCENES, "train", 2_048)
        patch.setattr(judges, "load", lambda scenes, fit: panel)
        return evaluate.main(config)


@pytest.mark.slow
def test_judges_of_the_scenes_are_shipped(tmp_path):
    scenes_of_now = CaptionedImages(cache="off", cache_dir=tmp_path)
    assert judges.load(scenes_of_now).recogniser is not None


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> tuple[Path, dict]:
    """A folder with the evaluation of the shipped weights, and what it returned."""
    folder = tmp_path_factory.mktemp("evaluation")
    return folder, run_evaluate(folder)


def test_quick_evaluation_writes_numbers_beside_their_controls(evaluated):
    folder, result = evaluated
    written = json.loads((folder / "evaluation.json").read_text())
    assert written["all_attributes"] == pytest.approx(result["all_attributes"], rel=1e-3)
    names = ["all_attributes", "all_attributes_unseen", "edge_energy", "diversity",
             "frechet_distance", "frechet_floor"]  # fmt: skip
    for name in names:
        value, low, high = written[name]
        assert low <= value <= high
    assert written["frechet_floor"][0] > 0.5  # 0 from the pictures that are measured themselves
    assert {"drawn", "real", "shuffled", "repeated", "retrieved", "about"} <= set(written)
    rates = {s: written[s]["attributes"]["all_attributes"]["all"][0] for s in evaluate.SYSTEMS}
    assert rates["real"] > 0.99 and rates["drawn"] > 0.9
    assert max(rates[control] for control in ("shuffled", "repeated", "retrieved")) < 0.05
    for row in ("all_attributes_unseen", "three_objects", "order_swaps", "other_patterns"):
        found = {s: written[s]["attributes"][row]["all"][0] for s in evaluate.SYSTEMS}
        assert found["real"] > 0.9 and max(found["shuffled"], found["repeated"]) < 0.2
    assert 0.6 < written["real"]["diversity"][0] < 1.6 and written["repeated"]["diversity"][0] == 0
    assert written["retrieved"]["looks_copied"] and not written["drawn"]["looks_copied"]
    for figure in ("evaluation.png", "sheet.png", "closest.png"):
        assert (folder / figure).stat().st_size > 10_000


@pytest.mark.slow
def test_evaluation_does_not_depend_on_the_time_of_day(evaluated, tmp_path, capsys):
    first, second = ({k: v for k, v in result.items() if k != "about"}
                     for result in (evaluated[1], run_evaluate(tmp_path)))  # fmt: skip
    assert json.dumps(first) == json.dumps(second)
    assert "all_attributes" in capsys.readouterr().out


def test_weights_trained_on_other_data_are_not_judged():
    state = {"config": {"data": "birds", "resize": "nearest", "fit": "pad"}}
    config = evaluate.EvaluateConfig(data="birds")
    settings = evaluate.trained_with(state, Path("checkpoint.pth"), config)
    assert settings == reading(DataConfig(resize="nearest", fit="pad"))
    config = evaluate.EvaluateConfig(data="birds", fit="pad", resize="nearest", cache="off")
    state = {"config": {"data": "birds", "resize": "lanczos", "fit": "crop", "format": 7,
                        "follow_links": True, "image_dir": "/", "max_megapixels": 1e9}}  # fmt: skip
    assert evaluate.trained_with(state, Path("x"), config) == reading(config)
    with pytest.raises(UserError, match="was trained on --data birds"):
        evaluate.trained_with(state, Path("checkpoint.pth"), evaluate.EvaluateConfig())


def test_the_split_that_is_asked_for_is_measured(picture_folder):
    told = {"validation": range(20), "test": range(20, 40)}
    hold_out(picture_folder, told)
    dataset = CaptionedImages(picture_folder, image_size=32, show_progress=False)
    for name, numbers in told.items():
        config = evaluate.EvaluateConfig(data=str(picture_folder), split=name)
        (captions, real, _), *_ = evaluate.test_data(config, dataset, 32)
        assert sorted(captions) == sorted(f"{name} {i}" for i in numbers) and len(real) == 20


@pytest.mark.parametrize("num, is_held_out", [(20, False), (10, True)])
def test_the_reference_shares_no_picture_with_the_test_set(tmp_path, num, is_held_out, monkeypatch):
    for i in range(60):
        folder = tmp_path / ("validation" if i < 20 else "train")
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (4 * i, 0, 0)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"red, {i}")
    monkeypatch.setitem(evaluate.NUM_PICTURES, False, num)
    pictures = CaptionedImages(tmp_path, image_size=32, show_progress=False)
    config = evaluate.EvaluateConfig(data=str(tmp_path))
    (_, real, _), reference, *_ = evaluate.test_data(config, pictures, 32)
    red = [set(x[:, 0, 0, 0].tolist()) for x in (real, reference)]
    assert not red[0] & red[1] and len(red[0]) == len(red[1]) == num
    assert (max(red[1]) < 4 * 20) == is_held_out


@pytest.mark.parametrize("settings", [{"split": "test"}, {"data": "birds", "split": "train"}])
def test_what_was_trained_on_is_not_measured(settings):
    with pytest.raises(UserError, match="kept out of training"):
        evaluate.EvaluateConfig(**settings)


def test_a_caption_twice_at_one_picture_or_on_equal_pictures_makes_no_group(picture_folder):
    lines = [
        {"file_name": "00.png", "text": ["twice", "twice"]},
        {"file_name": "01.png", "text": "varied"},
        {"file_name": "02.png", "text": "varied"},
        *({"file_name": f"{i:02d}.png", "text": "equal"} for i in (16, 32)),
    ]
    (picture_folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pictures = CaptionedImages(picture_folder, validation_share=0.0, show_progress=False)
    assert [caption for caption, _ in evaluate.groups_of(pictures, 9)] == ["varied"]


def test_pictures_that_an_epoch_shows_often_are_judged_once(tmp_path):
    """Else copies of one picture would count as the variety of a caption."""
    for i in range(30):
        folder = tmp_path / ("4_bird" if i < 20 else "1_cat")
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (8 * i, 0, 0)).save(folder / f"{i}.png")
    pictures = CaptionedImages(tmp_path, image_size=32, validation_share=0.0, show_progress=False)
    assert len(pictures) == 90
    config = evaluate.EvaluateConfig(data=str(tmp_path))
    _, _, training, groups = evaluate.test_data(config, pictures, 32)
    assert sorted(training.numbers) == list(range(30))
    assert sorted(caption for caption, _ in groups) == ["bird", "cat"]
    for _, group in groups:
        assert len({p.numpy().tobytes() for p in group}) == evaluate.SEEDS
