"""Distances, ratios and intervals, on cases whose answers are known."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import metrics
from dataset import CaptionedImages


def gaussian(num, dim, seed, mean=0.0, scale=1.0):
    rng = torch.Generator().manual_seed(seed)
    return mean + scale * torch.randn(num, dim, generator=rng)


def checkerboard(num=4, size=32):
    rows = torch.arange(size)
    return ((rows[:, None] + rows) % 2 * 2.0 - 1).expand(num, 3, size, size).clone()


def test_frechet_distance_of_a_set_from_itself_is_zero():
    x = gaussian(500, 16, 0)
    assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_of_shifted_and_scaled_gaussians_has_the_closed_form():
    a, b = gaussian(40_000, 8, 0), gaussian(40_000, 8, 1, mean=0.5, scale=2.0)
    expected = 8 * 0.5**2 + 8 * (2 - 1) ** 2  # |difference of means|^2 + sum of (s - s')^2
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=0.03)


def test_frechet_distance_agrees_with_the_eigenvalues_of_the_product():
    mixing = gaussian(6, 6, 2)
    a, b = gaussian(300, 6, 0) @ mixing, gaussian(200, 6, 1, mean=0.3)
    (ma, ca), (mb, cb) = ((x.numpy().mean(0), np.cov(x.numpy().T)) for x in (a, b))
    cross = np.sqrt(np.linalg.eigvals(ca @ cb).clip(0).real).sum()
    expected = ((ma - mb) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * cross
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)


def test_kernel_distance_agrees_with_the_sums_written_out():
    a, b = gaussian(7, 3, 0).double(), gaussian(9, 3, 1, mean=1.0).double()

    def kernel(x, y):
        return (float(x @ y) / 3 + 1) ** 3

    within = sum(
        sum(kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j)
        / (len(s) * (len(s) - 1))
        for s in (a, b)
    )
    between = sum(kernel(x, y) for x in a for y in b) / (len(a) * len(b))
    assert metrics.kernel_distance(a, b) == pytest.approx(within - 2 * between, rel=1e-9)


def test_kernel_distance_of_two_samples_of_one_distribution_is_about_zero_on_average():
    pairs = [(gaussian(60, 4, i), gaussian(60, 4, 99 + i)) for i in range(40)]
    values = [metrics.kernel_distance(a, b) for a, b in pairs]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(40)


def test_density_and_coverage_of_one_distribution_are_near_one():
    density, coverage = metrics.density_and_coverage(gaussian(1000, 4, 0), gaussian(1000, 4, 1))
    assert density == pytest.approx(1, abs=0.1)
    assert coverage == pytest.approx(1 - 2**-metrics.NEIGHBOURS, abs=0.03)


def test_a_single_picture_again_and_again_covers_nothing():
    real = gaussian(500, 4, 0)
    assert metrics.density_and_coverage(real, real[:1].expand(500, 4))[1] < 0.05


def test_edge_energy_counts_squared_steps_between_neighbours():
    step = torch.zeros(1, 3, 8, 8)
    step[..., 4:] = 1.0  # one of the 7 differences to the right is 1 in each line
    assert metrics.edge_energy(step).item() == pytest.approx(1 / 7)


def test_blurred_pictures_have_lower_edge_energy_and_lower_high_frequencies():
    sharp = gaussian(4, 3 * 32 * 32, 0).view(4, 3, 32, 32)
    blurred = F.avg_pool2d(F.pad(sharp, (1, 1, 1, 1), mode="circular"), 3, 1)
    for energy in (metrics.edge_energy, metrics.high_frequency_energy):
        assert (energy(blurred) < 0.5 * energy(sharp)).all()


def test_only_frequencies_above_half_the_highest_count_as_high():
    waves = torch.arange(32) * 2 * math.pi / 32
    slow, fast = (torch.cos(k * waves).expand(1, 3, 32, 32) for k in (4, 12))
    assert metrics.high_frequency_energy(slow).item() == pytest.approx(0, abs=1e-6)
    assert metrics.high_frequency_energy(fast).item() > 0.01
    assert metrics.high_frequency_energy(checkerboard()).min() > 0.01


def test_variance_over_seeds_is_that_of_numpy():
    x = gaussian(5 * 7, 3, 0).view(5, 7, 3)
    expected = x.numpy().var(axis=1, ddof=1).mean(axis=1)
    assert np.allclose(metrics.variance_over_seeds(x), expected, atol=1e-6)


def test_nearest_finds_the_copy():
    among = metrics.thumbnails(torch.rand(600, 3, 32, 32) * 2 - 1)
    distance, number = metrics.nearest(among[[17, 599]], among)
    assert number.tolist() == [17, 599]
    assert not distance.any()


def test_random_features_are_the_same_at_every_call_and_leave_torchs_generator_alone():
    pictures = torch.rand(3, 3, 64, 64)
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    a, b = metrics.random_features(pictures), metrics.random_features(pictures)
    assert torch.equal(a, b) and a.shape == (3, 64)
    assert torch.equal(torch.rand(1), before)


def test_random_features_see_where_things_are():
    left = torch.ones(1, 3, 64, 64)
    left[..., :32] = -1
    assert (metrics.random_features(left) - metrics.random_features(left.flip(3))).norm() > 1


def test_bootstrap_intervals_hold_the_true_mean_about_as_often_as_they_say():
    holds = []
    for seed in range(100):
        value, low, high = metrics.bootstrap(metrics.mean, gaussian(200, 1, seed), resamples=200)
        assert low < value < high
        holds.append(low < 0 < high)
    assert 85 <= sum(holds) <= 100


def test_limits_of_what_is_never_negative_are_not_either():
    rare = (torch.arange(500) < 2).float()
    assert metrics.bootstrap(metrics.mean, rare)[1] == 0
    assert metrics.bootstrap(metrics.mean, rare - 1)[1] < -0.99


def test_rows_that_are_all_alike_leave_no_doubt():
    assert metrics.bootstrap(metrics.mean, torch.ones(9)) == [1, 1, 1]
    value, low, high = metrics.bootstrap(metrics.ratio_of_means, torch.ones(99), torch.rand(99))
    assert low < value < high


def test_bootstrap_resamples_what_belongs_together_together():
    x = gaussian(300, 1, 0).abs()
    value, low, high = metrics.bootstrap(metrics.ratio_of_means, 3 * x, x, resamples=50)
    assert value == pytest.approx(3) and high - low < 1e-4


def test_validation_uses_all_captions_in_a_fixed_order(tmp_path):
    pairs = []
    for i, num in enumerate((2, 1, 3)):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
        pairs.append((tmp_path / f"{i}.png", [f"{i} {k}" for k in range(num)]))
    data = CaptionedImages(pairs, image_size=8, validation_share=0.0, cache_dir=tmp_path / "cache",
                           show_progress=False)  # fmt: skip
    assert metrics.validation_pairs(data) == [(0, 0), (1, 0), (2, 0), (0, 1), (2, 1), (2, 2)]
    more = [(path, [f"{text} again" for text in texts] * 100) for path, texts in pairs]
    data = CaptionedImages(more, image_size=8, validation_share=0.0, cache_dir=tmp_path / "cache",
                           show_progress=False)  # fmt: skip
    assert metrics.validation_pairs(data) == [(0, 0), (1, 1), (2, 2)]
