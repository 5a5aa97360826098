"""Protects the loss functions: right by naive loops, zero where they must be, with gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from losses import (
    colour_loss,
    kl_divergence,
    regression_loss,
    sliced_wasserstein_loss,
    sorted_difference,
)

FILTER_SIZE = 5  # of sliced_wasserstein_loss
FLOOR = 1e-3  # of regression_loss, below the root


def random_pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def wasserstein(drawn: torch.Tensor, real: torch.Tensor, seed: int = 0, **kwargs) -> torch.Tensor:
    return sliced_wasserstein_loss(drawn, real, torch.Generator().manual_seed(seed), **kwargs)


def square_at(row: int, column: int, size: int = 32) -> torch.Tensor:
    """A small two-coloured square in a flat picture. Returns (1, 3, size, size)."""
    picture = torch.full((1, 3, size, size), 0.5)
    picture[:, :, row : row + 6, column : column + 6] = torch.tensor([0.9, -0.7, -0.8])[
        :, None, None
    ]
    picture[:, :, row : row + 3, column + 3 : column + 6] = -0.2
    return picture


def blur(pictures: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def halve(picture: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels by a naive loop; an odd last row or column is left out. (3, H, W)."""
    _, height, width = picture.shape
    half = np.zeros((3, height // 2, width // 2))
    for i in range(height // 2):
        for j in range(width // 2):
            half[:, i, j] = picture[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(axis=(1, 2))
    return half


def patches(picture: np.ndarray) -> np.ndarray:
    """The patches that the filters look at, (number, 75)."""
    _, height, width = picture.shape
    return np.stack(
        [
            picture[:, i : i + FILTER_SIZE, j : j + FILTER_SIZE].ravel()
            for i in range(height - FILTER_SIZE + 1)
            for j in range(width - FILTER_SIZE + 1)
        ]
    )


def naive_wasserstein(
    drawn: torch.Tensor, real: torch.Tensor, seed: int, num_filters: int = 4, num_scales: int = 2
) -> float:
    """One picture and one filter after the other; the random draws are those of the loss."""
    generator = torch.Generator().manual_seed(seed)
    drawn, real = list(drawn.double().numpy()), list(real.double().numpy())
    loss = 0.0
    for _ in range(num_scales):
        shape = (num_filters, 3, FILTER_SIZE, FILTER_SIZE)
        filters = torch.randn(*shape, generator=generator).double().numpy()
        differences = []
        for a, b in zip(drawn, real, strict=True):
            for weights in filters:
                weights = weights - weights.mean()
                weights = weights.ravel() / np.sqrt((weights**2).sum())
                ranked = (np.sort(patches(picture) @ weights) for picture in (a, b))
                differences.append(np.abs(np.subtract(*ranked)).mean())
        loss += np.mean(differences)
        drawn, real = [halve(x) for x in drawn], [halve(x) for x in real]
    return loss


def naive_regression(drawn: torch.Tensor, real: torch.Tensor) -> float:
    losses = []
    for a, b in zip(drawn.double().numpy(), real.double().numpy(), strict=True):
        _, height, width = a.shape
        error, down, right = a - b, [], []
        for c in range(3):
            for i in range(height):
                for j in range(width):
                    if i > 0:
                        down.append((error[c, i, j] - error[c, i - 1, j]) ** 2)
                    if j > 0:
                        right.append((error[c, i, j] - error[c, i, j - 1]) ** 2)
        squared = np.mean(down) + np.mean(right)
        for _ in range(3):  # full, half and quarter size
            squared += np.mean((a - b) ** 2)
            a, b = halve(a), halve(b)
        losses.append(np.sqrt(squared + FLOOR))
    return np.mean(losses)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (3, 3, 12, 8), (1, 3, 10, 14)])
def test_regression_loss_is_what_a_naive_loop_gives(shape):
    drawn, real = random_pictures(*shape, seed=1), random_pictures(*shape, seed=2)
    expected = naive_regression(drawn, real)
    assert regression_loss(drawn, real).item() == pytest.approx(expected, rel=1e-5)


def test_regression_loss_of_equal_pictures_is_its_floor_and_level():
    pictures = random_pictures(2, 3, 16, 16).requires_grad_()
    loss = regression_loss(pictures, pictures.detach().clone())
    loss.backward()
    assert loss.item() == pytest.approx(FLOOR**0.5)
    assert not pictures.grad.any()
    assert regression_loss(pictures + 0.01, pictures) > loss


def test_regression_loss_is_squared_inside_a_picture_and_a_root_over_pictures():
    real, error = random_pictures(2, 3, 16, 16), random_pictures(2, 3, 16, 16, seed=3)
    for a, e in zip(real.split(1), error.split(1), strict=True):
        small, large = (regression_loss(a + k * e, a).item() ** 2 - FLOOR for k in (0.1, 0.4))
        assert large == pytest.approx(16 * small, rel=1e-3)
    drawn = real + error * torch.tensor([0.1, 1.0])[:, None, None, None]
    alone = [
        regression_loss(a, b).item() for a, b in zip(drawn.split(1), real.split(1), strict=True)
    ]
    assert regression_loss(drawn, real).item() == pytest.approx(sum(alone) / 2, rel=1e-5)


def test_regression_loss_of_a_wrong_place_is_more_than_of_a_right_one():
    real = square_at(10, 10)
    assert regression_loss(square_at(10, 16), real) > 1.5 * regression_loss(blur(real), real)


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 3, 14, 18)])
def test_sliced_wasserstein_loss_is_what_a_naive_loop_gives(shape):
    drawn, real = random_pictures(*shape, seed=1), random_pictures(*shape, seed=2) * 0.5
    for seed in range(3):
        expected = naive_wasserstein(drawn, real, seed)
        assert wasserstein(drawn, real, seed).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("settings", [{"num_filters": 2}, {"num_scales": 1}])
