"""How does a caption become an image?

    embedding -> LSTM -> multi-head self-attention -> fully connected layer -> residual decoder

A prompt that leaves things open is first completed, in words, by a second LSTM (completion.py).
What no caption tells is in the latent, which a seed chooses (latents.py).

Shapes, the same letters in every file:
    B images, L tokens of the longest caption, D width of the text, Z width of the latent,
    A augmentation parameters, C channels, H W height and width, N heads, Q queries, K layers,
    S size of a square image.
"""

import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from completion import Completer, feed_forward
from config import SETTING_OF_THE_FLOW, WITH_A_FLOW, ModelConfig
from latents import LatentPrior
from tokenizer import PAD, SPECIAL_TOKENS, START, UNKNOWN, Tokenizer, shown, split_words, text_of

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


def from_uint8(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 -1..1, any shape."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """float -1..1 -> uint8 0..255, any shape; values outside are clamped."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def attend(
    query: Tensor, key: Tensor, value: Tensor, key_weight: Tensor, num_heads: int
) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1) with several heads.

    query (B, Q, C), key and value (B, L, C), key_weight (B, L), how often each key counts: a mask,
    or numbers of 0 or more
    -> result (B, Q, C), weights (B, N, Q, L) that sum to 1 over L and are 0 where key_weight is.
    """
    size = query.shape[2] // num_heads
    query, key, value = (x.unflatten(2, (num_heads, size)).transpose(1, 2).flatten(0, 1)
                         for x in (query, key, value))  # (BN, Q or L, C/N)  # fmt: skip
    bias = key_weight.to(query.dtype).log()  # (B, L): -inf where there is no word
    bias = bias.repeat_interleave(num_heads, dim=0)[:, None]  # (BN, 1, L)
    scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=1 / math.sqrt(size))
    weights = scores.softmax(dim=2)  # (BN, Q, L)
    result = (weights @ value).unflatten(0, (-1, num_heads)).transpose(1, 2).flatten(2)
    return result, weights.unflatten(0, (-1, num_heads))


class MultiHeadSelfAttention(nn.Module):
    """Every word looks at every word: LayerNorm(x + attention(x))."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, L, D), mask (B, L) True on words -> (B, L, D), weights (B, N, L, L)."""
        query, key, value = self.query_key_value(x).chunk(3, dim=2)
        attended, weights = attend(query, key, value, mask, self.num_heads)
        return self.norm(x + self.out(attended)), weights


class BidirectionalLSTM(nn.Module):
    """Bidirectional LSTM over padded tokens, without packing.

    Two plain LSTMs; the second reads each caption from its last word to its first. torch's own
    bidirectional one would need packed sequences to know where captions end, and runs those slowly
    on a CPU.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.ahead = nn.LSTM(dim, dim // 2, batch_first=True)
        self.back = nn.LSTM(dim, dim // 2, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, D), mask (B, L) True on words, padding at the end -> (B, L, D); what it gives
        for padding means nothing."""
        positions = torch.arange(x.shape[1], device=x.device)
        last = mask.sum(dim=1, keepdim=True) - 1  # (B, 1)
        reverse = torch.where(mask, last - positions, positions)[:, :, None]  # (B, L, 1)
        ahead, _ = self.ahead(x)  # (B, L, D/2)
        back, _ = self.back(x.gather(1, reverse.expand_as(x)))
        return torch.cat([ahead, back.gather(1, reverse.expand_as(back))], dim=2)  # (B, L, D)


