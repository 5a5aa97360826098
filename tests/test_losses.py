"""Protects the loss functions: right by plain numpy, zero where they must be, with gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal

import losses
from losses import (
    colour_loss,
    draw_filters,
    kl_divergence,
    regression_loss,
    sliced_wasserstein_loss,
)

FLOOR = 1e-3  # of regression_loss, below the root


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def wasserstein(drawn: Tensor, real: Tensor, seed: int = 0, **kwargs) -> Tensor:
    filters = draw_filters(torch.Generator().manual_seed(seed), **kwargs)
    return sliced_wasserstein_loss(drawn, real, filters)


def mean_wasserstein(drawn: Tensor, real: Tensor) -> float:
    return np.mean([wasserstein(drawn, real, seed).item() for seed in range(20)])


def square_at(row: int, column: int) -> Tensor:
    """A small two-coloured square in a flat image. Returns (1, 3, 32, 32)."""
    image = torch.full((1, 3, 32, 32), 0.5)
    image[:, :, row : row + 6, column : column + 6] = torch.tensor([0.9, -0.7, -0.8])[:, None, None]
    image[:, :, row : row + 3, column + 3 : column + 6] = -0.2
    return image


def blur(images: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def halve(image: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels (3, H, W); an odd last row or column is left out."""
    height, width = (n // 2 for n in image.shape[1:])
    blocks = image[:, : 2 * height, : 2 * width].reshape(3, height, 2, width, 2)
    return blocks.mean(axis=(2, 4))


def numpy_wasserstein(a: np.ndarray, b: np.ndarray, seed=0, num_filters=4, num_scales=2):
    """Of one image; the random draws are those of the loss."""
    generator, loss = torch.Generator().manual_seed(seed), 0.0
    for _ in range(num_scales):
        filters = torch.randn(num_filters, 3, 5, 5, generator=generator).double().flatten(1).numpy()
        for weights in filters - filters.mean(axis=1, keepdims=True):
            weights = weights / np.sqrt((weights**2).sum())
            ranked = (np.sort(np.lib.stride_tricks.sliding_window_view(x, (3, 5, 5)).reshape(-1, 75)
                              @ weights) for x in (a, b))  # fmt: skip
            loss += np.abs(np.subtract(*ranked)).mean() / num_filters
        a, b = halve(a), halve(b)
    return loss


def numpy_regression(a: np.ndarray, b: np.ndarray) -> float:
    """Of one image."""
    squared = sum(8 * np.mean(np.diff(a - b, axis=axis) ** 2) for axis in (1, 2))
    for _ in range(3):  # full, half and quarter size
        squared += np.mean((a - b) ** 2)
        a, b = halve(a), halve(b)
    return np.sqrt(squared + FLOOR)


@pytest.mark.parametrize("loss, reference, settings", [
    (regression_loss, numpy_regression, {}),
    (wasserstein, numpy_wasserstein, {"seed": 1}),
    (wasserstein, numpy_wasserstein, {"num_filters": 2}),
    (wasserstein, numpy_wasserstein, {"num_scales": 1}),
])  # fmt: skip
@pytest.mark.parametrize("shape", [(2, 3, 16, 12), (1, 3, 14, 18)])
def test_losses_are_what_numpy_gives_for_each_image(loss, reference, settings, shape):
    drawn, real = random_images(*shape, seed=1), random_images(*shape, seed=2) * 0.5
    pairs = zip(drawn.double().numpy(), real.double().numpy(), strict=True)
    expected = np.mean([reference(a, b, **settings) for a, b in pairs])
    assert loss(drawn, real, **settings).item() == pytest.approx(expected, rel=2e-5)


def test_regression_loss_of_equal_images_is_its_floor_and_level():
    images = random_images(2, 3, 16, 16).requires_grad_()
    loss = regression_loss(images, images.detach().clone())
    loss.backward()
    assert loss.item() == pytest.approx(FLOOR**0.5)
    assert not images.grad.any()
    assert regression_loss(images + 0.01, images) > loss


@pytest.mark.parametrize("turned", [False, True])
def test_sorted_differences_and_their_gradients_are_those_of_sorting_by_torch(turned):
    a, b = (random_images(2, 40, 40, seed=seed).requires_grad_() for seed in (1, 2))
    if turned:  # not contiguous, as responses to images in channels_last are not
        a, b = a.transpose(1, 2), b.transpose(1, 2)
    loss = losses.sorted_difference(a, b)
    expected = (a.sort(dim=2).values - b.sort(dim=2).values).abs().mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, a)[0] for x in (loss, expected)))


