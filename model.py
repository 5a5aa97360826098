"""How does a caption become a picture?

    embedding -> LSTM -> multi-head self-attention -> fully connected layer -> residual decoder

Shapes, the same letters in every file:
    B pictures, L tokens of the longest caption, D width of the text, Z width of the noise,
    A parameters of the augmentation, C channels, H W height and width, N heads, Q queries,
    K layers, S size of a square picture.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flow import NoiseFlow
from tokenizer import PAD, Tokenizer

IMAGE_SIZES = (32, 64, 128, 256)
TEXT_ENCODERS = ("lstm", "attention", "both")
TRUNCATION = 0.85  # of the noise when drawing, so that drawings vary as pictures do
FARTHEST_LATENT = 3.0  # value drawn from: training shows few beyond, and far ones become noise
NUM_LAYERS = 6  # that a picture is composed of
AUGMENTATION_DIM = 8  # what augment.py tells the generator about each training picture; 0 = nothing


@dataclass(frozen=True)
class ModelConfig:
    image_size: int = 64  # pixels; one of IMAGE_SIZES
    text_encoder: str = "both"  # lstm | attention | both, one after the other
    text_dim: int = 192  # D, width of words and captions
    max_tokens: int = 64  # longer captions are cut
    num_heads: int = 4  # N, of every attention
    noise_dim: int = 64  # Z; 0 = one picture per caption
    sharpness: float = 3.0  # of masks when drawing; 1 = what they leave open is blended
    halvings: int = 0  # of the sides of pictures; more than 0 early in training alone
    # C at 4, 8, 16, 32, 64 and 128 px; a model of S px uses those below S.
    channels: tuple[int, ...] = (168, 128, 84, 56, 32, 24)

    def __post_init__(self) -> None:
        kinds = {"text_encoder": str, "sharpness": (int, float), "channels": tuple}
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, kinds.get(name, int)):
                raise ValueError(f"{name} has the wrong type, {type(value).__name__}")
        for name, choices in {"image_size": IMAGE_SIZES, "text_encoder": TEXT_ENCODERS}.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, not {getattr(self, name)!r}")
        sizes = (self.text_dim // 2, *self.channels)
        odd = self.num_heads < 1 or self.text_dim % 2
        if odd or any(c < 1 or c % self.num_heads for c in sizes):
            raise ValueError("num_heads must divide half of text_dim and every entry of channels")
        if len(self.channels) < len(self.resolutions):
            raise ValueError(f"channels needs an entry for each of {self.resolutions} px")
        if not 0 <= self.halvings <= self.most_halvings:
            raise ValueError(f"halvings must be between 0 and {self.most_halvings}")
        if self.noise_dim < 0 or self.max_tokens < 2 or not 0 < self.sharpness < math.inf:
            raise ValueError("noise_dim must be >= 0, max_tokens >= 2 and sharpness > 0")

    @property
    def most_halvings(self) -> int:
        """All blocks but the first can do without enlarging: words are looked at on both sides."""
        return len(self.resolutions) - 2

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Sizes of the feature maps: 4, 8, ... half of image_size."""
        return tuple(4 * 2**i for i in range(int(math.log2(self.image_size)) - 2))


def from_uint8(pictures: Tensor) -> Tensor:
    """uint8 0..255 -> float32 -1..1, any shape."""
    return pictures.float() / 127.5 - 1


