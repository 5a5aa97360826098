"""Protects evaluate.py as it is used: what it measures on, its controls, what it writes."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from small import SMALL, change_rows, saved

import checkpoint
import evaluate
import scenes
from config import SHIPPED_WEIGHTS, DataConfig, EvaluateConfig, ModelConfig, UserError, data_options
from dataset import CaptionedImages
from evaluation import judges, metrics
from evaluation.systems import SYSTEMS
from model import TextToImageModel, from_uint8
from tokenizer import Tokenizer

FEW = evaluate.QUICK._replace(images=64, resamples=50, distance_resamples=20)


def open_folder(folder, **settings):
    cache = {"cache": "off", "cache_dir": folder.with_name("cache")}
    return CaptionedImages(folder, image_size=32, show_progress=False, **cache, **settings)


def hold_out(folder, name, numbers):
    """Move the images with these numbers into a split, each with a caption of its own."""
    change_rows(folder, lambda i: {"split": name, "text": f"{name} {i}"} if i in numbers else {})


def save_reds(folder, names):
    """Images of different reds, in folders of these names; their level of red is their name too."""
    for i, name in enumerate(names):
        (folder / name).mkdir(exist_ok=True)
        saved(folder / name, Image.new("RGB", (32, 32), (4 * i, 0, 0)), f"{4 * i}.png")


@pytest.fixture(scope="module")
def small_scenes(tmp_path_factory):
    """The scenes, with fewer to train on."""
    cache = {"cache": "off", "cache_dir": tmp_path_factory.mktemp("cache")}
    dataset = CaptionedImages(show_progress=False, **cache)
    dataset.indices = dataset.indices[:1_024]
    return dataset


@pytest.fixture(scope="module")
def evaluated(small_scenes, tmp_path_factory) -> tuple[Path, dict]:
    """The folder that an evaluation of the shipped weights wrote to, and its numbers."""
    folder = tmp_path_factory.mktemp("evaluation")
    panel = judges.read(next(judges.SHIPPED.glob("scenes-*.pth")))
    model = checkpoint.load_model(SHIPPED_WEIGHTS)
    return folder, evaluate.evaluate(model, panel, small_scenes, "test", FEW, folder)


def test_drawings_stand_beside_their_controls(evaluated):
    folder, rows = evaluated
    assert set(rows) == set(SYSTEMS)
    rates = {s: rows[s]["attributes"]["fully_told"]["all"][0] for s in SYSTEMS}
    assert rates["real"] > 0.99 and rates["drawn"] > 0.9
    assert max(rates[control] for control in ("shuffled", "repeated", "retrieved")) < 0.07
    for row in ("unseen_pairs", "three_objects", "relations", "other_patterns", "counts"):
        for judge in ("all", "strict"):
            found = {s: rows[s]["attributes"][row][judge][0] for s in SYSTEMS}
            assert found["real"] > 0.85 and max(found["shuffled"], found["repeated"]) < 0.3
    alone = {s: rows[s]["attributes"]["colour_and_shape_alone"] for s in SYSTEMS}
    assert alone["drawn"]["strict"][0] > alone["as typed"]["strict"][0] + 0.3
    assert alone["drawn"]["share"][0] == alone["drawn"]["strict"][0] / alone["real"]["strict"][0]
    assert set(rows["drawn"]["small_shapes"]) == set(scenes.SHAPES)
    assert min(rate[0] for rate in rows["real"]["small_shapes"].values()) == 1
    assert 0.5 < rows["drawn"]["open"]["place_open"]["diversity"][0] < 2
    assert 0.6 < rows["real"]["diversity"][0] < 1.6 and rows["repeated"]["diversity"][0] == 0
    assert rows["retrieved"]["looks_copied"] and not rows["drawn"]["looks_copied"]
    for figure in ("samples.png", "sheet.png", "closest.png", "prompts.png"):
        assert (folder / figure).stat().st_size > 10_000


def test_the_headline_holds_numbers_with_their_intervals(evaluated, capsys):
    top = evaluate.headline(evaluated[1])
    assert {"fully_told", "unseen_pairs", "relations", "counts", "r_precision_hard", "edge_energy",
            "diversity", "frechet_distance", "frechet_floor"} < set(top)  # fmt: skip
    for value, low, high in top.values():
        assert low <= value <= high
    floor = evaluated[1]["real"]["frechet_distance_judge"]
    assert top["frechet_floor"] == floor and floor[0] > 0.5  # 0 from the measured ones themselves
    evaluate.print_table(evaluated[1])
    assert "fully_told: share" in capsys.readouterr().out


@pytest.mark.slow
def test_two_evaluations_of_the_scenes_write_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = []
    for name in "ab":
        evaluate.main(EvaluateConfig(model=str(SHIPPED_WEIGHTS), quick=True, output=name))
        results.append(json.loads(Path(name, "evaluation.json").read_text()))
        assert results[-1].pop("about")["split"] == "test"
    assert results[0] == results[1]


def test_a_small_collection_can_be_judged_by_judges_of_a_larger_one(image_folder, tmp_path):
    hold_out(image_folder, "validation", range(20))
    model = TextToImageModel(ModelConfig(image_size=32, **SMALL))
    weights, out = tmp_path / "weights.pth", tmp_path / "out"
    torch.save(model.state_dict(), weights)
    with_judges = {"data": str(image_folder), "judges": str(tmp_path / "none.pth")}
    config = EvaluateConfig(model=str(weights), quick=True, output=str(out), **with_judges)
    with pytest.raises(UserError, match="no file .*none.pth"):
        evaluate.main(config)
    with pytest.raises(UserError, match="without --fit-judges"):
        EvaluateConfig(fit_judges=True, **with_judges)

    emoji = next(judges.SHIPPED.glob("emoji-*.pth"))
    result = evaluate.main(dataclasses.replace(config, judges=str(emoji)))
    written = json.loads((out / "evaluation.json").read_text())
    assert written["edge_energy"] == pytest.approx(result["edge_energy"], rel=1e-3)
    assert "fully_told" not in written and (out / "evaluation.png").exists()
    assert (out / "trained_on.png").exists()
    for row in (written["drawn"], written["trained on"]):  # it has learnt nothing
        assert row["text_dependence"][0] == pytest.approx(1, abs=0.1) and row["dots"][0] > 0
        assert row["own_nearest"][0] < 0.5 and row["r_precision_hard"][0] < 0.5
    shown = {n: getattr(model.config, n) for n in ("mask_scale", "latent_temperature")}
    told = {"judges": judges.read(emoji).fingerprint, "split": "validation", "quick": True}
    assert (told | shown).items() <= written["about"].items()


def test_weights_trained_on_other_data_are_not_judged():
    def settings_of(config, **trained):
        return evaluate.trained_with({"config": {"data": "birds"} | trained}, Path("x"), config)

    theirs = {"resize": "nearest", "fit": "pad"}
    assert settings_of(EvaluateConfig(data="birds"), **theirs) == data_options(DataConfig(**theirs))
    config = EvaluateConfig(data="birds", fit="pad", resize="nearest", cache="off")
    theirs = {"resize": "lanczos", "fit": "crop", "format": 7, "follow_links": True,
              "image_dir": "/", "max_megapixels": 1e9}  # fmt: skip
    assert settings_of(config, **theirs) == data_options(config)
    with pytest.raises(UserError, match="was trained on --data birds"):
        settings_of(EvaluateConfig())


def test_test_is_measured_where_there_is_one_unless_another_split_is_asked_for(image_folder):
    def measured(split=""):
        dataset = open_folder(image_folder)
        config = EvaluateConfig(data=str(image_folder), split=split)
        chosen = evaluate.split_to_measure(config, dataset)
        return chosen, sorted(evaluate.gather(dataset, chosen, FEW, 32).tests.captions)

    for name, start in (("validation", 0), ("test", 20)):
        hold_out(image_folder, name, range(start, start + 20))
        captions = sorted(f"{name} {i}" for i in range(start, start + 20))
        assert measured() == measured(name) == (name, captions)
    assert measured("validation")[0] == "validation"
    hold_out(image_folder, "rare", range(40, 45))
    with pytest.raises(UserError, match="holds 5 images of split 'rare': too few"):
        measured("rare")


def test_scenes_are_reported_on_test_tuned_on_validation_and_never_measured_on_train(small_scenes):
    for split, measured in (("", "test"), ("validation", "validation")):
        assert evaluate.split_to_measure(EvaluateConfig(split=split), small_scenes) == measured
    for data, split in (("", "unseen"), ("birds", "train")):
        with pytest.raises(UserError, match="kept out of training"):
            EvaluateConfig(data=data, split=split)


@pytest.mark.parametrize("num, is_held_out", [(20, False), (10, True)])
def test_the_reference_shares_no_image_with_the_test_set(tmp_path, num, is_held_out):
    save_reds(tmp_path, ["validation"] * 20 + ["train"] * 40)
    dataset = open_folder(tmp_path, caption_from="filename")
    amounts = FEW._replace(images=num)
    (_, real, _), reference, *_ = evaluate.gather(dataset, "validation", amounts, 32)
    red = [set(x[:, 0, 0, 0].tolist()) for x in (real, reference)]
    assert not red[0] & red[1] and len(red[0]) == len(red[1]) == num
    assert (max(red[1]) < 4 * 20) == is_held_out


def test_copies_are_looked_for_among_all_training_images(image_folder):
    """Also where captions are compared with a part of them only."""
    dataset = open_folder(image_folder)
    training = evaluate.gather(dataset, "validation", FEW._replace(captions=5), 32).training
    assert len(training.captions) == len(training.numbers) == 5
    seen = evaluate.thumbnails_of(training.images)
    assert len(seen) == len(dataset)
    last = dataset.batch([len(dataset) - 1])[0]
    _, distance, number = metrics.memorisation(last, last, seen)
    assert distance.item() == 0
    assert torch.equal(dataset.batch(number.tolist())[0], last)  # it, or one that is equal


def test_a_caption_twice_at_one_image_or_on_equal_images_makes_no_group(image_folder):
    texts = {0: ["twice", "twice"], 1: "varied", 2: "varied", 16: "equal", 32: "equal"}
    change_rows(image_folder, lambda i: {"text": texts.get(i, f"{i}")})
    dataset = open_folder(image_folder, validation_fraction=0.0)
    assert [caption for caption, _ in evaluate.groups_of(dataset, 9)] == ["varied"]


def test_images_that_an_epoch_shows_often_are_judged_once(tmp_path):
    """Else copies of one image would count as the variety of a caption."""
    save_reds(tmp_path, ["4_bird"] * 20 + ["1_cat"] * 10)
    dataset = open_folder(tmp_path, validation_fraction=0.0)
    assert len(dataset) == 90
    _, _, training, groups = evaluate.gather(dataset, "train", FEW, 32)
    assert sorted(training.numbers) == list(range(30))
    assert sorted(caption for caption, _ in groups) == ["bird", "cat"]
    for _, group in groups:
        assert len({p.numpy().tobytes() for p in group}) == evaluate.NUM_SEEDS


def test_short_prompts_are_parts_of_held_out_captions_and_kept_where_the_image_is_found(
    image_folder,
):
    """Who draws the image that a prompt was taken from keeps all its words."""
    dataset = open_folder(image_folder)
    held_out = dataset.other_split("validation")
    prompts = evaluate.short_prompts(held_out, 20)
    known = set(" ".join(dataset.captions() + held_out.captions()).split())
    assert all(0 < len(p.split()) <= 3 and set(p.split()) <= known for p in prompts)

    def draw(captions, seeds):
        images = held_out.batch([prompts.index(c) * len(held_out) // 20 for c in captions])[0]
        return from_uint8(images)

    tokenizer = Tokenizer.learn(["green and then blue"], min_count=1)  # red is unknown
    model = SimpleNamespace(
        completer=True, complete=lambda prompts, seeds: prompts, draw=draw, tokenizer=tokenizer
    )
    seen = evaluate.thumbnails_of(dataset.once())
    found = evaluate.prompts_kept(model, dataset, "validation", prompts, seen, FEW)
    assert set(found) == {"drawn", "as typed", "shuffled"}
    assert found["drawn"]["prompts_kept"][0] == 1 > found["shuffled"]["prompts_kept"][0]

    # Who draws something else where a word is unknown keeps all prompts of known words.
    model.draw = lambda captions, seeds: draw(
        ["green" if tokenizer.unknown_words(c) else c for c in captions], seeds
    )
    found = evaluate.prompts_kept(model, dataset, "validation", prompts, seen, FEW)["drawn"]
    assert found["known_prompts_kept"][0] == 1 > found["prompts_kept"][0]
