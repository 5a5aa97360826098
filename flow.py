"""How does noise become what the caption leaves open: a place, a tint?

Training reads latents off real pictures (latent.py). For a given caption they are not distributed
as the standard normal distribution: "a star" has nine places to lie in, "a star at the top" one.
The flow learns how, and turns noise into latents when the model draws. It is a normalizing flow of
affine couplings (Dinh et al. 2017, RealNVP), fitted to latents as they come (ex-post density
estimation, Ghosh et al. 2020).
"""

import math

import torch
from torch import Tensor, nn

NUM_COUPLINGS = 6  # an even number: two reversals restore the order
HIDDEN = 128  # width of each coupling's network; not tuned
MAX_LOG_SCALE = 2.0  # of one coupling


class Coupling(nn.Module):
    """Half of the latent stays, the other half is scaled and shifted by what the first half and
    the caption say; then the order is reversed, so that the next coupling changes the first."""

    def __init__(self, noise_dim: int, text_dim: int):
        super().__init__()
        self.kept = noise_dim // 2
        changed = noise_dim - self.kept
        self.net = nn.Sequential(
            nn.Linear(self.kept + text_dim, HIDDEN), nn.SiLU(),
            nn.Linear(HIDDEN, HIDDEN), nn.SiLU(),
            nn.Linear(HIDDEN, 2 * changed),
        )  # fmt: skip

    def scale_and_shift(self, kept: Tensor, caption: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.net(torch.cat([kept, caption], dim=1)).chunk(2, dim=1)
        return MAX_LOG_SCALE * torch.tanh(log_scale / MAX_LOG_SCALE), shift

    def forward(self, noise: Tensor, caption: Tensor) -> Tensor:
        """noise (B, Z), caption (B, D) -> (B, Z)."""
        kept, changed = noise[:, : self.kept], noise[:, self.kept :]
        log_scale, shift = self.scale_and_shift(kept, caption)
        return torch.cat([kept, changed * log_scale.exp() + shift], dim=1).flip(1)

    def inverse(self, latent: Tensor, caption: Tensor) -> tuple[Tensor, Tensor]:
        """latent (B, Z), caption (B, D) -> noise (B, Z), log |d noise / d latent| (B,)."""
        latent = latent.flip(1)
        kept, changed = latent[:, : self.kept], latent[:, self.kept :]
        log_scale, shift = self.scale_and_shift(kept, caption)
        noise = torch.cat([kept, (changed - shift) * (-log_scale).exp()], dim=1)
        return noise, -log_scale.sum(dim=1)


class NoiseFlow(nn.Module):
    """Noise and captions in, latents out; an invertible function of the noise."""

    def __init__(self, noise_dim: int, text_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(text_dim)
        self.couplings = nn.ModuleList(
            Coupling(noise_dim, text_dim) for _ in range(NUM_COUPLINGS if noise_dim else 0)
        )

    def forward(self, noise: Tensor, caption: Tensor) -> Tensor:
        """noise (B, Z) standard normal, caption (B, D) -> latent (B, Z)."""
        caption = self.norm(caption)
        for coupling in self.couplings:
            noise = coupling(noise, caption)
        return noise

    def negative_log_likelihood(self, latent: Tensor, caption: Tensor) -> Tensor:
        """Nats, of latents (B, Z) given captions (B, D); mean over B."""
        caption, log_det = self.norm(caption), latent.new_zeros(len(latent))
        for coupling in reversed(self.couplings):
            latent, change = coupling.inverse(latent, caption)
            log_det = log_det + change
        normal = 0.5 * (latent.square() + math.log(2 * math.pi)).sum(dim=1)
        return (normal - log_det).mean()
