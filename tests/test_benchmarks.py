"""Protects the benchmarks: what they replace in the code is there, and is what it is called."""

import dataclasses

import learning
import objectives
import pytest
import sharpness
import torch

import train
from model import TextToImageModel
from runs import new_state

VARIANTS = {
    **{f"objectives: {name}": (v[0], lambda v=v: v[1]) for name, v in objectives.VARIANTS.items()},
    **{f"sharpness: {name}": ({}, make) for name, make in sharpness.VARIANTS.items()},
    **{f"learning: {name}": v for name, v in learning.VARIANTS.items()},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_name_that_a_benchmark_replaces_is_in_the_code(name):
    settings, make = VARIANTS[name]
    train.TrainConfig(**settings)
    with objectives.replacing(make()):
        pass


def test_channels_of_a_benchmark_are_those_of_the_model():
    config = train.TrainConfig(noise_dim=0)
    usual = new_state(config, {}, ["a red bird"])["model"]["fully_connected.weight"]
    with objectives.replacing(learning.channels(24, 16, 8, 8)):
        few = new_state(config, {}, ["a red bird"])["model"]["fully_connected.weight"]
    assert len(few) == 24 * 4 * 4 < len(usual)


def test_sub_pixels_start_alike():
    with objectives.replacing(learning.SUB_PIXELS):
        state = learning.alike(train.TrainConfig(noise_dim=0), {}, ["a red bird"] * 2)
        model = TextToImageModel()
        model.load_state_dict(state["model"])
        model.config = dataclasses.replace(model.config, halvings=0)
        picture = model.draw(["a red bird"], [0])
    blocks = picture[:, :, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(picture, blocks) and picture.std() > 0


def test_finite_differences_are_the_exact_penalty_in_the_mean():
    generator = torch.Generator().manual_seed(0)
    adversary = learning.CheapAdversary()
    pictures = torch.randn(1, 3, 64, 64, generator=generator).requires_grad_()
    adversary.tokens = torch.tensor([[4, 5, 6]]).repeat(2_000, 1)
    exact = sharpness.TextAdversary.penalty(
        adversary, pictures, adversary.logits(pictures), generator
    )
    with torch.no_grad():
        many = pictures.repeat(2_000, 1, 1, 1)
        same = adversary.logits(pictures).repeat(2_000)
        estimate = adversary.penalty(many, same, generator)
    assert estimate.item() == pytest.approx(exact.item(), rel=0.2)  # 500 noises: 6 % either way