@pytest.mark.parametrize("bound, moved_to", [
    (1e-3, [(14, 10), (10, 14), (14, 18)]),  # whole steps of the grids at both scales
    (0.1, [(12, 10), (10, 8), (14, 16)]),
    (0.6, [(11, 10), (10, 9)]),  # an edge counts as an edge even a pixel away
])  # fmt: skip
def test_sliced_wasserstein_loss_minds_blur_and_regression_loss_the_place(bound, moved_to):
    real = square_at(10, 10)
    blurred = mean_wasserstein(blur(real), real)
    assert 1e-3 < blurred < mean_wasserstein(blur(blur(real)), real)
    for row, column in moved_to:
        assert mean_wasserstein(square_at(row, column), real) < bound * blurred
    assert regression_loss(square_at(10, 16), real) > 1.5 * regression_loss(blur(real), real)


def test_the_generator_alone_decides_the_filters():
    drawn, real = random_images(2, 3, 16, 16, seed=1), random_images(2, 3, 16, 16, seed=2)
    generator = torch.Generator().manual_seed(5)
    first, second = (
        sliced_wasserstein_loss(drawn, real, draw_filters(generator)) for _ in range(2)
    )
    assert not torch.equal(first, second)  # fresh ones at each call
    torch.manual_seed(1)
    assert torch.equal(wasserstein(drawn, real, seed=5), first)


@pytest.mark.parametrize("loss", [regression_loss, wasserstein])
def test_gradients_are_finite_and_lead_to_the_real_image(loss):
    real = random_images(2, 3, 16, 16, seed=2)
    drawn = random_images(2, 3, 16, 16, seed=1).requires_grad_()
    value = loss(drawn, real)
    value.backward()
    assert value.ndim == 0 and drawn.grad.isfinite().all()
    assert (drawn.grad != 0).float().mean() > 0.5
    assert loss(drawn - 0.01 * drawn.grad / drawn.grad.abs().max(), real) < value
    flat = torch.zeros(1, 3, 16, 16, requires_grad=True)
    loss(flat, torch.zeros(1, 3, 16, 16)).backward()
    assert torch.isfinite(flat.grad).all()


def test_the_price_of_latents_is_the_kullback_leibler_divergence_that_torch_computes():
    mean, log_std = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    told, standard = Normal(mean, log_std.exp()), Normal(torch.zeros(5), torch.ones(5))
    expected = torch.distributions.kl_divergence(told, standard).sum(dim=1).mean()
    torch.testing.assert_close(kl_divergence(mean, log_std), expected)
    assert kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3)) == 0


@pytest.mark.parametrize("change, seen, is_in_patches", [
    ([0.3, 0.3, 0.3, 0.3], 0.3, False),  # filters have zero mean
    ([0.5, 0.5, -0.5, -0.5], 0.0, True),
    ([0.5, -0.5, 0.5, -0.5], 0.5, True),  # dots do not pass for plain colour
    ([0.0, 0.0, 0.0, 0.0], 0.0, False),
])  # fmt: skip
def test_colour_loss_sees_what_the_patches_do_not_and_no_edges(change, seen, is_in_patches):
    real = random_images(1, 3, 16, 16) * 0.5
    drawn = real + torch.tensor(change).repeat(4)
    assert colour_loss(drawn, real).item() == pytest.approx(seen, abs=1e-6)
    assert (wasserstein(drawn, real).item() > 1e-5) == is_in_patches
