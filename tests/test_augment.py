"""Protects augmentation: what is told to the generator is what was done, and 0 is nothing done."""

import pytest
import torch

import augment as augmentation
from augment import augment
from model import AUGMENTATION_DIM, from_uint8

NOISE, DOWN, RIGHT, MIRROR = 4, 5, 6, 7  # columns of the parameters


def random_pictures(num: int, height: int = 16, width: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, 3, height, width), dtype=torch.uint8, generator=generator)


def flat_pictures(num: int) -> torch.Tensor:
    """One colour each, far enough from black and white that no change of it is clamped."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(96, 160, (num, 3, 1, 1), dtype=torch.uint8, generator=generator)
    return colours.expand(-1, -1, 16, 16)


def vary(pictures: torch.Tensor, share: float = 1.0, flip: bool = False, seed: int = 0):
    return augment(pictures, share, flip, torch.Generator().manual_seed(seed))


def only(monkeypatch, *kept: str) -> None:
    """Switch off every change of the pixels' values but these."""
    for name in {"BRIGHTNESS", "CONTRAST", "SATURATION", "WARMTH", "NOISE"} - set(kept):
        monkeypatch.setattr(augmentation, name, 0.0)


def test_share_0_is_exactly_the_pictures_with_zero_parameters():
    pictures = random_pictures(64)
    x, parameters = vary(pictures, share=0)
    assert torch.equal(x, from_uint8(pictures))
    assert torch.equal(parameters, torch.zeros(64, AUGMENTATION_DIM))


def test_the_share_is_varied_and_the_rest_is_exactly_untouched():
    pictures = random_pictures(2_000, 8, 8)
    for share in (0.2, 0.7):
        x, parameters = vary(pictures, share)
        varied = (parameters != 0).any(dim=1)
        assert varied.float().mean().item() == pytest.approx(share, abs=0.05)
        assert torch.equal(x[~varied], from_uint8(pictures[~varied]))
        changed = (x[varied] - from_uint8(pictures[varied])).abs().amax(dim=(1, 2, 3)) > 1e-3
        assert changed.all()


def test_share_1_varies_every_picture_in_every_way():
    _, parameters = vary(random_pictures(500), share=1, flip=True)
    assert (parameters[:, :5] != 0).all()
    for column in range(AUGMENTATION_DIM):
        assert parameters[:, column].unique().numel() > 1


def test_the_same_seed_gives_the_same_and_another_seed_another_variation():
    pictures = random_pictures(8)
    torch.manual_seed(0)
    x, parameters = vary(pictures, 0.5, True, seed=3)
    torch.manual_seed(1)  # the global generator has no say
    again = vary(pictures, 0.5, True, seed=3)
    assert torch.equal(x, again[0]) and torch.equal(parameters, again[1])
    other = vary(pictures, 0.5, True, seed=4)
    assert not torch.equal(x, other[0]) and not torch.equal(parameters, other[1])


@pytest.mark.parametrize("pictures", [random_pictures(64), random_pictures(64) // 128 * 255])
def test_pictures_and_parameters_stay_in_their_range(pictures):
    before = pictures.clone()
    x, parameters = vary(pictures, 1.0, True)
    assert x.shape == pictures.shape and x.dtype == torch.float32
    assert parameters.shape == (64, AUGMENTATION_DIM) and parameters.dtype == torch.float32
    assert x.abs().max() <= 1 and parameters.abs().max() <= 1
    assert (parameters[:, NOISE] >= 0).all()
    assert torch.equal(pictures, before)


@pytest.mark.parametrize(("height", "width", "steps"), [(32, 32, 1), (64, 64, 2), (40, 96, 3)])
@pytest.mark.parametrize("flip", [False, True])
def test_the_parameters_tell_the_true_shift_and_mirroring(monkeypatch, height, width, steps, flip):
    only(monkeypatch)
    pictures = random_pictures(12, height, width)
    x, parameters = vary(pictures, flip=flip)
    expected = torch.empty_like(x)
    for b in range(len(pictures)):
        source = from_uint8(pictures[b])
        if parameters[b, MIRROR]:
            source = source.flip(2)
        down, right = (parameters[b, [DOWN, RIGHT]] * steps).tolist()
        assert down == round(down) and right == round(right)
        for i in range(height):
            for j in range(width):
                row = min(max(i - round(down), 0), height - 1)
                column = min(max(j - round(right), 0), width - 1)
                expected[b, :, i, j] = source[:, row, column]
    assert torch.allclose(x, expected, atol=1e-6)
    assert parameters[:, [DOWN, RIGHT]].unique().numel() == 2 * steps + 1
    assert (parameters[:, MIRROR].unique().numel() == 2) == flip


def test_mirroring_is_exact_and_the_parameters_say_so():
    pictures = random_pictures(400)
    x, parameters = vary(pictures, share=0, flip=True)
    mirrored = parameters[:, MIRROR] == 1
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert torch.equal(x[mirrored], from_uint8(pictures[mirrored]).flip(3))
    assert torch.equal(x[~mirrored], from_uint8(pictures[~mirrored]))
    assert not parameters[~mirrored].any() and not parameters[:, :MIRROR].any()


def test_the_parameters_tell_the_true_brightness(monkeypatch):
    only(monkeypatch, "BRIGHTNESS")
    x, parameters = vary(flat_pictures(50))
    change = x - from_uint8(flat_pictures(50))
    told = augmentation.BRIGHTNESS * parameters[:, 0, None, None, None]
    assert torch.allclose(change, told.expand_as(change), atol=1e-6)


def test_the_parameters_tell_the_true_contrast(monkeypatch):
    only(monkeypatch, "CONTRAST")
    x, parameters = vary(flat_pictures(50))
    told = 1 + augmentation.CONTRAST * parameters[:, 1, None, None, None]
    assert torch.allclose(x, from_uint8(flat_pictures(50)) * told, atol=1e-6)


def test_the_parameters_tell_the_true_saturation(monkeypatch):
    only(monkeypatch, "SATURATION")
    before, (x, parameters) = from_uint8(flat_pictures(50)), vary(flat_pictures(50))
    assert torch.allclose(x.mean(dim=1), before.mean(dim=1), atol=1e-6)  # gray stays gray
    told = 1 + augmentation.SATURATION * parameters[:, 2, None, None]
    for a, b in ((0, 1), (1, 2)):  # differences of the colours grow by it
        assert torch.allclose(x[:, a] - x[:, b], (before[:, a] - before[:, b]) * told, atol=1e-6)


def test_the_parameters_tell_the_true_warmth(monkeypatch):
    only(monkeypatch, "WARMTH")
    x, parameters = vary(flat_pictures(50))
    red, green, blue = (x - from_uint8(flat_pictures(50))).unbind(dim=1)
    told = (augmentation.WARMTH * parameters[:, 3, None, None]).expand_as(red)
    assert torch.allclose(red, told, atol=1e-6)
    assert torch.allclose(green, torch.zeros_like(green), atol=1e-6)
    assert torch.allclose(blue, -told, atol=1e-6)


def test_the_parameters_tell_the_true_strength_of_the_noise(monkeypatch):
    only(monkeypatch, "NOISE")
    x, parameters = vary(flat_pictures(50))
    measured = (x - from_uint8(flat_pictures(50))).flatten(1).std(dim=1)
    assert torch.allclose(measured, augmentation.NOISE * parameters[:, NOISE], rtol=0.2, atol=1e-4)
