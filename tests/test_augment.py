"""Protects augmentation: what is told to the generator is what was done, and 0 is nothing done."""

import pytest
import torch

import dataset
from config import AUGMENTATIONS
from dataset import augment
from model import from_uint8

NOISE, DOWN, RIGHT, MIRROR = map(AUGMENTATIONS.index, ("noise", "down", "right", "mirror"))


def random_images(num: int, height: int = 16, width: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, 3, height, width), dtype=torch.uint8, generator=generator)


def flat_images(num: int) -> torch.Tensor:
    """One colour each, far enough from black and white that no change of it is clamped."""
    return (96 + random_images(num, 1, 1) // 4).expand(-1, -1, 16, 16)


def vary(images: torch.Tensor, fraction: float = 1.0, flip: bool = False, seed: int = 0):
    return augment(images, fraction, flip, torch.Generator().manual_seed(seed))


def only(monkeypatch, *kept: str) -> None:
    """Switch off every change of the pixels' values but these."""
    for name in {"brightness", "contrast", "saturation", "warmth", "noise"} - set(kept):
        monkeypatch.setattr(dataset, name.upper(), 0.0)


@pytest.mark.parametrize("fraction", [0, 0.2, 0.7, 1])
def test_the_fraction_is_varied_in_every_way_and_the_rest_is_exactly_untouched(fraction):
    images = random_images(2_000, 8, 8)
    x, parameters = vary(images, fraction)
    varied = (parameters != 0).any(dim=1)
    tolerance = 0.05 if 0 < fraction < 1 else 0
    assert varied.float().mean().item() == pytest.approx(fraction, abs=tolerance)
    assert torch.equal(x[~varied], from_uint8(images[~varied]))
    assert ((x - from_uint8(images))[varied].abs().amax(dim=(1, 2, 3)) > 1e-3).all()
    assert (parameters[varied, :5] != 0).all()
    for column in parameters[varied, :MIRROR].T if fraction else ():
        assert column.unique().numel() > 1


def test_the_same_seed_gives_the_same_and_another_seed_another_variation():
    images = random_images(8)
    x, parameters = vary(images, 0.5, True, seed=3)
    torch.manual_seed(1)  # the global generator has no say
    again, other = (vary(images, 0.5, True, seed) for seed in (3, 4))
    assert torch.equal(x, again[0]) and torch.equal(parameters, again[1])
    assert not torch.equal(x, other[0]) and not torch.equal(parameters, other[1])


@pytest.mark.parametrize("images", [random_images(64), random_images(64) // 128 * 255])
def test_images_and_parameters_stay_in_their_range(images):
    before = images.clone()
    x, parameters = vary(images, 1.0, True)
    assert x.shape == images.shape and parameters.shape == (64, len(AUGMENTATIONS))
    assert x.dtype == parameters.dtype == torch.float32 and torch.equal(images, before)
    assert x.abs().max() <= 1 and parameters.abs().max() <= 1 and parameters[:, NOISE].min() >= 0


@pytest.mark.parametrize("height, width, steps", [(32, 32, 1), (64, 64, 2), (40, 96, 3)])
@pytest.mark.parametrize("flip", [False, True])
def test_the_parameters_tell_the_true_shift_and_mirroring(monkeypatch, height, width, steps, flip):
    only(monkeypatch)
    images = random_images(12, height, width)
    x, parameters = vary(images, flip=flip)
    for image, drawn, told in zip(from_uint8(images), x, parameters, strict=True):
        down, right = (told[[DOWN, RIGHT]] * steps).tolist()
        assert down == round(down) and right == round(right)
        rows = (torch.arange(height) - round(down)).clamp(0, height - 1)
        columns = (torch.arange(width) - round(right)).clamp(0, width - 1)
        image = image.flip(2) if told[MIRROR] else image
        assert torch.allclose(drawn, image[:, rows][:, :, columns], atol=1e-6)
    assert parameters[:, [DOWN, RIGHT]].unique().numel() == 2 * steps + 1
    assert (parameters[:, MIRROR].unique().numel() == 2) == flip


def test_mirroring_is_exact_and_the_parameters_say_so():
    images = random_images(400)
    x, parameters = vary(images, fraction=0, flip=True)
    mirrored = parameters[:, MIRROR] == 1
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert torch.equal(x[mirrored], from_uint8(images[mirrored]).flip(3))
    assert torch.equal(x[~mirrored], from_uint8(images[~mirrored]))
    assert not parameters[~mirrored].any() and not parameters[:, :MIRROR].any()


@pytest.mark.parametrize("name, change", [
    ("brightness", lambda x, told: x + told),
    ("contrast", lambda x, told: x * (1 + told)),
    ("saturation", lambda x, told: x + (x - x.mean(dim=1, keepdim=True)) * told),
    ("warmth", lambda x, told: x + told * torch.tensor([1.0, 0.0, -1.0])[:, None, None]),
])  # fmt: skip
def test_the_parameters_tell_the_true_change_of_colours(monkeypatch, name, change):
    only(monkeypatch, name)
    x, parameters = vary(flat_images(50))
    strength = getattr(dataset, name.upper()) * parameters[:, AUGMENTATIONS.index(name)]
    expected = change(from_uint8(flat_images(50)), strength[:, None, None, None])
    assert torch.allclose(x, expected, atol=1e-6)


def test_the_parameters_tell_the_true_strength_of_the_noise(monkeypatch):
    only(monkeypatch, "noise")
    x, parameters = vary(flat_images(50))
    measured = (x - from_uint8(flat_images(50))).flatten(1).std(dim=1)
    assert torch.allclose(measured, dataset.NOISE * parameters[:, NOISE], rtol=0.2, atol=1e-4)