def to_uint8(pictures: Tensor) -> Tensor:
    """float -1..1 -> uint8 0..255, any shape; values outside are clamped."""
    return ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def attend(
    query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor, num_heads: int
) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1) with several heads.

    query (B, Q, C), key and value (B, L, C), key_mask (B, L) True where there is a word
    -> result (B, Q, C), weights (B, N, Q, L) that sum to 1 over L and are 0 on padding.
    """
    query, key, value = (
        x.unflatten(2, (num_heads, -1)).transpose(1, 2) for x in (query, key, value)
    )
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])  # (B, N, Q, L)
    weights = scores.masked_fill(~key_mask[:, None, None, :], float("-inf")).softmax(dim=3)
    return (weights @ value).transpose(1, 2).flatten(2), weights  # (B, Q, C)


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
    """What each word means after the words before it, and before the words after it.

    Two plain LSTMs, of which one reads from the last word to the first. One that is bidirectional
    would need packed sequences to know where captions end, which torch runs slowly on a CPU.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.ahead = nn.LSTM(dim, dim // 2, batch_first=True)
        self.back = nn.LSTM(dim, dim // 2, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, D), mask (B, L) True on words, padding at the end -> (B, L, D), without meaning
        on padding."""
        places = torch.arange(x.shape[1], device=x.device)
        last = mask.sum(dim=1, keepdim=True) - 1  # (B, 1)
        reversed_places = torch.where(mask, last - places, places)[:, :, None]  # (B, L, 1)
        ahead, _ = self.ahead(x)  # (B, L, D/2)
        back, _ = self.back(x.take_along_dim(reversed_places, dim=1))
        return torch.cat([ahead, back.take_along_dim(reversed_places, dim=1)], dim=2)  # (B, L, D)


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
    """Each place of a feature map looks for its words: pre-norm cross-attention, then an MLP."""

    def __init__(self, channels: int, size: int, text_dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.positions = nn.Parameter(torch.empty(size * size, channels))
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(text_dim, 2 * channels)
        self.out = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, 2 * channels),
            nn.GELU(),
            nn.Linear(2 * channels, channels),
        )

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W), words (B, L, D), mask (B, L) -> (B, C, H, W), weights (B, N, HW, L)."""
        height, width = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)  # (B, HW, C)
        query = self.query(self.norm(x) + self.positions)
        key, value = self.key_value(words).chunk(2, dim=2)
        attended, weights = attend(query, key, value, mask, self.num_heads)
        x = x + self.out(attended)
        x = x + self.mlp(x)
        return x.transpose(1, 2).unflatten(2, (height, width)), weights  # (B, C, H, W)


class UpsamplingBlock(nn.Module):
    """Twice the size, if asked: x -> up(skip(x)) + conv(act(up(FiLM(conv(act(x)))))).

    FiLM (Perez et al. 2018): each channel is scaled and shifted by what the caption, the latent
    and the augmentation say. Channels change before the size does, where it costs a quarter.
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
        h = h * (1 + scale) + shift
        if double:
            skip, h = (F.interpolate(y, scale_factor=2, mode="bilinear") for y in (skip, h))
        return skip + self.conv2(F.leaky_relu(h, 0.2))  # (B, C', 2H, 2W) or (B, C', H, W)


def compose(layers: Tensor, sharpness: float) -> Tensor:
    """Put the layers over one another, like paper cut-outs: each pixel is a mixture of them.

    A mask that jumps from 0 to 1 is a sharp edge. Masks reach the full size by pixel shuffle (Shi
    et al. 2016), so that the costly convolutions stay at half of it; a layer has one colour for
    four pixels.

    layers: (B, 7, K, H/2, W/2) float32, red, green, blue and the logits of the mask at four
    sub-pixels; sharpness: factor of the logits; more than 1 chooses where the layers are mixed for
    doubt.
    Returns (B, 3, H, W) float32.
    """
    colours, masks = layers.split([3, 4], dim=1)  # (B, 3 or 4, K, H/2, W/2)
    masks = (sharpness * masks).softmax(dim=2)
    pairs = zip(colours[:, :, None].unbind(3), masks[:, None].unbind(3), strict=True)
    x = sum(colour * mask for colour, mask in pairs)  # (B, 3, 4, H/2, W/2)
    return F.pixel_shuffle(x.flatten(1, 2), 2)  # (B, 3, H, W)


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
    mask: Tensor  # (B, L), True on words
    caption: Tensor  # (B, D), mean over the words
    attention: Tensor | None  # (B, N, L, L), of words to words


class TextToImageModel(nn.Module):
    """Captions and noise in, pictures out, in one pass. See ModelConfig for the parts.

    The state_dict carries configuration and vocabulary, and load_state_dict rebuilds the modules
    where they differ, so that TextToImageModel() can load any trained file. Make optimisers after.
    """

    def __init__(self, config: ModelConfig | None = None, tokenizer: Tokenizer | None = None):
        super().__init__()
        self._build(config or ModelConfig(), tokenizer or Tokenizer())

    def _build(self, config: ModelConfig, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        sizes, channels = config.resolutions, config.channels
        input_dim = config.text_dim + config.noise_dim
        condition_dim = 2 * config.text_dim
        self.text_encoder = TextEncoder(config, len(tokenizer))
        self.flow = NoiseFlow(config.noise_dim, config.text_dim)
        self.fully_connected = nn.Linear(input_dim, channels[0] * 4 * 4)
        self.condition = nn.Linear(input_dim + AUGMENTATION_DIM, condition_dim)
        self.word_attention = nn.ModuleList(
            WordAttention(c, size, config.text_dim, config.num_heads)
            for c, size in zip(channels, sizes[:2], strict=False)
        )
        self.decoder = nn.ModuleList(
            UpsamplingBlock(channels[i], channels[i + 1], condition_dim)
            for i in range(len(sizes) - 1)
        )
        # A colour for each layer, and its mask at four sub-pixels.
        self.to_layers = nn.Conv2d(channels[len(sizes) - 1], NUM_LAYERS * (3 + 4), 3, padding=1)
        self._initialise()

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
        for coupling in self.flow.couplings:  # latents start as the noise itself
            coupling.net[-1].weight.zero_()
        # Attention over words starts at nothing: a plain decoder at first.
        for attention in self.word_attention:
            attention.out.weight.zero_()
            attention.mlp[3].weight.zero_()
            nn.init.normal_(attention.positions, std=0.5)
        # The first pictures are nearly flat: large random ones would cost the first steps. Layers
        # start with equal masks and different colours, so that each mask has something to learn.
        nn.init.normal_(self.to_layers.weight, std=0.01)
        nn.init.normal_(self.to_layers.bias[: NUM_LAYERS * 3], std=0.5)
        # Words: unit variance; the padding word stays zero.
        nn.init.normal_(self.text_encoder.embedding.weight)
        self.text_encoder.embedding.weight[PAD].zero_()
        if self.text_encoder.positions is not None:
            nn.init.normal_(self.text_encoder.positions)

    def forward(
        self, tokens: Tensor, noise: Tensor, return_attention: bool = False
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Draw a batch.

        Args:
            tokens: (B, L) int64, from `tokenize`.
            noise: (B, Z) float, standard normal.
            return_attention: also return a dict of attention weights: "self" (B, N, L, L),
                "words_4x4" (B, N, 16, L) and "words_8x8" (B, N, 64, L), as far as configured.

        Returns:
            pictures (B, 3, H, W) float32, about -1..1; not clamped.
        """
        text = self.encode(tokens)
        with torch.autocast(tokens.device.type, enabled=False):
            latent = self.flow(noise, text.caption).clamp(-FARTHEST_LATENT, FARTHEST_LATENT)
        layers, weights = self.decode(text, latent)
        pictures = self.enlarge(compose(layers, self.config.sharpness))
        return (pictures, weights) if return_attention else pictures

    def encode(self, tokens: Tensor) -> EncodedText:
        """tokens (B, L) -> text; in float32 also under autocast, since it is small and the rest
        depends on it."""
        with torch.autocast(tokens.device.type, enabled=False):
            words, mask, attention = self.text_encoder(tokens)  # (B, L, D)
            share = mask / mask.sum(dim=1, keepdim=True)  # (B, L)
            return EncodedText(words, mask, (words * share[:, :, None]).sum(dim=1), attention)

    def decode(
        self, text: EncodedText, latent: Tensor, augmentation: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw what the text says and the latent (B, Z) adds, in layers.

        augmentation: (B, A) float, how each training picture was changed; None = not at all
        (Karras et al. 2022, non-leaking augmentation).

        Returns:
            layers (B, 7, K, h/2, w/2) float32, for `compose`, where h is H halved as often as the
            configuration tells: so many of the last blocks do not enlarge; attention weights, as
            `forward`.
        """
        words, mask, caption, attention = text
        weights = {} if attention is None else {"self": attention}
        with torch.autocast(words.device.type, enabled=False):
            inputs = torch.cat([caption, latent], dim=1)  # (B, D + Z)
            if augmentation is None:
                augmentation = inputs.new_zeros(len(inputs), AUGMENTATION_DIM)
            condition = F.silu(self.condition(torch.cat([inputs, augmentation], dim=1)))
            x = self.fully_connected(inputs).unflatten(1, (-1, 4, 4))  # (B, C, 4, 4)

        # Decoder: look at the words while small, then grow.
        for i, block in enumerate([*self.decoder, None]):
            if i < len(self.word_attention):
                size = self.config.resolutions[i]
                x, weights[f"words_{size}x{size}"] = self.word_attention[i](x, words, mask)
                x = x.contiguous(memory_format=torch.channels_last)
            if block is not None:
                x = block(x, condition, double=i < len(self.decoder) - self.config.halvings)

        layers = self.to_layers(F.leaky_relu(x, 0.2))
        layers = layers.to(torch.float32, memory_format=torch.contiguous_format)  # as compose reads
        return layers.unflatten(1, (-1, NUM_LAYERS)), weights

    @torch.no_grad()
    def guess(self, tokens: Tensor, augmentation: Tensor | None = None) -> Tensor:
        """The drawing without a latent, masks not sharpened: (B, 3, H, W), not clamped. It is near
        the mean of the pictures with that caption."""
        latent = torch.zeros(len(tokens), self.config.noise_dim, device=tokens.device)
        layers, _ = self.decode(self.encode(tokens), latent, augmentation)
        return self.enlarge(compose(layers, sharpness=1))

    def enlarge(self, pictures: Tensor) -> Tensor:
        """What `compose` makes (B, 3, h, w) -> (B, 3, H, W)."""
        if not self.config.halvings:
            return pictures
        return F.interpolate(pictures, self.config.image_size, mode="bilinear")

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Captions -> tokens (B, L) int64 on the device of the model, padded at the end."""
        encoded = [self.tokenizer.encode(caption, self.config.max_tokens) for caption in captions]
        length = max(len(ids) for ids in encoded)
        padded = [ids + [PAD] * (length - len(ids)) for ids in encoded]
        return torch.tensor(padded, device=self.to_layers.weight.device)

    @torch.no_grad()
    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """One picture for each pair of prompt and seed -> (B, 3, H, W) float32 in [-1, 1].

        A picture depends on (weights, prompt, seed) alone. An empty prompt asks for any picture.
        Noise lies closer to its mean than the flow expects (truncation, Brock et al. 2019).
        """
        noise = [
            torch.randn(self.config.noise_dim, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]  # drawn on the CPU, so that a seed means the same on every device
        tokens = self.tokenize(prompts)
        return self(tokens, TRUNCATION * torch.stack(noise).to(tokens.device)).clamp(-1, 1)

    def generate(
        self, prompts: str | Sequence[str], seed: int = 0, n: int = 1, batch_size: int = 32
    ):
        """Draw n pictures of each prompt, with the seeds seed, seed + 1, ... below 2**32.

        Returns a PIL picture, or a list of them where there are several (all of the first prompt
        first). batch_size, how many are drawn at once, does not change the pictures.
        """
        from PIL import Image

        if n < 1 or not 0 <= seed <= 2**32 - n:
            raise ValueError("n must be 1 or more, and the seeds between 0 and 2**32 - 1")
        single = isinstance(prompts, str)
        pairs = [(p, seed + i) for p in ([prompts] if single else prompts) for i in range(n)]
        pictures = []
        for start in range(0, len(pairs), batch_size):
            batch = self.draw(*zip(*pairs[start : start + batch_size], strict=True))
            for pixels in to_uint8(batch).permute(0, 2, 3, 1).cpu().numpy():  # (H, W, 3)
                pictures.append(Image.fromarray(pixels))
        return pictures[0] if single and n == 1 else pictures

    def get_extra_state(self) -> dict:
        """Configuration and vocabulary as plain values; part of every state_dict."""
        config = asdict(self.config) | {"channels": list(self.config.channels)}
        return {"config": config, "tokenizer": self.tokenizer.state_dict()}

    def set_extra_state(self, state: dict) -> None:
        """Nothing left to do: load_state_dict has read it first, to rebuild what differs."""

    def load_state_dict(self, state_dict: dict, strict: bool = True, assign: bool = False):
        """As torch's, but takes over configuration and vocabulary, rebuilding where they differ.

        Raises ValueError where the tensors do not fit that configuration; nothing is changed then.
        """
        extra = state_dict.get("_extra_state")
        if extra is not None:
            config = ModelConfig(
                **extra["config"] | {"channels": tuple(extra["config"]["channels"])}
            )
            tokenizer = Tokenizer.from_state_dict(extra["tokenizer"])
            with torch.device("meta"):  # shapes alone: nothing is allocated for what does not fit
                expected = TextToImageModel(config, tokenizer).state_dict()
            check_fit(state_dict, expected)
            if config != self.config or tokenizer.vocabulary != self.tokenizer.vocabulary:
                device, training = self.to_layers.weight.device, self.training
                self._build(config, tokenizer)
                self.to(device).train(training)
        return super().load_state_dict(dict(state_dict), strict=strict, assign=assign)