def test_filters_and_scales_of_the_sliced_wasserstein_loss_can_be_chosen(settings):
    drawn, real = random_pictures(1, 3, 16, 16, seed=1), random_pictures(1, 3, 16, 16, seed=2)
    expected = naive_wasserstein(drawn, real, 0, **settings)
    assert wasserstein(drawn, real, **settings).item() == pytest.approx(expected, rel=1e-4)
    assert wasserstein(drawn, real).item() != pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("turned", [False, True])
def test_sorted_differences_and_their_gradients_are_those_of_sorting_by_torch(turned):
    a, b = (random_pictures(2, 40, 40, seed=seed).requires_grad_() for seed in (1, 2))
    if turned:  # not contiguous, as responses to pictures in channels_last are not
        a, b = a.transpose(1, 2), b.transpose(1, 2)
    loss = sorted_difference(a, b)
    expected = (a.sort(dim=2).values - b.sort(dim=2).values).abs().mean()
    torch.testing.assert_close(loss, expected)
    gradients = (torch.autograd.grad(x, a)[0] for x in (loss, expected))
    torch.testing.assert_close(*gradients)


def test_sliced_wasserstein_loss_of_equal_pictures_is_zero():
    pictures = random_pictures(2, 3, 16, 16)
    assert wasserstein(pictures, pictures.clone()).item() == 0


def mean_wasserstein(drawn: torch.Tensor, real: torch.Tensor) -> float:
    return np.mean([wasserstein(drawn, real, seed).item() for seed in range(20)])


def test_sliced_wasserstein_loss_does_not_mind_a_move_of_four_pixels():
    """Four pixels are whole steps of the grids at both scales."""
    real = square_at(10, 10)
    blurred = mean_wasserstein(blur(real), real)
    assert blurred > 1e-3
    for row, column in ((14, 10), (10, 14), (14, 18)):
        assert mean_wasserstein(square_at(row, column), real) < 1e-3 * blurred


