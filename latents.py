"""What does a caption leave open, how is it read off an image, and how is it drawn?

The latent must mean something: where exactly the circle lies, which tint it has. So once content is
learnt, training does not feed noise to the decoder, but what the posterior reads off the real
image, at a price for each nat that it tells (losses.kl_divergence): a conditional variational
autoencoder (Kingma and Welling 2014, Sohn et al. 2015).

For a given caption such latents are not distributed as the standard normal distribution: "a star"
has nine places to lie in, "a star at the top" one. The prior is fitted to them as they come
(ex-post density estimation, Ghosh et al. 2020). It cuts the range of each value into bins, and
tells how likely each bin is, given the words and the values before (as van den Oord et al. 2016 did
for pixels). So it can say "at the left or at the right, but not between". When the model draws, it
draws them one by one.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from completion import feed_forward, heads
from config import PRIOR_HEADS
from tokenizer import PAD

POSTERIOR_SIZE = 32  # pixels a side that the posterior sees
RANGE = 4.0  # of a value of the latent: -RANGE..RANGE; a normal one is beyond in 1 of 16,000
KNOTS = 10  # at which a value is read
BINS = 32  # that it is cut into; values are drawn evenly within one
WIDTH = 2 * RANGE / BINS  # of a bin
MIN_LOG_STD, MAX_LOG_STD = -5.0, 0.5


class Words(NamedTuple):
    """What the prior makes of a batch of captions."""

    pooled: Tensor  # (B, 1, D), from their mean
    keys: Tensor  # (B, D, N * L), for each head
    bias: Tensor  # (B, 1, N * L), of the scores; -inf on padding
    values: Tensor  # (B, N * L, D)


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
        return RANGE * torch.tanh(mean / RANGE), log_std.clamp(MIN_LOG_STD, MAX_LOG_STD)


class LatentPrior(nn.Module):
    """Which latents go with a caption? Tells it value by value (NADE, Uria et al. 2016): what each
    value says is added to what those before it say; a network makes odds of it that attends to the
    words. It reads captions with an encoder of its own, so that nothing else learns from its loss.

    reader: words of width dim (B, L, D), and their mask (B, L) -> (B, L, D).
    """

    def __init__(self, num_words: int, noise_dim: int, dim: int, reader: nn.Module):
        super().__init__()
        self.embedding = nn.Embedding(num_words, dim, padding_idx=PAD)
        self.reader = reader
        knots = torch.tensor([2 * RANGE * i / (KNOTS - 1) - RANGE for i in range(KNOTS)])
        self.register_buffer("knots", knots, persistent=False)
        self.values = nn.Parameter(torch.empty(noise_dim, KNOTS, dim))
        self.places = nn.Parameter(torch.empty(noise_dim, dim))
        nn.init.normal_(self.values, std=1 / KNOTS)
        nn.init.normal_(self.places)
        self.caption = nn.Linear(dim, dim)
        self.first, self.second = feed_forward(dim), feed_forward(dim)
        self.norm = nn.LayerNorm(dim)
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.to_bins = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, BINS))
        with torch.no_grad():  # at first, each value is standard normal
            for layer in (self.out, self.first[3], self.second[3], self.to_bins[1]):
                layer.weight.zero_()
            middles = ((i + 0.5) * WIDTH - RANGE for i in range(BINS))
            self.to_bins[1].bias.copy_(torch.tensor([-middle * middle / 2 for middle in middles]))

    def read(self, tokens: Tensor) -> Words:
        """tokens (B, L), padding at the end. The projections of queries and of what is found become
        part of keys and values: this is done once, and what `choose` does for each value."""
        mask = tokens != PAD
        words = self.reader(self.embedding(tokens), mask)  # (B, L, D)
        mean = (words * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        key, value = heads(self.key_value(words), 2, PRIOR_HEADS)  # (B, N, L, D/N) each
        key = key * key.shape[3] ** -0.5
        split = (PRIOR_HEADS, -1)
        keys = self.query.weight.unflatten(0, split).mT @ key.mT  # (B, N, D, L)
        bias = key @ self.query.bias.unflatten(0, split)[:, :, None]  # (B, N, L, 1)
        bias = bias[..., 0].masked_fill(~mask[:, None], float("-inf"))
        values = value @ self.out.weight.T.unflatten(0, split)  # (B, N, L, D)
        return Words(self.caption(mean)[:, None], keys.transpose(1, 2).flatten(2),
                     bias.flatten(1)[:, None], values.flatten(1, 2))  # fmt: skip

    def choose(self, before: Tensor, words: Words) -> Tensor:
        """before (B, T, D), what the caption and the values before each say -> logits (B, T,
        BINS)."""
        x = before + self.first(before)
        scores = torch.baddbmm(words.bias, self.norm(x), words.keys)  # (B, T, N * L)
        weights = scores.unflatten(2, (PRIOR_HEADS, -1)).softmax(dim=3).flatten(2)
        x = torch.baddbmm(x + self.out.bias, weights, words.values)
        return self.to_bins(x + self.second(x))

    def forward(self, tokens: Tensor, latent: Tensor) -> Tensor:
        """tokens (B, L), latent (B, Z) -> logits (B, Z, BINS) of each value, given those before."""
        words = self.read(tokens)
        said = torch.einsum("bzk,zkd->bzd", self.at_knots(latent), self.values)
        before = F.pad(said[:, :-1].cumsum(dim=1), (0, 0, 1, 0))  # (B, Z, D)
        return self.choose(before + self.places + words.pooled, words)

    def sample(self, tokens: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        """tokens (B, L), uniforms (B, Z) within 0..1 -> latents (B, Z). temperature: of the
        choice; 0: the middle of the likeliest bin at each step, whatever the uniforms."""
        with torch.inference_mode():  # a sixth faster
            words, latent = self.read(tokens), []
            before = words.pooled  # (B, 1, D)
            for weight, place, uniform in zip(self.values, self.places, uniforms.T, strict=True):
                logits = self.choose(before + place, words)[:, 0].float()  # (B, BINS)
                if temperature == 0:
                    value = logits.argmax(dim=1) + 0.5  # in bins, from the left
                else:
                    value = quantile((logits / max(temperature, 1e-6)).softmax(dim=1), uniform)
                latent.append(value * WIDTH - RANGE)
                said = self.at_knots(latent[-1]).to(weight.dtype) @ weight  # (B, D)
                before = before + said[:, None]
            latent = torch.stack(latent, dim=1)
        return latent.clone()  # what may take part in training

    def at_knots(self, latent: Tensor) -> Tensor:
        """Values (...) -> (..., KNOTS), how near each is to points spread over the range: a smooth
        function of a value is a weighted sum of these."""
        distance = latent[..., None] - self.knots
        return (distance.square() * (-0.5 * ((KNOTS - 1) / (2 * RANGE)) ** 2)).exp()


def bin_odds(mean: Tensor, log_std: Tensor) -> Tensor:
    """How likely normal distributions (B, Z) fall into each bin: (B, Z, BINS). What lies beyond
    the range counts to the outermost ones."""
    edges = torch.arange(1, BINS, device=mean.device) * WIDTH - RANGE
    below = torch.special.ndtr((edges - mean[:, :, None]) * (-log_std[:, :, None]).exp())
    return F.pad(below, (0, 1), value=1.0) - F.pad(below, (1, 0))


def quantile(odds: Tensor, uniform: Tensor) -> Tensor:
    """The value below which the fraction `uniform` (B,) of a histogram (B, BINS) lies, in bins from
    the left: (B,), below BINS."""
    up_to = odds.cumsum(dim=1)
    sought = uniform.clamp(max=1 - 1e-4)[:, None] * up_to[:, -1:]  # no bin beyond the last odds
    share = (sought - up_to + odds) / odds.clamp(min=1e-9)  # of each bin that lies below
    return share.clamp(0.0, 1.0).sum(dim=1)


def cross_entropy(odds: Tensor, logits: Tensor) -> Tensor:
    """Nats that latents of these odds (B, Z, BINS) cost under the density of the prior: mean over
    B."""
    density = logits.log_softmax(dim=2) - math.log(WIDTH)
    return -(odds * density).sum(dim=(1, 2)).mean()
