"""Does the encoder look at both pictures, and stay within what is drawn later?"""

import pytest
import torch

from latent import MAX_LOG_STD, MAX_MEAN, MIN_LOG_STD, LatentEncoder


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_latents_of_any_picture_size(size):
    mean, log_std = LatentEncoder(5)(torch.rand(2, 3, size, size), torch.rand(2, 3, 64, 64))
    assert mean.shape == log_std.shape == (2, 5) and mean.dtype == torch.float32


def test_latents_depend_on_the_picture_and_on_the_guess():
    torch.manual_seed(0)
    encoder, (real, guess, other) = LatentEncoder(5), torch.rand(3, 1, 3, 64, 64)
    mean, _ = encoder(real, guess)
    assert not torch.equal(mean, encoder(other, guess)[0])
    assert not torch.equal(mean, encoder(real, other)[0])


def test_latents_stay_within_their_bounds():
    encoder = LatentEncoder(5)
    with torch.no_grad():
        encoder.out.weight.mul_(1e6)
    mean, log_std = encoder(torch.rand(8, 3, 64, 64), torch.rand(8, 3, 64, 64))
    assert mean.abs().max() <= MAX_MEAN
    assert log_std.min() >= MIN_LOG_STD and log_std.max() <= MAX_LOG_STD
