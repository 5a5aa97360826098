"""Protects what makes latents of noise: an invertible map whose likelihoods are true."""

import math

import pytest
import torch

from flow import NoiseFlow
from muon import make_optimizers


def random_flow(noise_dim: int, seed: int = 0) -> NoiseFlow:
    torch.manual_seed(seed)
    return NoiseFlow(noise_dim, text_dim=8)


@pytest.mark.parametrize("noise_dim", [1, 2, 5, 64])
def test_every_latent_comes_from_one_noise(noise_dim):
    flow = random_flow(noise_dim)
    noise, caption = torch.randn(16, noise_dim), flow.norm(torch.randn(16, 8))
    latent = noise
    for coupling in flow.couplings:
        latent = coupling(latent, caption)
    assert not torch.allclose(latent, noise)
    for coupling in reversed(flow.couplings):
        latent, _ = coupling.inverse(latent, caption)
    torch.testing.assert_close(latent, noise, atol=1e-4, rtol=1e-4)


def test_the_likelihood_is_that_of_the_change_of_variables():
    flow, captions = random_flow(4).double(), torch.randn(3, 8).double()
    noise = torch.randn(3, 4).double()
    expected = []
    for n, c in zip(noise, captions, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x, c=c: flow(x[None], c[None])[0], n)
        normal = 0.5 * (n.square() + math.log(2 * math.pi)).sum()
        expected.append(normal + jacobian.det().abs().log())
    found = flow.negative_log_likelihood(flow(noise, captions), captions)
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_likelihoods_add_up_to_one():
    flow, caption = random_flow(2), torch.randn(1, 8)
    steps = torch.linspace(-12, 12, 241)
    grid = torch.cartesian_prod(steps, steps)  # (N, 2)
    with torch.no_grad():
        density = [
            math.exp(-flow.negative_log_likelihood(x[None], caption).item()) for x in grid[::16]
        ]
    assert sum(density) * 16 * 0.1**2 == pytest.approx(1, abs=0.05)


def test_a_fitted_flow_draws_the_latents_of_each_caption(monkeypatch):
    """Of one caption two far points, of the other a narrow line: neither is a normal distribution
    around zero."""
    monkeypatch.setattr("flow.HIDDEN", 64)
    flow, captions = random_flow(2), torch.eye(2, 8)
    generator = torch.Generator().manual_seed(0)

    def sample(which: torch.Tensor) -> torch.Tensor:
        small = 0.1 * torch.randn(len(which), 2, generator=generator)
        side = torch.rand(len(which), generator=generator)
        points = torch.where(side < 0.5, -2.0, 2.0)[:, None].expand(-1, 2)
        line = torch.stack([4 * side - 2, 2 - 4 * side], dim=1)
        return small + torch.where(which[:, None] == 0, points, line)

    optimizers = make_optimizers([flow])
    for step in range(400):
        which = torch.randint(2, (256,), generator=generator)
        loss = flow.negative_log_likelihood(sample(which), captions[which])
        for optimizer in optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * group["relative_lr"] * (1 - step / 400)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    with torch.no_grad():
        noise = torch.randn(1000, 2, generator=generator)
        points, line = (flow(noise, captions[i].expand(1000, -1)) for i in (0, 1))
    assert (points.abs() - 2).abs().median() < 0.3 and 0.3 < (points[:, 0] > 0).float().mean() < 0.7
    assert (line.sum(dim=1)).abs().median() < 0.4 and line[:, 0].std() > 0.8
