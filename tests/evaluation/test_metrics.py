"""Protects distances, ratios and intervals, on cases whose answers are known."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small import pixels, saved

from dataset import CaptionedImages
from evaluation import metrics
from model import from_uint8


def gaussian(num, dim, seed, mean=0.0):
    return mean + torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def test_frechet_distance_agrees_with_the_eigenvalues_of_the_product():
    a, b = gaussian(300, 6, 0) @ gaussian(6, 6, 2), gaussian(200, 6, 1, mean=0.3)
    (ma, ca), (mb, cb) = ((x.numpy().mean(0), np.cov(x.numpy().T)) for x in (a, b))
    cross = np.sqrt(np.linalg.eigvals(ca @ cb).clip(0).real).sum()
    expected = ((ma - mb) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * cross
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_agrees_with_the_sums_written_out():
    a, b = gaussian(7, 3, 0).double(), gaussian(9, 3, 1, mean=1.0).double()

    def kernel(x, y):
        return (float(x @ y) / 3 + 1) ** 3

    within = sum(  # without the pairs of one with itself: unbiased
        kernel(x, y) / (len(s) * (len(s) - 1))
        for s in (a, b) for i, x in enumerate(s) for j, y in enumerate(s) if i != j
    )  # fmt: skip
    between = sum(kernel(x, y) for x in a for y in b) / (len(a) * len(b))
    assert metrics.kernel_distance(a, b) == pytest.approx(within - 2 * between, rel=1e-9)


def test_density_and_coverage_are_near_one_and_one_image_again_and_again_covers_nothing():
    real = gaussian(1000, 4, 0)
    density, coverage = metrics.density_and_coverage(real, gaussian(1000, 4, 1))
    assert density == pytest.approx(1, abs=0.1)
    assert coverage == pytest.approx(1 - 2**-metrics.NEIGHBOURS, abs=0.03)
    assert metrics.density_and_coverage(real, real[:1].expand(1000, 4))[1] < 0.05


def test_edge_energy_counts_squared_steps_between_neighbours():
    step = torch.zeros(2, 3, 8, 8)
    step[0, :, :, 4:] = step[1, :, 4:] = 2.0  # one of the 7 differences in each line or column
    assert metrics.edge_energy(step).tolist() == pytest.approx([4 / 7, 4 / 7])


def test_only_frequencies_above_half_the_highest_count_as_high():
    waves = torch.arange(32) * 2 * math.pi / 32
    slow, fast, fastest = (torch.cos(k * waves).expand(1, 3, 32, 32) for k in (4, 12, 16))
    for low, high in ((slow, slow + fast), (slow.mT, fastest.mT)):
        assert metrics.high_frequency_energy(low).item() == pytest.approx(0, abs=1e-6)
        assert metrics.high_frequency_energy(high).item() > 0.01


def test_random_features_are_always_the_same_and_see_where_things_are():
    images = torch.ones(300, 3, 16, 16)
    images[0, ..., :8] = images[1, ..., 8:] = -1
    state = torch.get_rng_state()
    features = metrics.random_features(images)
    assert features.shape == (300, 64) and (features[0] - features[1]).norm() > 1
    assert torch.allclose(features[290:], metrics.random_features(images[290:]), atol=1e-5)
    assert torch.equal(torch.get_rng_state(), state)


def test_bootstrap_intervals_hold_the_true_mean_about_as_often_as_they_say():
    holds = []
    for seed in range(100):
        value, low, high = metrics.bootstrap(metrics.mean, gaussian(200, 1, seed), resamples=200)
        assert low < value < high
        holds.append(low < 0 < high)
    assert 85 <= sum(holds) <= 100


def test_bootstrap_leaves_no_doubt_where_there_is_none():
    rare, x = (torch.arange(500) < 2).float(), gaussian(300, 1, 0).abs()
    assert metrics.bootstrap(metrics.mean, rare)[1] == 0  # no limit below what is never negative
    assert metrics.bootstrap(metrics.mean, rare - 1)[1] < -0.99
    assert metrics.bootstrap(metrics.mean, torch.ones(9)) == [1, 1, 1]
    for drawn, real, are_alike in ((torch.ones(99), torch.rand(99), False), (3 * x, x, True)):
        value, low, high = metrics.bootstrap(metrics.ratio_of_means, drawn, real, resamples=50)
        assert low <= value <= high and (high - low < 1e-4) == are_alike  # resampled together


def test_right_captions_have_precision_one_and_random_ones_are_at_chance():
    own, rng = torch.arange(400), torch.Generator().manual_seed(0)
    similarity, words = torch.rand(2, 400, 500, generator=rng)
    for values in metrics.r_precision(similarity, own, words).values():
        assert values.mean().item() == pytest.approx(1 / metrics.CANDIDATES, abs=0.02)
    similarity[own, own] += 2
    for values in metrics.r_precision(similarity, own, words).values():
        assert (values == 1).all()


def test_the_probability_over_candidates_is_that_of_drawing_them():
    num, better = 150, 2  # two of the 149 others are closer than the own caption
    similarity = torch.zeros(1, num)
    similarity[0, 7], similarity[0, :better] = 0.5, 1
    found = metrics.r_precision(similarity, torch.tensor([7]), torch.zeros(1, num))["random"]
    drawn = metrics.CANDIDATES - 1
    expected = math.comb(num - 1 - better, drawn) / math.comb(num - 1, drawn)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_the_own_image_is_nearest_as_often_as_in_choices_of_candidates():
    rng = torch.Generator().manual_seed(0)
    real = torch.rand(130, 768, generator=rng)
    drawn = real + 1.5 * torch.rand(130, 768, generator=rng)
    drawn[:40] = drawn[40:80]  # captions that are mixed up
    found, distance = metrics.own_nearest(drawn, real), torch.cdist(drawn, real)
    for i in range(0, 130, 10):
        others = [j for j in range(130) if j != i]
        right = 0
        for _ in range(200):
            rivals = [others[k] for k in torch.randperm(129, generator=rng)[:99].tolist()]
            right += bool((distance[i, rivals] > distance[i, i]).all())
        assert found[i].item() == pytest.approx(right / 200, abs=0.15)
    assert found[:40].mean() < 0.1 and (metrics.own_nearest(real, real) == 1).all()
    assert (metrics.own_nearest(real[:1].expand(130, -1), real) < 1)[1:].all()


def test_drawings_are_compared_with_those_of_other_captions_and_images_once(tmp_path):
    captions = ["red"] * 6 + ["blue"] * 3 + ["red"]
    assert metrics.next_other(captions) == [6] * 6 + [9] * 3 + [6]
    assert metrics.next_other(["red"] * 2) == [0, 1]
    drawn, real = torch.rand(2, 10, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    own, other, _ = metrics.own_captions(drawn, real, captions)
    torch.testing.assert_close(own, (drawn - real).square().flatten(1).mean(1))
    torch.testing.assert_close(other[7], (drawn[9] - real[7]).square().mean())
    images = pixels(20, 16, 16, 3)
    data = collection(tmp_path, images, [f"number {i // 2}" for i in range(20)])
    shown = from_uint8(torch.from_numpy(images).permute(0, 3, 1, 2))
    model = SimpleNamespace(draw=lambda texts, seeds: shown[seeds])
    found = metrics.fit(model, data)
    assert found["own_nearest"] == 1 and found["text_dependence"] > 100


def test_a_pattern_of_dots_stands_out_and_blur_and_noise_do_not():
    rng = torch.Generator().manual_seed(0)
    real = torch.rand(8, 3, 64, 64, generator=rng)
    dotted = real.clone()
    dotted[..., ::2, ::2] += 0.2
    around = metrics.period_two(real)
    assert metrics.dots(around, around) == pytest.approx(1)
    assert metrics.dots(metrics.period_two(dotted), around) > 4
    for down, right in ((1, 2), (2, 1)):  # lines of one pixel, one way or the other
        lines = real.clone()
        lines[..., ::down, ::right] += 0.2
        assert metrics.dots(metrics.period_two(lines), around) > 4
    noisy = real + 0.2 * torch.rand(real.shape, generator=rng)
    assert metrics.dots(metrics.period_two(noisy), around) == pytest.approx(1, abs=0.2)


def test_hard_captions_are_those_that_share_most_words():
    captions = ["red big star", "red big circle", "blue moon"]
    words = metrics.shared_words(captions, captions)
    assert words[0].tolist() == pytest.approx([1, 0.5, 0])
    similarity = torch.tensor([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.1, 0.2, 0.5]])
    hard = metrics.r_precision(similarity, torch.arange(3), words, candidates=2)["hard"]
    assert hard.tolist() == [0, 1, 1]  # only the second image's rival is not the closest


@pytest.mark.parametrize("spread, ratio", [(0.0, 0.0), (1.0, 1.0), (2.0, 4.0)])
def test_diversity_is_the_variance_over_seeds_beside_the_real_one(spread, ratio):
    def flat(spread):  # eight gray images
        gray = 127.5 + spread * torch.arange(-28.0, 29.0, 8.0)
        return gray[:, None, None, None].expand(-1, 3, 64, 64).byte()

    real, drawn = flat(1.0), flat(spread).expand(4, -1, -1, -1, -1)  # four captions
    numbers = metrics.diversity(drawn, [real] * 4)
    assert numbers["diversity_pixels"][0] == pytest.approx(ratio, abs=0.05)
    features = [metrics.random_features(from_uint8(x)).numpy() for x in (drawn[0], real)]
    over_seeds = [x.var(axis=0, ddof=1).mean() for x in features]
    assert numbers["diversity"][0] == pytest.approx(over_seeds[0] / over_seeds[1], abs=1e-4)
    # All that varies: of 4 x 8 drawings with 31 degrees of freedom, of which 4 x 7 are over seeds.
    assert numbers["variance_from_noise"] == pytest.approx(31 / 28 if spread else 0, abs=1e-3)


def test_copies_of_the_training_images_are_flagged_and_new_ones_are_not():
    training, real, drawn = torch.from_numpy(pixels(3, 300, 3, 32, 32))
    seen = metrics.thumbnails(from_uint8(training))
    numbers, distance, nearest = metrics.memorisation(training, real, seen)
    assert numbers["looks_copied"] and numbers["memorisation_ratio"][0] < 0.01
    assert nearest.tolist() == list(range(300)) and not distance.any()
    numbers, *_ = metrics.memorisation(drawn, real, seen)
    assert not numbers["looks_copied"]
    assert numbers["memorisation_ratio"][0] == pytest.approx(1, abs=0.1)


def collection(folder, images, captions):
    """A collection of images (N, S, S, 3) uint8, all for training."""
    paths = [saved(folder, image, f"{i}.png") for i, image in enumerate(images)]
    pairs, size = list(zip(paths, captions, strict=True)), images.shape[1]
    return CaptionedImages(pairs, "train", size, 0.0, folder / "cache", show_progress=False)


def test_validation_completes_each_image_s_prompts_to_its_fullest_caption(tmp_path):
    captions = [["red", f"{i} red flags"] for i in range(metrics.BATCH + 6)]  # two batches
    data = collection(tmp_path, pixels(len(captions), 8, 8, 3), captions)
    asked = []

    def loss(prompts, targets):
        asked.extend(zip(prompts, targets, strict=True))
        return torch.tensor(float(len(prompts)))

    model = SimpleNamespace(tokenize=list, completer=SimpleNamespace(loss=loss))
    found = [metrics.completion_loss(model, data, "captions") for _ in range(2)]
    assert found[0] == found[1] == pytest.approx((64 * 128 + 6 * 12) / 70)
    assert asked[: len(asked) // 2] == asked[len(asked) // 2 :]
    fullest = [caption for _, caption in captions for _ in range(2)]
    assert [target for _, target in asked[:140]] == fullest
    prompts = {prompt for prompt, _ in asked}
    assert "red" in prompts and prompts & set(fullest)  # mostly short, sometimes the fullest itself


def test_who_draws_what_was_held_out_is_right_sharp_and_ignores_the_noise(tmp_path):
    images = pixels(metrics.BATCH + 6, 16, 16, 3)  # two batches
    data = collection(tmp_path, images, list(map(str, range(len(images)))))
    shown = from_uint8(torch.from_numpy(images).permute(0, 3, 1, 2))
    model = SimpleNamespace(  # who draws the image whose number is the caption
        tokenize=lambda captions: list(map(int, captions)),
        predict_mean=lambda tokens: shown[tokens],
        draw=lambda captions, seeds: shown[list(map(int, captions))],
    )
    found = metrics.validate(model, data, torch.device("cpu"))
    least = math.sqrt(1e-3)  # of losses.regression_loss
    assert found["regression_loss"] == pytest.approx(least, rel=1e-4)
    assert found["energy_score"] == pytest.approx(least / 2, rel=1e-4)
    assert found["swd_loss"] == found["noise_dependence"] == 0
    assert found["edge_energy"] == pytest.approx(1)
    assert found["text_dependence"] > 10
    assert found == metrics.validate(model, data, torch.device("cpu"))
