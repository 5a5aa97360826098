"""What does a caption leave open, how is it read off an image, and how is it drawn?

The latent must mean something: where exactly the circle lies, which tint it has. So once content is
learnt, training does not feed noise to the decoder, but what the posterior reads off the real
image, at a price for each nat that it tells (losses.kl_divergence): a conditional variational
autoencoder (Kingma and Welling 2014, Sohn et al. 2015).

For a given caption such latents are not distributed as the standard normal distribution: "a star"
has nine places to lie in, "a star at the top" one. The prior, a normalizing flow of affine
couplings (Dinh et al. 2017, RealNVP), is fitted to them as they come (ex-post density estimation,
Ghosh et al. 2020), and turns noise into latents when the model draws.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POSTERIOR_SIZE = 32  # pixels a side that the posterior sees
MAX_MEAN = 5.0  # of a latent
MIN_LOG_STD, MAX_LOG_STD = -6.0, 0.5
MAX_LOG_SCALE = 2.0  # of one coupling


class PosteriorEncoder(nn.Module):
    """Reads the latent off a real image. For training only.

    It sees the image and the mean drawing of its caption (`predict_mean` of the averaged weights).
    The difference is what the caption leaves open. An encoder of the image alone also tells what
    the caption says, and the decoder then trusts it more than the words.
    """

    def __init__(self, noise_dim: int):
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(6, 32, 5, padding=2), nn.LeakyReLU(0.2),
            nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(64, 128, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(128, 192, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(192, 192, 3, padding=1), nn.LeakyReLU(0.2), nn.Flatten(),
        )  # fmt: skip
        self.out = nn.Linear(192 * 4 * 4, 2 * noise_dim)
        with torch.no_grad():
            nn.init.normal_(self.out.weight, std=0.01)
            self.out.bias[:noise_dim] = 0
            self.out.bias[noise_dim:] = -1

    def forward(self, real: Tensor, mean_drawing: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) in -1..1, of any two sizes -> mean and log of the standard
        deviation, (B, Z) each."""
        real, drawn = (F.adaptive_avg_pool2d(x, POSTERIOR_SIZE) for x in (real, mean_drawing))
        x = self.convs(torch.cat([real - drawn, drawn], dim=1))  # (B, 192 * 4 * 4)
        with torch.autocast(x.device.type, enabled=False):
            mean, log_std = self.out(x.float()).chunk(2, dim=1)
        return MAX_MEAN * torch.tanh(mean / MAX_MEAN), log_std.clamp(MIN_LOG_STD, MAX_LOG_STD)


class Coupling(nn.Module):
    """Half of the latent stays, the other half is scaled and shifted by what the first half and
    the caption say; then the order is reversed, so that the next coupling changes the first."""

    def __init__(self, noise_dim: int, text_dim: int, hidden_dim: int):
        super().__init__()
        self.kept = noise_dim // 2
        changed = noise_dim - self.kept
        self.net = nn.Sequential(
            nn.Linear(self.kept + text_dim, hidden_dim), nn.SiLU(),
            nn.Linear(hidden_dim, hidden_dim), nn.SiLU(),
            nn.Linear(hidden_dim, 2 * changed),
        )  # fmt: skip

    def scale_and_shift(self, kept: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.net(torch.cat([kept, pooled], dim=1)).chunk(2, dim=1)
        return MAX_LOG_SCALE * torch.tanh(log_scale / MAX_LOG_SCALE), shift

    def forward(self, noise: Tensor, pooled: Tensor) -> Tensor:
        """noise (B, Z), pooled (B, D) -> (B, Z)."""
        kept, changed = noise[:, : self.kept], noise[:, self.kept :]
        log_scale, shift = self.scale_and_shift(kept, pooled)
        return torch.cat([kept, changed * log_scale.exp() + shift], dim=1).flip(1)

    def inverse(self, latent: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """latent (B, Z), pooled (B, D) -> noise (B, Z), log |d noise / d latent| (B,)."""
        latent = latent.flip(1)
        kept, changed = latent[:, : self.kept], latent[:, self.kept :]
        log_scale, shift = self.scale_and_shift(kept, pooled)
        noise = torch.cat([kept, (changed - shift) * (-log_scale).exp()], dim=1)
        return noise, -log_scale.sum(dim=1)


class FlowPrior(nn.Module):
    """Noise and pooled text in, latents out; an invertible function of the noise."""

    def __init__(self, noise_dim: int, text_dim: int, num_couplings: int, hidden_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(text_dim)
        self.couplings = nn.ModuleList(
            Coupling(noise_dim, text_dim, hidden_dim)
            for _ in range(num_couplings if noise_dim else 0)
        )

    def forward(self, noise: Tensor, pooled: Tensor) -> Tensor:
        """noise (B, Z) standard normal, pooled (B, D) -> latent (B, Z)."""
        pooled = self.norm(pooled)
        for coupling in self.couplings:
            noise = coupling(noise, pooled)
        return noise

    def negative_log_likelihood(self, latent: Tensor, pooled: Tensor) -> Tensor:
        """Nats, of latents (B, Z) given pooled text (B, D); mean over B."""
        pooled, log_det = self.norm(pooled), latent.new_zeros(len(latent))
        for coupling in reversed(self.couplings):
            latent, change = coupling.inverse(latent, pooled)
            log_det = log_det + change
        normal = 0.5 * (latent.square() + math.log(2 * math.pi)).sum(dim=1)
        return (normal - log_det).mean()
