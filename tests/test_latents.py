"""Protects latents: the posterior looks at both images, and what the prior draws is what it was
fitted to."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal

from config import PRIOR_HEADS
from latents import (
    BINS,
    MAX_LOG_STD,
    MIN_LOG_STD,
    RANGE,
    WIDTH,
    LatentPrior,
    PosteriorEncoder,
    bin_odds,
    cross_entropy,
    quantile,
)
from model import BidirectionalLSTM


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_latents_of_any_image_size_stay_within_their_bounds(size):
    encoder = PosteriorEncoder(5)
    nn.init.normal_(encoder.out.weight, std=1e4)
    mean, log_std = encoder(torch.rand(8, 3, size, size), torch.rand(8, 3, 64, 64))
    assert mean.shape == log_std.shape == (8, 5) and mean.dtype == torch.float32
    assert mean.abs().max() <= RANGE
    assert log_std.min() >= MIN_LOG_STD and log_std.max() <= MAX_LOG_STD


def test_latents_depend_on_the_image_and_on_the_mean_drawing():
    torch.manual_seed(0)
    encoder, (real, drawn, other) = PosteriorEncoder(5), torch.rand(3, 1, 3, 64, 64)
    mean, _ = encoder(real, drawn)
    assert not torch.equal(mean, encoder(other, drawn)[0])
    assert not torch.equal(mean, encoder(real, other)[0])


def prior_of(noise_dim: int, dim: int = 16, trained: bool = False) -> LatentPrior:
    """trained: with random weights where it starts from zero."""
    torch.manual_seed(0)
    prior = LatentPrior(10, noise_dim, dim, BidirectionalLSTM(dim))
    for layer in (prior.out, prior.first[3], prior.second[3], prior.to_bins[1]) if trained else ():
        nn.init.normal_(layer.weight, std=0.5)
    return prior.requires_grad_(not trained)


TOKENS = torch.tensor([[4, 5, 6], [7, 0, 0]])


def test_at_first_latents_are_standard_normal():
    drawn = prior_of(5).sample(TOKENS[:1].expand(2000, -1), torch.rand(2000, 5))
    assert abs(drawn.mean()) < 0.05 and abs(drawn.std() - 1) < 0.05
    assert abs(torch.corrcoef(drawn.T) - torch.eye(5)).max() < 0.1


def test_the_odds_of_the_bins_are_those_of_normal_distributions():
    mean, log_std = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    edges = torch.linspace(-RANGE, RANGE, BINS + 1)
    edges[0], edges[-1] = -torch.inf, torch.inf  # what lies beyond counts to the outermost bins
    up_to = Normal(mean[..., None], log_std.exp()[..., None]).cdf(edges)
    torch.testing.assert_close(bin_odds(mean, log_std), up_to.diff(dim=2), atol=1e-6, rtol=0)


def test_quantiles_are_those_of_the_histogram():
    odds = torch.rand(50, BINS).softmax(dim=1)
    uniform = torch.rand(50)
    for q, u, value in zip(odds, uniform, quantile(odds, uniform), strict=True):
        up_to = np.concatenate([[0], q.numpy().cumsum()])
        assert float(value) == pytest.approx(np.interp(u, up_to, np.arange(BINS + 1)), abs=2e-3)
    odds[1, -3:] = 0
    ends = quantile(odds[:2], torch.tensor([0.0, 1.0]))
    assert ends[0] == 0 and BINS - 4 < ends[1] < BINS - 3


def test_what_is_drawn_step_by_step_is_what_the_prior_tells_of_the_whole():
    prior = prior_of(7, trained=True)
    likeliest = prior.sample(TOKENS, torch.rand(2, 7), temperature=0.0)
    assert torch.equal(prior(TOKENS, likeliest).argmax(dim=2), ((likeliest + RANGE) / WIDTH).long())
    uniform = torch.rand(2, 7)
    drawn = prior.sample(TOKENS, uniform, temperature=0.7)
    odds = (prior(TOKENS, drawn) / 0.7).softmax(dim=2).flatten(0, 1)
    expected = quantile(odds, uniform.flatten()).unflatten(0, (2, 7)) * WIDTH - RANGE
    torch.testing.assert_close(drawn, expected, atol=1e-3, rtol=0)


def test_attention_whose_projections_are_folded_is_that_of_torch():
    prior = prior_of(4, trained=True)
    for layer in (prior.query, prior.out):
        nn.init.normal_(layer.bias)
    before, words = torch.randn(2, 4, 16), prior.reader(prior.embedding(TOKENS), TOKENS != 0)
    attention = nn.MultiheadAttention(16, PRIOR_HEADS, batch_first=True)
    key_value = prior.key_value
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([prior.query.weight, key_value.weight]))
        attention.in_proj_bias.copy_(torch.cat([prior.query.bias, key_value.bias]))
        attention.out_proj.load_state_dict(prior.out.state_dict())
    x = before + prior.first(before)
    found, _ = attention(prior.norm(x), words, words, key_padding_mask=TOKENS == 0)
    x = x + found
    expected = prior.to_bins(x + prior.second(x))
    torch.testing.assert_close(prior.choose(before, prior.read(TOKENS)), expected)


def test_a_value_depends_on_the_words_and_on_the_values_before_it():
    prior, latent = prior_of(4, trained=True), torch.zeros(2, 4)
    one = prior(TOKENS, latent)
    changed = latent.clone()
    changed[:, 2] = 3.0
    same = (prior(TOKENS, changed) == one).flatten(2).all(dim=2).all(dim=0)
    assert same.tolist() == [True, True, True, False]
    assert not torch.allclose(prior(TOKENS.flip(0), latent), one)


def test_latents_do_not_depend_on_padding_and_on_the_rest_of_the_batch():
    prior, uniform = prior_of(6, trained=True), torch.rand(2, 6)
    alone = prior.sample(TOKENS[1:, :1], uniform[1:])
    torch.testing.assert_close(prior.sample(TOKENS, uniform)[1:], alone, atol=1e-4, rtol=0)


def test_a_fitted_prior_draws_the_latents_of_each_caption():
    """Of one caption two far points, of the other a line: neither is a normal distribution."""
    prior, rng = prior_of(2, dim=32), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    for _ in range(200):
        which, side = torch.randint(2, (256,), generator=rng), torch.rand(256, generator=rng)
        points = torch.where(side < 0.5, -2.0, 2.0)[:, None].expand(-1, 2)
        line = torch.stack([4 * side - 2, 2 - 4 * side], dim=1)
        mean, log_std = torch.where(which[:, None] == 0, points, line), torch.full((256, 2), -2.3)
        sample = mean + log_std.exp() * torch.randn(256, 2, generator=rng)
        optimizer.zero_grad()
        cross_entropy(bin_odds(mean, log_std), prior(4 + which[:, None], sample)).backward()
        optimizer.step()
    uniforms = torch.rand(1000, 2, generator=rng)
    points, line = (prior.sample(torch.full((1000, 1), 4 + i), uniforms) for i in (0, 1))
    assert (points.abs() - 2).abs().median() < 0.2
    assert (points[:, 0] * points[:, 1] > 0).float().mean() > 0.95
    assert 0.4 < (points[:, 0] > 0).float().mean() < 0.6
    assert (line.sum(dim=1)).abs().median() < 0.2 and line[:, 0].std() > 0.8
