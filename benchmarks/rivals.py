"""What is the model compared with? Three designs that draw from a caption, for speed.py alone.

Each is written anew from its description, untrained: speed does not depend on the weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import ModelConfig
from model import TextEncoder, WordAttention

FLOW_STEPS = 20  # of Euler's method, for one picture


class OriginalBlock(nn.Module):
    """Twice the size, a residual block, one more convolution; each normalised by InstanceNorm."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()

        def normalised(conv: nn.Module) -> nn.Sequential:
            return nn.Sequential(conv, nn.InstanceNorm2d(out_channels))

        self.up = normalised(nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1))
        self.first, self.second, self.last = (
            normalised(nn.Conv2d(out_channels, out_channels, 3, padding=1)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.up(x), 0.2)
        x = x + self.second(F.relu(self.first(x)))
        return F.leaky_relu(self.last(x), 0.2)


class Original(nn.Module):
    """The design that this one began as (Vlasenko2006/Text_to_Image on GitHub, 2025): LSTM of eight
    layers, self-attention, the last position through two wide layers, transposed convolutions. It
    has no noise: one image for each caption."""

    def __init__(self, num_words: int):
        super().__init__()
        self.embedding = nn.Embedding(num_words, 256)
        self.lstm = nn.LSTM(256, 512, num_layers=8, batch_first=True)
        self.attention = nn.MultiheadAttention(512, 8, batch_first=True)
        self.fully_connected = nn.Sequential(
            nn.Linear(512, 4096), nn.ReLU(), nn.Linear(4096, 128 * 8 * 8), nn.ReLU()
        )
        self.decoder = nn.Sequential(*(OriginalBlock(i, o) for i, o in ((128, 128), (128, 64))),
                                     OriginalBlock(64, 32))  # fmt: skip
        # The original doubles once more, to 128 px.
        self.to_image = nn.Sequential(
            nn.Conv2d(32, 16, 3, padding=1), nn.InstanceNorm2d(16), nn.LeakyReLU(0.2),
            nn.Conv2d(16, 3, 3, padding=1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, L) -> images (B, 3, 64, 64)."""
        words, _ = self.lstm(self.embedding(tokens))  # (B, L, 512)
        words, _ = self.attention(words, words, words)
        x = self.fully_connected(words[:, -1]).unflatten(1, (128, 8, 8))
        return self.to_image(self.decoder(x))

    def loss(self, tokens: Tensor, images: Tensor) -> Tensor:
        return (self(tokens) - images).square().mean()


class AffinePair(nn.Module):
    """Scale and shift of each channel, a leaky ReLU, and both once more (Tao et al. 2022)."""

    def __init__(self, condition_dim: int, channels: int):
        super().__init__()
        self.affine = nn.ModuleList(
            nn.Sequential(nn.Linear(condition_dim, channels), nn.ReLU(),
                          nn.Linear(channels, channels))
            for _ in range(4)
        )  # fmt: skip

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        for scale, shift in (self.affine[:2], self.affine[2:]):
            scale, shift = (layer(condition)[:, :, None, None] for layer in (scale, shift))
            x = F.leaky_relu(x * scale + shift, 0.2)
        return x


class DeepFusionBlock(nn.Module):
    """Twice the size, then two convolutions, each after an AffinePair."""

    def __init__(self, condition_dim: int, in_channels: int, out_channels: int):
        super().__init__()
        self.first, self.second = (
            AffinePair(condition_dim, c) for c in (in_channels, out_channels)
        )
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2)
        h = self.conv1(self.first(x, condition))
        return self.skip(x) + self.conv2(self.second(h, condition))


class DeepFusion(nn.Module):
    """The generator of DF-GAN (Tao et al. 2022), for 64 px and with 64 channels at the last size.
    Its training also needs a discriminator, which is left out here."""

    def __init__(self, num_words: int):
        super().__init__()
        channels, self.noise_dim = (512, 512, 256, 128, 64), 100
        self.embedding = nn.Embedding(num_words, 300)
        self.lstm = nn.LSTM(300, 128, batch_first=True, bidirectional=True)
        self.fully_connected = nn.Linear(self.noise_dim, channels[0] * 4 * 4)
        self.blocks = nn.ModuleList(
            DeepFusionBlock(self.noise_dim + 256, channels[i], channels[i + 1]) for i in range(4)
        )
        self.to_image = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, L) -> images (B, 3, 64, 64)."""
        _, (hidden, _) = self.lstm(self.embedding(tokens))  # (2, B, 128)
        noise = torch.randn(len(tokens), self.noise_dim, device=tokens.device)
        condition = torch.cat([noise, *hidden], dim=1)
        x = self.fully_connected(noise).unflatten(1, (-1, 4, 4))
        for block in self.blocks:
            x = block(x, condition)
        return self.to_image(F.leaky_relu(x, 0.2)).tanh()

    def loss(self, tokens: Tensor, images: Tensor) -> Tensor:
        return (self(tokens) - images).square().mean()


class FlowBlock(nn.Module):
    """x + conv(act(FiLM(conv(act(norm(x)))))), which may also change the channels."""

    def __init__(self, in_channels: int, out_channels: int, condition_dim: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.film = nn.Linear(condition_dim, 2 * out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm(x)))
        return self.skip(x) + self.conv2(F.silu(h * (1 + scale) + shift))


class FlowMatching(nn.Module):
    """Flow matching (Lipman et al. 2023) by a U-Net on patches of 2x2 pixels, with our text encoder
    and attention to words, and about as many parameters as ours. One picture is FLOW_STEPS passes.
    """

    def __init__(self, num_words: int):
        super().__init__()
        config, channels = ModelConfig(), (64, 96, 128)  # at 32, 16 and 8 px
        dim = config.text_dim
        self.text_encoder = TextEncoder(config, num_words)
        self.time = nn.Sequential(nn.Linear(64, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))
        self.patches = nn.Conv2d(12, channels[0], 3, padding=1)
        widths = [(channels[0], channels[0]), *zip(channels, channels[1:], strict=False)]
        self.down = nn.ModuleList(FlowBlock(i, o, dim) for i, o in widths)
        self.look = nn.ModuleList(
            WordAttention(c, size, dim, config.num_heads)
            for c, size in zip(channels[1:], (16, 8), strict=True)
        )
        self.up = nn.ModuleList(FlowBlock(2 * o, i, dim) for i, o in reversed(widths))
        self.to_patches = nn.Conv2d(channels[0], 12, 3, padding=1)

    def velocity(self, noisy: Tensor, times: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """noisy (B, 3, 64, 64), times (B,) within 0..1, words (B, L, D) and their mask (B, L)
        -> its velocity, as large."""
        angles = times[:, None] * torch.logspace(0, 3, 32, device=times.device)  # (B, 32)
        condition = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        condition = condition + (words * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        x, kept = self.patches(F.pixel_unshuffle(noisy, 2)), []
        for i, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if i else x, condition)
            if i:
                x, _ = self.look[i - 1](x, words, mask)
            kept.append(x)
        for i, block in enumerate(self.up):
            x = F.interpolate(x, scale_factor=2) if i else x
            x = block(torch.cat([x, kept.pop()], dim=1), condition)
        return F.pixel_shuffle(self.to_patches(x), 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, L) -> images (B, 3, 64, 64)."""
        words, mask, _ = self.text_encoder(tokens)
        x = torch.randn(len(tokens), 3, 64, 64, device=tokens.device)
        for step in range(FLOW_STEPS):
            times = x.new_full((len(tokens),), step / FLOW_STEPS)
            x = x + self.velocity(x, times, words, mask) / FLOW_STEPS
        return x

    def loss(self, tokens: Tensor, images: Tensor) -> Tensor:
        """Squared error of the velocity from noise to image, at a time drawn evenly."""
        words, mask, _ = self.text_encoder(tokens)
        noise, times = torch.randn_like(images), torch.rand(len(images), device=images.device)
        noisy = noise.lerp(images, times[:, None, None, None])
        return (self.velocity(noisy, times, words, mask) - (images - noise)).square().mean()


RIVALS = {"the original design": Original, "DF-GAN's generator": DeepFusion,
          f"flow matching, {FLOW_STEPS} steps": FlowMatching}  # fmt: skip