@pytest.mark.parametrize(("row", "column"), [(12, 10), (10, 8), (14, 16)])
def test_sliced_wasserstein_loss_minds_blur_far_more_than_an_even_move(row, column):
    real = square_at(10, 10)
    moved = mean_wasserstein(square_at(row, column), real)
    assert moved < 0.1 * mean_wasserstein(blur(real), real)


@pytest.mark.parametrize(("row", "column"), [(11, 10), (10, 9)])
def test_an_edge_counts_as_an_edge_even_a_pixel_away(row, column):
    real = square_at(10, 10)
    moved = mean_wasserstein(square_at(row, column), real)
    assert moved < 0.6 * mean_wasserstein(blur(real), real)


def test_sliced_wasserstein_loss_is_larger_the_more_a_picture_is_blurred():
    real = random_pictures(2, 3, 32, 32)
    once, twice = blur(real), blur(blur(real))
    for seed in range(5):
        assert 0 < wasserstein(once, real, seed) < wasserstein(twice, real, seed)


def test_sliced_wasserstein_loss_pairs_each_picture_with_its_own():
    flat, busy = torch.zeros(1, 3, 16, 16), random_pictures(1, 3, 16, 16)
    drawn, real = torch.cat([flat, busy]), torch.cat([busy, flat])
    assert wasserstein(drawn, real) > 0.1  # over the whole batch the patches are the same


def test_sliced_wasserstein_loss_does_not_see_a_flat_change_of_brightness():
    real = random_pictures(1, 3, 16, 16) * 0.5
    assert wasserstein(real + 0.3, real).item() < 1e-5  # zero-mean filters


def test_the_generator_alone_decides_the_filters():
    drawn, real = random_pictures(2, 3, 16, 16, seed=1), random_pictures(2, 3, 16, 16, seed=2)
    torch.manual_seed(0)
    first = wasserstein(drawn, real, seed=5)
    torch.manual_seed(1)
    assert torch.equal(wasserstein(drawn, real, seed=5), first)
    assert not torch.equal(wasserstein(drawn, real, seed=6), first)
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(sliced_wasserstein_loss(drawn, real, generator), first)
    assert not torch.equal(sliced_wasserstein_loss(drawn, real, generator), first)  # fresh ones


@pytest.mark.parametrize("loss", [regression_loss, wasserstein])
def test_gradients_are_finite_and_lead_to_the_real_picture(loss):
    real = random_pictures(2, 3, 16, 16, seed=2)
    drawn = random_pictures(2, 3, 16, 16, seed=1).requires_grad_()
    value = loss(drawn, real)
    value.backward()
    assert value.ndim == 0 and torch.isfinite(drawn.grad).all()
    assert (drawn.grad != 0).float().mean() > 0.5
    assert loss(drawn - 0.01 * drawn.grad / drawn.grad.abs().max(), real) < value
    flat = torch.zeros(1, 3, 16, 16, requires_grad=True)
    loss(flat, torch.zeros(1, 3, 16, 16)).backward()
    assert torch.isfinite(flat.grad).all()


def test_the_price_of_latents_is_the_kullback_leibler_divergence_that_torch_computes():
    mean, log_std = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    told, standard = (
        torch.distributions.Normal(*parameters)
        for parameters in ((mean, log_std.exp()), (torch.zeros(5), torch.ones(5)))
    )
    expected = torch.distributions.kl_divergence(told, standard).sum(dim=1).mean()
    torch.testing.assert_close(kl_divergence(mean, log_std), expected)
    assert kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3)) == 0


def test_colour_loss_sees_colours_and_not_edges():
    real = torch.zeros(1, 3, 8, 8)
    striped = real + torch.tensor([0.5, 0.5, -0.5, -0.5]).repeat(2)
    assert colour_loss(striped, real).item() == pytest.approx(0, abs=1e-6)
    assert colour_loss(real + 0.3, real).item() == pytest.approx(0.3)


def test_dots_do_not_pass_for_plain_colour():
    real = torch.zeros(1, 3, 8, 8)
    dotted = real + torch.tensor([0.5, -0.5]).repeat(4)
    assert colour_loss(dotted, real).item() == pytest.approx(0.5)
