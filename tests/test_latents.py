"""Protects latents: the posterior looks at both images, the prior is an invertible map with true
likelihoods."""

import math

import pytest
import torch
from torch import nn

from config import Recipe
from latents import MAX_LOG_STD, MAX_MEAN, MIN_LOG_STD, FlowPrior, PosteriorEncoder
from muon import make_optimizers


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_latents_of_any_image_size_stay_within_their_bounds(size):
    encoder = PosteriorEncoder(5)
    nn.init.normal_(encoder.out.weight, std=1e4)
    mean, log_std = encoder(torch.rand(8, 3, size, size), torch.rand(8, 3, 64, 64))
    assert mean.shape == log_std.shape == (8, 5) and mean.dtype == torch.float32
    assert mean.abs().max() <= MAX_MEAN
    assert log_std.min() >= MIN_LOG_STD and log_std.max() <= MAX_LOG_STD


def test_latents_depend_on_the_image_and_on_the_mean_drawing():
    torch.manual_seed(0)
    encoder, (real, drawn, other) = PosteriorEncoder(5), torch.rand(3, 1, 3, 64, 64)
    mean, _ = encoder(real, drawn)
    assert not torch.equal(mean, encoder(other, drawn)[0])
    assert not torch.equal(mean, encoder(real, other)[0])


def random_flow(noise_dim: int, hidden_dim: int = 128) -> FlowPrior:
    torch.manual_seed(0)
    return FlowPrior(noise_dim, 8, num_couplings=6, hidden_dim=hidden_dim)


@pytest.mark.parametrize("noise_dim", [1, 2, 5, 64])
def test_every_latent_comes_from_one_noise(noise_dim):
    flow = random_flow(noise_dim)
    noise, pooled = torch.randn(16, noise_dim), torch.randn(16, 8)
    latent = flow(noise, pooled)
    assert not torch.allclose(latent, noise)
    for coupling in reversed(flow.couplings):
        latent, _ = coupling.inverse(latent, flow.norm(pooled))
    torch.testing.assert_close(latent, noise, atol=1e-4, rtol=1e-4)


def test_the_likelihood_is_that_of_the_change_of_variables():
    flow, captions = random_flow(4).double(), torch.randn(3, 8).double()
    noise = torch.randn(3, 4).double()
    expected = []
    for n, c in zip(noise, captions, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x, c=c: flow(x[None], c[None])[0], n)
        normal = 0.5 * (n.square() + math.log(2 * math.pi)).sum()
        expected.append(normal + jacobian.det().abs().log())  # so that densities add up to 1
    found = flow.negative_log_likelihood(flow(noise, captions), captions)
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_a_fitted_flow_draws_the_latents_of_each_caption():
    """Of one caption two far points, of the other a narrow line: neither is a normal distribution
    around zero."""
    flow, captions = random_flow(2, hidden_dim=64), torch.eye(2, 8)
    optimizers, rng = make_optimizers([flow], None, Recipe()), torch.Generator().manual_seed(0)
    for step in range(400):
        which, side = torch.randint(2, (256,), generator=rng), torch.rand(256, generator=rng)
        points = torch.where(side < 0.5, -2.0, 2.0)[:, None].expand(-1, 2)
        line = torch.stack([4 * side - 2, 2 - 4 * side], dim=1)
        sample = torch.where(which[:, None] == 0, points, line)
        sample = sample + 0.1 * torch.randn(256, 2, generator=rng)
        flow.zero_grad()
        flow.negative_log_likelihood(sample, captions[which]).backward()
        for optimizer in optimizers:
            group = optimizer.param_groups[0]
            group["lr"] = 2e-3 * group["relative_lr"] * (1 - step / 400)
            optimizer.step()
    with torch.no_grad():
        noise = torch.randn(1000, 2, generator=rng)
        points, line = (flow(noise, captions[i].expand(1000, -1)) for i in (0, 1))
    assert (points.abs() - 2).abs().median() < 0.3 and 0.3 < (points[:, 0] > 0).float().mean() < 0.7
    assert (line.sum(dim=1)).abs().median() < 0.4 and line[:, 0].std() > 0.8
