"""What does a picture show that its caption leaves open? A network for training only.

The latent must mean something: where exactly the circle lies, which tint it has. So once content is
learnt, training does not feed the generator any noise, but what the encoder below reads off the
real picture, at a price for each nat that it tells (losses.kl_divergence): a conditional
variational autoencoder (Kingma and Welling 2014, Sohn et al. 2015). When the model draws, latents
come from a flow that was fitted to these (flow.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 32  # pixels that the encoder sees
MAX_MEAN = 5.0  # of a latent
MIN_LOG_STD, MAX_LOG_STD = -6.0, 0.5


class LatentEncoder(nn.Module):
    """Sees the picture and what the generator (averaged) draws of its caption without a latent.

    The difference is what the caption leaves open. An encoder of the picture alone also tells what
    the caption says, and the generator then trusts it more than the words.
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

    def forward(self, real: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, H, W) in -1..1, of any two sizes -> mean and log of the standard
        deviation, (B, Z) each."""
        real, guess = (F.adaptive_avg_pool2d(x, SIDE) for x in (real, guess))
        x = self.convs(torch.cat([real - guess, guess], dim=1))  # (B, 192 * 4 * 4)
        with torch.autocast(x.device.type, enabled=False):
            mean, log_std = self.out(x.float()).chunk(2, dim=1)
        return MAX_MEAN * torch.tanh(mean / MAX_MEAN), log_std.clamp(MIN_LOG_STD, MAX_LOG_STD)
