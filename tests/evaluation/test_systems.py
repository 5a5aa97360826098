"""Protects what is measured beside what: the rivals of a caption, the controls, the seeds."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from evaluation import systems
from evaluation.scene_sets import TestSet as SceneSet  # pytest would take it for a test
from reports import figures
from tokenizer import Tokenizer


def test_captions_of_training_are_rivals_and_the_own_one_never_is():
    captions, real = ["a star", "a star", "a moon"], torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    tests, seen = SceneSet(captions, real, []), ["a moon", "a red moon", "a star"]
    encoder = SimpleNamespace(
        embed_captions=lambda captions: torch.tensor([[float(len(c)), 1.0] for c in captions]),
        embed_images=lambda images: images.flatten(1)[:, :64],
    )
    evaluation = systems.Evaluation(encoder, tests, real, seen)
    assert evaluation.candidates == ["a star", "a moon", "a red moon"]
    assert evaluation.own.tolist() == [0, 0, 1]
    assert evaluation.words.shape == (3, 3) and len(evaluation.embedded) == 3


def paint(prompts, seeds):
    """A flat gray decided by the seed."""
    gray = torch.tensor([s * 37 % 256 / 127.5 - 1 for s in seeds])
    return gray[:, None, None, None].expand(-1, 3, 8, 8)


def complete(prompts, seeds):
    return [f"{prompt} {seed}" for prompt, seed in zip(prompts, seeds, strict=True)]


PAINTER = SimpleNamespace(draw=paint, complete=complete, completer=True)


def test_every_seed_is_drawn_however_many_are_drawn_at_once():
    gray = systems.draw(PAINTER, [""] * 130, list(range(130)))[:, 0, 0, 0]
    assert gray.tolist() == [seed * 37 % 256 for seed in range(130)]


def test_captions_are_completed_before_they_are_drawn_unless_drawn_as_typed():
    drawn = []
    model = SimpleNamespace(
        complete=complete, draw=lambda captions, seeds: drawn.extend(captions) or paint([], seeds)
    )
    systems.draw(model, ["a", "b"], [0, 1])
    systems.draw(model, ["a", "b"], [0, 1], complete=False)
    assert drawn == ["a 0", "b 1", "a", "b"]


def test_every_caption_is_drawn_again_with_the_same_seeds():
    drawn = systems.draw_again(PAINTER, ["a", "b", "c"], 5)
    assert drawn.shape == (3, 5, 3, 8, 8)
    assert drawn[:, :, 0, 0, 0].tolist() == [[seed * 37 for seed in range(5)]] * 3


class Few(list):
    """Captions with images of 8 pixels, as a CaptionedImages."""

    def batch(self, numbers):
        images = torch.zeros(len(numbers), 3, 8, 8, dtype=torch.uint8)
        return images, [(self[i],) for i in numbers]


def sheet_of(monkeypatch, noise_dim: int, **more) -> tuple[list[figures.Block], str]:
    """What save_samples puts on a sheet."""
    told = []
    monkeypatch.setattr(figures, "save_blocks", lambda *arguments: told.extend(arguments))
    words = Tokenizer.learn(["a red star"], min_count=1)
    config = SimpleNamespace(noise_dim=noise_dim)
    model = SimpleNamespace(draw=paint, config=config, tokenizer=words)
    systems.save_samples(Path("x.png"), model, Few(["a blue star", "a star"]), "title", **more)
    _, blocks, title = told
    return blocks, title


def test_a_sheet_shows_captions_trained_on_beside_those_held_out(monkeypatch):
    blocks, title = sheet_of(monkeypatch, 8, training=Few(["a red star"] * 20))
    assert [block.heading for block in blocks] == ["Held out", "Trained on"]
    assert [block.captions for block in blocks] == [
        ["a [blue] star", "a star"], ["a red star"] * systems.NUM_TRAINED_ON
    ]  # fmt: skip
    assert "[words] in brackets are unknown" in title
    (block,), _ = sheet_of(monkeypatch, 8)
    assert block.heading == ""


def test_a_row_is_drawn_again_only_where_the_seed_changes_it(monkeypatch):
    (block,), _ = sheet_of(monkeypatch, 8)
    assert list(block.rows) == ["real", "drawn, seed 0", "drawn, seed 1"]
    assert not torch.equal(*list(block.rows.values())[1:])
    (block,), _ = sheet_of(monkeypatch, 0)
    assert list(block.rows) == ["real", "drawn"]


@pytest.mark.parametrize(
    "caption, marked",
    [
        ("A Red Star, a star.", "A Red Star, a star."),
        ("A Blue star, (nice) in a 3rd red", "A [Blue] star, ([nice]) [in] a [3][rd] red"),
        ("redder a red reds", "[redder] a red [reds]"),
        ("don\u2019t a", "[don\u2019t] a"),
        ("\u7ea2 star", "[\u7ea2] star"),
        ("", ""),
    ],
)
def test_unknown_words_are_marked_and_all_else_stays_as_it_is_written(caption, marked):
    assert systems.mark_unknown(caption, Tokenizer.learn(["a red star"], min_count=1)) == marked


def test_examples_of_a_batch_are_as_small_as_they_were_and_without_hidden_words():
    words = Tokenizer.learn(["a red star"], min_count=1)
    ids = words.encode("a blue star")
    batch = SimpleNamespace(images=torch.ones(20, 3, 8, 8), tokens=torch.tensor([ids] * 20))
    model = SimpleNamespace(halvings=1, tokenizer=words)
    images, captions = systems.examples_of(batch, model)
    assert images.shape == (systems.NUM_SAMPLES, 3, 4, 4) and (images == 255).all()
    assert captions == ["a <unk> star"] * systems.NUM_SAMPLES
