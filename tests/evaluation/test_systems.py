"""Protects what is measured beside what: the rivals of a caption, the controls, the seeds."""

from types import SimpleNamespace

import torch

from evaluation import systems
from evaluation.scene_sets import TestSet as SceneSet  # pytest would take it for a test


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