class TextEncoder(nn.Module):
    """Embedding -> LSTM (order, local context) -> self-attention (any word to any word)."""

    def __init__(self, config: ModelConfig, num_words: int):
        super().__init__()
        dim = config.text_dim
        self.embedding = nn.Embedding(num_words, dim, padding_idx=PAD)
        self.lstm = self.positions = self.attention = None
        if config.text_encoder != "attention":
            self.lstm = BidirectionalLSTM(dim)
        else:  # without an LSTM nothing else would tell the order of the words
            self.positions = nn.Parameter(torch.empty(config.max_tokens, dim))
        if config.text_encoder != "lstm":
            self.attention = MultiHeadSelfAttention(dim, config.num_heads)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """tokens (B, L) int64, at least one word in each row, padding at the end
        -> words (B, L, D), mask (B, L) True on words, self-attention (B, N, L, L) or None.
        """
        mask = tokens != PAD
        x = self.embedding(tokens)  # (B, L, D)
        weights = None
        x = self.lstm(x, mask) if self.lstm else x + self.positions[: tokens.shape[1]]
        if self.attention is not None:
            x, weights = self.attention(x, mask)
        return x, mask, weights


class WordAttention(nn.Module):
    """Cross-attention from each position of a feature map to the words, pre-norm, then an MLP."""

    def __init__(self, channels: int, size: int, text_dim: int, num_heads: int):
        super().__init__()
        self.num_heads, self.size = num_heads, size
        self.positions = nn.Parameter(torch.empty(size * size, channels))
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(text_dim, 2 * channels)
        self.out = nn.Linear(channels, channels)
        self.mlp = feed_forward(channels)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W), words (B, L, D), mask (B, L) -> (B, C, H, W), weights (B, N, HW, L)."""
        height, width = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)  # (B, HW, C)
        positions = self.positions
        if self.size > height:  # of the first training images
            grid = positions.T.unflatten(1, (self.size, self.size))  # (C, size, size)
            positions = F.avg_pool2d(grid, self.size // height).flatten(1).T  # (HW, C)
        query = self.query(self.norm(x) + positions)
        key, value = self.key_value(words).chunk(2, dim=2)
        attended, weights = attend(query, key, value, mask, self.num_heads)
        x = x + self.out(attended)
        x = x + self.mlp(x)
        return x.transpose(1, 2).unflatten(2, (height, width)), weights  # (B, C, H, W)


class UpsamplingBlock(nn.Module):
    """Residual block that doubles the size: x -> up(skip(x)) + conv(act(up(FiLM(conv(act(x)))))).

    FiLM (Perez et al. 2018): each channel is scaled and shifted by a function of pooled text,
    latent and augmentation. Channels change before the size does, where it costs a quarter.
    """

    def __init__(self, in_channels: int, out_channels: int, condition_dim: int):
        super().__init__()
        self.skip = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.film = nn.Linear(condition_dim, 2 * out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor, double: bool) -> Tensor:
        """x (B, C, H, W), condition (B, 2D) -> (B, C', 2H, 2W), or (B, C', H, W) unless double."""
        skip, h = self.skip(x), self.conv1(F.leaky_relu(x, 0.2))  # (B, C', H, W)
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, h, 1 + scale)
        if double:
            skip, h = (F.interpolate(y, scale_factor=2, mode="bilinear") for y in (skip, h))
        return self.conv2(F.leaky_relu_(h, 0.2)).add_(skip)  # (B, C', 2H, 2W) or (B, C', H, W)


def composite(layers: Tensor, mask_scale: float) -> Tensor:
    """Blend the layers, like paper cut-outs on one another: each pixel is a mixture of them.

    A mask that jumps from 0 to 1 is a sharp edge. Masks reach the full size by pixel shuffle (Shi
    et al. 2016), so that the costly convolutions stay at half of it; a layer has one colour for
    four pixels.

    layers: (B, 7, K, H/2, W/2) float32: red, green, blue, and the mask logits of four sub-pixels;
    mask_scale: factor of the logits; above 1, one layer is chosen where in doubt they are mixed.
    Returns (B, 3, H, W) float32.
    """
    colours, masks = layers.split([3, 4], dim=1)  # (B, 3 or 4, K, H/2, W/2)
    masks = (mask_scale * masks).softmax(dim=2)
    pairs = zip(colours[:, :, None].unbind(3), masks[:, None].unbind(3), strict=True)
    x = sum(colour * mask for colour, mask in pairs)  # (B, 3, 4, H/2, W/2)
    return F.pixel_shuffle(x.flatten(1, 2), 2)  # (B, 3, H, W)


class Uninitialised(TorchFunctionMode):
    """Within it, modules leave their weights as they come. On the meta device torch imports its
    compiler to initialise them, which takes a second or two."""

    def __torch_function__(
        self, function: Callable, types: Sequence, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if getattr(function, "__module__", "") == nn.init.__name__:
            return kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def plain_names(state_dict: dict) -> dict:
    """Weights without the prefixes of torch.compile and of wrappers for several devices."""
    prefixes = re.compile(r"^(module\.|_orig_mod\.)+")
    return {prefixes.sub("", n) if isinstance(n, str) else n: w for n, w in state_dict.items()}


def check_fit(weights: dict, expected: dict) -> None:
    """Raises ValueError naming the first of the weights that is missing, unknown, no tensor of
    floats, or of another shape than in `expected`."""
    for name in dict.fromkeys((*expected, *weights)):
        if name == "_extra_state":
            continue
        if name not in weights or name not in expected:
            raise ValueError(f"{name} is {'missing' if name in expected else 'unknown'}")
        weight, shape = weights[name], tuple(expected[name].shape)
        kind = expected[name].is_floating_point()
        if not isinstance(weight, Tensor) or weight.is_floating_point() != kind:
            raise ValueError(f"{name} is no tensor of {'floats' if kind else 'whole numbers'}")
        if weight.numel() * weight.element_size() > weight.untyped_storage().nbytes():
            raise ValueError(f"{name} has fewer values than its shape tells")
        if tuple(weight.shape) != shape:
            raise ValueError(f"{name} has the shape {tuple(weight.shape)}, not {shape}")


class EncodedText(NamedTuple):
    """What the text encoder makes of a batch of captions."""

    words: Tensor  # (B, L, D)
    mask: Tensor  # (B, L), True on words; or how often each counts
    pooled: Tensor  # (B, D), mean over the words
    attention: Tensor | None  # (B, N, L, L), of words to words


class Look(NamedTuple):
    """A drawing, and where its words acted; <start>, which every caption begins with, is one of
    them. Attention is the mean over heads."""

    image: Tensor  # (3, H, W) float32 in [-1, 1]
    words: list[str]  # L of them; <unk> where one is unknown
    maps: Tensor  # (L, S, S), how much each place attended to each word: sums to 1 over L
    between: Tensor  # (L, L), how much each word attended to each; sums to 1 over the second

    def figure(self, title: str, caption: str, matrix: bool = True) -> "np.ndarray":
        """All that, (H, W, 3) uint8; matrix: of words to words, too."""
        from reports.figures import draw_look

        typed = [self.words[0], *split_words(caption)]
        unknown = SPECIAL_TOKENS[UNKNOWN]
        words = [f"{typed[i]} (unknown)" if word == unknown else word
                 for i, word in enumerate(self.words)]  # fmt: skip
        between = self.between.float().cpu().numpy() if matrix else None
        maps = self.maps.float().cpu().numpy()
        return draw_look(title, caption, to_uint8(self.image).cpu().numpy(), words, maps, between)


class TextToImageModel(nn.Module):
    """Captions and chance in, images out, in one pass. See config.ModelConfig for the parts.

    The state_dict carries configuration and vocabulary, and load_state_dict rebuilds the modules
    where they differ, so that TextToImageModel() can load any trained file. Make optimizers after.

    halvings: of the sides of its images, by as many of the last blocks, which do not enlarge; more
    than 0 only in the first part of training.
    """

    def __init__(self, config: ModelConfig | None = None, tokenizer: Tokenizer | None = None):
        super().__init__()
        self.halvings = 0
        self._build(config or ModelConfig(), tokenizer or Tokenizer())

    def _build(self, config: ModelConfig, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        sizes, channels = config.resolutions, config.channels
        input_dim = config.text_dim + config.noise_dim
        condition_dim = 2 * config.text_dim
        self.text_encoder = TextEncoder(config, len(tokenizer))
        self.fully_connected = nn.Linear(input_dim, channels[0] * 4 * 4)
        self.condition = nn.Linear(input_dim + config.augmentation_dim, condition_dim)
        self.word_attention = nn.ModuleList(
            WordAttention(c, size, config.text_dim, config.num_heads)
            for c, size in zip(channels, sizes[: config.word_attentions], strict=False)
        )
        self.decoder = nn.ModuleList(
            UpsamplingBlock(channels[i], channels[i + 1], condition_dim)
            for i in range(len(sizes) - 1)
        )
        # Corners need one more convolution at the last size; two thirds of what it costs are saved
        # by `to_layers`, which is 1x1 then.
        last, kernel = channels[len(sizes) - 1], 1 if config.refine else 3
        self.refine = nn.Conv2d(last, last, 3, padding=1) if config.refine else None
        # A colour for each layer, and its mask at four sub-pixels.
        self.to_layers = nn.Conv2d(last, config.num_layers * 7, kernel, padding=kernel // 2)
        if not self.to_layers.weight.is_meta:  # where only shapes matter
            self._initialise()
        self.prior = self.completer = None
        if config.noise_dim:
            dim, reader = config.prior_dim, BidirectionalLSTM(config.prior_dim)
            self.prior = LatentPrior(len(tokenizer), config.noise_dim, dim, reader)
        if config.completer_dim:
            dim, reader = config.completer_dim, BidirectionalLSTM(config.completer_dim)
            self.completer = Completer(len(tokenizer), dim, reader)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Convolutions, linear layers and embeddings; LSTM and LayerNorm keep torch's defaults."""
        # Before a leaky ReLU: keep the variance (He et al. 2015). In attention there is none.
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, a=0.2)
                if module.bias is not None:
                    module.bias.zero_()
        for module in self.modules():
            if isinstance(module, (MultiHeadSelfAttention, WordAttention)):
                for layer in module.children():
                    if isinstance(layer, nn.Linear):
                        nn.init.xavier_uniform_(layer.weight)
        # Skips have gain 1, and branches share the variance of the trunk, so that depth does not
        # blow it up; not zero, so that gradients reach every layer from the first step. FiLM starts
        # at scale 1, shift 0 (Perez et al. 2018).
        for block in self.decoder:
            nn.init.kaiming_normal_(block.skip.weight, nonlinearity="linear")
            block.conv2.weight.mul_(len(self.decoder) ** -0.5)
            block.film.weight.zero_()
        if self.refine:
            self.refine.weight.mul_(len(self.decoder) ** -0.5)
        # Attention over words starts at nothing: a plain decoder at first.
        for attention in self.word_attention:
            attention.out.weight.zero_()
            attention.mlp[3].weight.zero_()
            nn.init.normal_(attention.positions, std=0.5)
        # The first images are nearly flat: large random ones would cost the first steps. Layers
        # start with equal masks and different colours, so that each mask has something to learn.
        nn.init.normal_(self.to_layers.weight, std=0.01)
        nn.init.normal_(self.to_layers.bias[: self.config.num_layers * 3], std=0.5)
        # Words: unit variance; the padding word stays zero.
        nn.init.normal_(self.text_encoder.embedding.weight)
        self.text_encoder.embedding.weight[PAD].zero_()
        if self.text_encoder.positions is not None:
            nn.init.normal_(self.text_encoder.positions)

    def forward(
        self,
        tokens: Tensor,
        uniforms: Tensor,
        temperature: float = 1.0,
        return_attention: bool = False,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Draw a batch.

        Args:
            tokens: (B, L) int64, from `tokenize`.
            uniforms: (B, Z) float, within 0..1: they choose the latent.
            temperature: of that choice, times the model's own; 0: the likeliest.
            return_attention: also return a dict of attention weights: "self" (B, N, L, L),
                "words_4x4" (B, N, 16, L), "words_8x8" (B, N, 64, L) and "words_16x16" (B, N, 256,
                L), as far as configured; with halvings, the last is of a smaller map.

        Returns:
            images (B, 3, H, W) float32, about -1..1; not clamped.
        """
        text, latent = self.encode(tokens), self.choose_latent(tokens, uniforms, temperature)
        layers, weights = self.decode(text, latent.to(text.pooled.dtype))
        images = self.enlarge(composite(layers, self.config.mask_scale))
        return (images, weights) if return_attention else images

    def choose_latent(self, tokens: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        """Of the latents (B, Z) that go with the captions, those that the uniforms choose. For the
        arguments see `forward`."""
        if not self.prior:
            return uniforms  # (B, 0)
        with torch.autocast(tokens.device.type, enabled=False):
            temperature = temperature * self.config.latent_temperature
            return self.prior.sample(tokens, uniforms, temperature)

    def encode(self, tokens: Tensor) -> EncodedText:
        """tokens (B, L) -> text; never under autocast, since it is small and all depends on it."""
        with torch.autocast(tokens.device.type, enabled=False):
            words, mask, attention = self.text_encoder(tokens)  # (B, L, D)
            weight = (mask / mask.sum(dim=1, keepdim=True)).to(words.dtype)  # (B, L)
            return EncodedText(words, mask, (words * weight[:, :, None]).sum(dim=1), attention)

    def decode(
        self, text: EncodedText, latent: Tensor, augmentation: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw what the text says and the latent (B, Z) adds, in layers.

        augmentation: (B, A) float, how each training image was changed; None = not at all
        (Karras et al. 2022, non-leaking augmentation).

        Returns:
            layers (B, 7, K, h/2, w/2) float32, for `composite`, where h is H halved `halvings`
            times; attention weights, as `forward`.
        """
        words, mask, pooled, attention = text
        weights = {} if attention is None else {"self": attention}
        with torch.autocast(words.device.type, enabled=False):
            inputs = torch.cat([pooled, latent], dim=1)  # (B, D + Z)
            if augmentation is None:
                augmentation = inputs.new_zeros(len(inputs), self.config.augmentation_dim)
            condition = F.silu(self.condition(torch.cat([inputs, augmentation], dim=1)))  # (B, 2D)
            x = self.fully_connected(inputs).unflatten(1, (-1, 4, 4))  # (B, C, 4, 4)

        # Decoder: look at the words while small, then grow.
        for i, block in enumerate([*self.decoder, None]):
            if i < len(self.word_attention):
                size = self.config.resolutions[i]
                x, weights[f"words_{size}x{size}"] = self.word_attention[i](x, words, mask)
                x = x.contiguous(memory_format=torch.channels_last)
            if block is not None:
                x = block(x, condition, double=i < len(self.decoder) - self.halvings)

        if self.refine:
            x = self.refine(F.leaky_relu(x, 0.2)).add_(x)
        layers = self.to_layers(F.leaky_relu_(x, 0.2))  # (B, 7K, h/2, w/2)
        layers = layers.to(torch.float32, memory_format=torch.contiguous_format)
        return layers.unflatten(1, (7, self.config.num_layers)), weights

    @torch.no_grad()
    def predict_mean(self, tokens: Tensor, augmentation: Tensor | None = None) -> Tensor:
        """The drawing at latent 0, masks as they are: (B, 3, H, W), not clamped. It is near the
        mean of the images with that caption."""
        text = self.encode(tokens)
        latent = text.pooled.new_zeros(len(tokens), self.config.noise_dim)
        layers, _ = self.decode(text, latent, augmentation)
        return self.enlarge(composite(layers, mask_scale=1))

    def enlarge(self, images: Tensor) -> Tensor:
        """What `composite` makes (B, 3, h, w) -> (B, 3, H, W)."""
        if not self.halvings:
            return images
        return F.interpolate(images, self.config.image_size, mode="bilinear")

    def tokenize(self, captions: Sequence[str], device: torch.device | str | None = None) -> Tensor:
        """Captions -> tokens (B, L) int64, padded at the end; on the device of the model, or on
        this one."""
        encoded = [self.tokenizer.encode(caption, self.config.max_tokens) for caption in captions]
        length = max(len(ids) for ids in encoded)
        padded = [ids + [PAD] * (length - len(ids)) for ids in encoded]
        return torch.tensor(padded, device=device or self.to_layers.weight.device)

    def complete(
        self, prompts: str | Sequence[str], seed: int | Sequence[int] = 0, temperature: float = 1.0
    ) -> str | list[str]:
        """Write out what each prompt leaves open; a caption of at most max_tokens.

        A caption depends on (weights, prompt, seed) alone, but for rounding: among others, or on
        another device, a word may flip once in a thousand captions or less. An empty prompt, and
        one without a known word, is completed to any caption. A prompt stays as it is where there
        is no completer.
        seed: one for each prompt, or one for all; temperature: 0 writes the likeliest words.
        """
        single = isinstance(prompts, str)
        prompts = [prompts] if single else list(prompts)
        seeds = list(seed) if hasattr(seed, "__len__") else [seed] * len(prompts)
        captions = prompts
        if self.completer and prompts:
            tokens = self.tokenize(prompts)
            unknown = ((tokens == UNKNOWN) | (tokens == START) | (tokens == PAD)).all(dim=1)
            tokens[:, 1:].masked_fill_(unknown[:, None], PAD)
            uniforms = torch.stack([self.chance(s)[1] for s in seeds]).to(tokens.device)
            with torch.autocast(tokens.device.type, enabled=False):
                written = self.completer.write(tokens, uniforms, temperature)
            captions = [text_of([self.tokenizer.vocabulary[i] for i in ids]) for ids in written]
        return captions[0] if single else captions

    def chance(self, seed: int) -> tuple[Tensor, Tensor]:
        """What a seed means: uniforms (Z,) that choose the latent, and (max_tokens - 1,) that
        choose the words of a completed caption. Drawn on the CPU, so that they are the same for
        every device."""
        generator = torch.Generator().manual_seed(int(seed))
        of_latent = torch.rand(self.config.noise_dim, generator=generator)
        return of_latent, torch.rand(self.config.max_tokens - 1, generator=generator)

    @torch.no_grad()
    def draw(
        self, captions: Sequence[str], seeds: Sequence[int], temperature: float = 1.0
    ) -> Tensor:
        """One image for each pair of caption and seed, as typed -> (B, 3, H, W) float32 in [-1, 1].

        An image depends on (weights, caption, seed, temperature) alone, but for rounding, which
        among others, or on another device, may rarely move a value of the latent to another bin.
        """
        return self(*self._inputs(captions, seeds), temperature).clamp(-1, 1)

    def _inputs(self, captions: Sequence[str], seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Tokens (B, L), and the uniforms (B, Z) that choose the latents."""
        tokens = self.tokenize(captions)
        return tokens, torch.stack([self.chance(s)[0] for s in seeds]).to(tokens.device)

    @torch.no_grad()
    def look(self, caption: str, seed: int = 0, temperature: float = 1.0) -> Look:
        """Draw a caption as it stands, and tell where its words acted."""
        tokens, uniforms = self._inputs([caption], [seed])
        image, weights = self(tokens, uniforms, temperature, return_attention=True)
        size = max((self.config.resolutions[: self.config.word_attentions]), default=4)
        maps = [w[0].mean(dim=0).T for n, w in weights.items() if n != "self"]  # (L, h * h) each
        maps = [m.unflatten(1, (round(m.shape[1] ** 0.5), -1)) for m in maps]  # (L, h, h)
        maps = [m.repeat_interleave(size // m.shape[1], 1).repeat_interleave(size // m.shape[1], 2)
                for m in maps]  # fmt: skip
        num = tokens.shape[1]
        return Look(
            image[0].clamp(-1, 1),
            [self.tokenizer.vocabulary[i] for i in tokens[0].tolist()],
            sum(maps) / len(maps) if maps else image.new_zeros(num, size, size),
            weights["self"][0].mean(dim=0) if "self" in weights else image.new_zeros(num, num),
        )

    @torch.no_grad()
    def interpolate(
        self, captions: Sequence[str], seeds: Sequence[int], num: int, temperature: float = 1.0
    ) -> Tensor:
        """The way from one image to another: (num, 3, H, W) float32 in [-1, 1], of which the first
        and the last are those that `draw` gives for two captions and two seeds. Between them,
        latents and the words at the same places of the captions are mixed."""
        tokens, uniforms = self._inputs(captions, seeds)  # of both: (2, L), (2, Z)
        text, latent = self.encode(tokens), self.choose_latent(tokens, uniforms, temperature)
        second = torch.linspace(0, 1, num, device=tokens.device)
        share = torch.stack([1 - second, second], dim=1).to(text.pooled.dtype)  # (num, 2)
        weight = share[:, :, None] * text.mask  # (num, 2, L)
        there = weight.sum(dim=1)  # (num, L), less than 1 where one caption has no word any more
        words = torch.einsum("nbl,bld->nld", weight, text.words) / there.clamp(min=1e-9)[..., None]
        mixed = EncodedText(words, there, share @ text.pooled, None)
        layers, _ = self.decode(mixed, share @ latent.to(text.pooled.dtype))
        return self.enlarge(composite(layers, self.config.mask_scale)).clamp(-1, 1)

    def generate(
        self,
        prompts: str | Sequence[str],
        seed: int = 0,
        n: int = 1,
        batch_size: int = 32,
        complete: bool = True,
        temperature: float = 1.0,
    ) -> "Image.Image | list[Image.Image]":
        """Draw n images of each prompt, with the seeds seed, seed + 1, ... below 2**32.

        Returns a PIL image, or a list of them where there are several (all of the first prompt
        first). batch_size, how many are drawn at once, does not change the images. complete: write
        out first what a prompt leaves open (see `complete`); an empty prompt asks for any image.
        temperature: of words and latents; 0: the likeliest, whatever the seed. Raises ValueError
        for other seeds or numbers; warns of words that the model does not know.
        """
        from PIL import Image

        single = isinstance(prompts, str)
        prompts = [prompts] if single else list(prompts)
        self._check(prompts, seed, n, temperature)
        pairs = [(p, seed + i) for p in prompts for i in range(n)]
        images = []
        for start in range(0, len(pairs), batch_size):
            captions, seeds = zip(*pairs[start : start + batch_size], strict=True)
            if complete:
                captions = self.complete(captions, seeds, temperature)
            drawn = to_uint8(self.draw(captions, seeds, temperature)).permute(0, 2, 3, 1)
            images += [Image.fromarray(pixels) for pixels in drawn.cpu().numpy()]  # (H, W, 3)
        return images[0] if single and n == 1 else images

    def show(
        self,
        prompt: str,
        seed: int = 0,
        n: int = 1,
        complete: bool = True,
        temperature: float = 1.0,
    ) -> "Image.Image":
        """A picture for notebooks: n drawings, enlarged, with their captions, and where each word
        acted. For the arguments see `generate`."""
        from PIL import Image

        figures = []
        self._check([prompt], seed, n, temperature)
        for s in range(seed, seed + n):
            caption = self.complete(prompt, s, temperature) if complete else prompt
            look = self.look(caption, s, temperature)
            figures.append(look.figure(f"seed {s}: {shown(prompt)}", caption, matrix=False))
        heights = [len(figure) for figure in figures]
        sheet = Image.new("RGB", (figures[0].shape[1], sum(heights)))
        for i, figure in enumerate(figures):
            sheet.paste(Image.fromarray(figure), (0, sum(heights[:i])))
        return sheet

    def _check(self, prompts: Sequence[str], seed: int, n: int, temperature: float) -> None:
        """Raises ValueError for what means nothing, warns of words that do not."""
        if n < 1 or not 0 <= seed <= 2**32 - n:
            raise ValueError("n must be 1 or more, and the seeds between 0 and 2**32 - 1")
        if temperature < 0:
            raise ValueError("temperature must be 0 or more")
        from reports.hints import unknown_hints

        for line in unknown_hints(self, prompts):
            warnings.warn(line, UserWarning, stacklevel=3)

    def __repr__(self) -> str:
        """What a person wants to know of it."""
        config, known = self.config, self.tokenizer.vocabulary[len(SPECIAL_TOKENS) :]
        encoder = {"lstm": "LSTM", "attention": "self-attention", "both": "LSTM and self-attention"}
        parts = {f"text encoder ({encoder[config.text_encoder]})": self.text_encoder,
                 "prior of latents": self.prior,
                 "completer of prompts": self.completer}  # fmt: skip
        counts = {name: sum(p.numel() for p in module.parameters())
                  for name, module in parts.items() if module}  # fmt: skip
        total = sum(p.numel() for p in self.parameters())
        counts["decoder"] = total - sum(counts.values())
        latent = f"{config.noise_dim} values that a seed chooses" if self.prior else "none"
        completes = "completed first" if self.completer else "drawn as typed"
        return "\n".join([
            f"{type(self).__name__}: {config.image_size} x {config.image_size} pixels, "
            f"{total / 1e6:.2f} M parameters",
            *(f"  {name}: {count / 1e6:.2f} M" for name, count in counts.items()),
            f"  words known: {len(known):,}{': ' * bool(known)}{', '.join(known[:8])}"
            f"{', ...' * (len(known) > 8)}",
            f"  prompts: {completes}; captions of at most {config.max_tokens - 1} words",
            f"  latent: {latent}",
        ])  # fmt: skip

    def get_extra_state(self) -> dict:
        """Configuration and vocabulary as plain values; part of every state_dict."""
        config = asdict(self.config) | {"channels": list(self.config.channels)}
        return {"config": config, "tokenizer": self.tokenizer.state_dict()}

    def set_extra_state(self, state: dict) -> None:
        """Nothing left to do: load_state_dict has read it first, to rebuild what differs."""

    def load_state_dict(
        self, state_dict: dict[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As torch's, but takes over configuration and vocabulary, rebuilding where they differ.

        Raises ValueError where the tensors do not fit that configuration, or come from a training
        checkpoint; nothing is changed then.
        """
        if "_extra_state" not in state_dict and {"model", "ema", "images_seen"} <= set(state_dict):
            raise ValueError("this is a checkpoint of training, not a file of weights; "
                             "checkpoint.load_model(path) gives its model")  # fmt: skip
        state_dict = plain_names(state_dict)
        extra = state_dict.get("_extra_state")
        if extra is not None:
            settings = dict(extra["config"])
            if SETTING_OF_THE_FLOW in settings:
                raise ValueError(WITH_A_FLOW)
            config = ModelConfig(**settings | {"channels": tuple(settings["channels"])})
            tokenizer = Tokenizer.from_state_dict(extra["tokenizer"])
            # Shapes alone: nothing is allocated for what does not fit.
            with torch.device("meta"), Uninitialised():
                expected = TextToImageModel(config, tokenizer).state_dict()
            check_fit(state_dict, expected)
            if config != self.config or tokenizer.vocabulary != self.tokenizer.vocabulary:
                device, training = self.to_layers.weight.device, self.training
                self._build(config, tokenizer)
                self.to(device).train(training)
        self.halvings = 0
        return super().load_state_dict(state_dict, strict=strict, assign=assign)
