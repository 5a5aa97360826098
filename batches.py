"""What does a step of training see? It depends on (seed, images seen) alone: runs resume."""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from augment import augment
from dataset import CaptionedImages
from model import TextToImageModel
from tokenizer import PAD, START, UNKNOWN

if TYPE_CHECKING:
    from train import TrainConfig

NOISES = 4  # R, latents of each picture that the flow is fitted to


def generator_for(seed: int, stream: int, clock: int, device: str = "cpu") -> torch.Generator:
    """A generator that depends on these whole numbers alone, not on what was drawn before."""
    mixed = np.random.SeedSequence([seed, stream, clock]).generate_state(1)[0]
    return torch.Generator(device).manual_seed(int(mixed))


@lru_cache(maxsize=1)
def permutation(num_items: int, seed: int, epoch: int) -> list[int]:
    """The order of an epoch: every item once, fresh for each epoch, from (seed, epoch) alone."""
    return torch.randperm(num_items, generator=generator_for(seed, 0, epoch)).tolist()


def hide_words(tokens: Tensor, config: "TrainConfig", generator: torch.Generator) -> Tensor:
    """Word dropout (gives <unk> a meaning) and caption dropout ('' asks for any picture)."""
    words = (tokens != PAD) & (tokens != START)
    hidden = torch.rand(tokens.shape, generator=generator) < config.word_dropout
    tokens = torch.where(words & hidden, UNKNOWN, tokens)
    dropped = torch.rand(len(tokens), 1, generator=generator) < config.caption_dropout
    return torch.where(words & dropped, PAD, tokens)


def shuffle_tags(caption: str, generator: torch.Generator) -> str:
    """The tags of a caption, which commas separate, in another order."""
    tags = [tag.strip() for tag in caption.split(",")]
    return ", ".join(tags[i] for i in torch.randperm(len(tags), generator=generator).tolist())


def items_at(config: "TrainConfig", num: int, clock: int) -> list[int]:
    """Which of the `num` training pictures the step at this clock sees."""
    clocks = range(clock, min(clock + config.batch_size, config.images))
    return [permutation(num, config.seed, c // num)[c % num] for c in clocks]


def training_batch(
    dataset: CaptionedImages, model: TextToImageModel, config: "TrainConfig", clock: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the step at this clock sees; it depends on (seed, clock) alone.

    Returns real (B, 3, H, W) float32, tokens (B, L), noise (R, B, Z), augmentation (B, A).
    """
    device = model.to_layers.weight.device
    rng = generator_for(config.seed, 1, clock)
    items = items_at(config, len(dataset), clock)
    size = len(items)
    pictures, captions = dataset.batch(items)
    if clock + size < config.images:
        dataset.prefetch(items_at(config, len(dataset), clock + size))
    which = torch.rand(size, generator=rng).tolist()
    chosen = [c[int(u * len(c))] for c, u in zip(captions, which, strict=True)]
    if config.shuffle_tags:
        chosen = [shuffle_tags(caption, rng) for caption in chosen]
    tokens = hide_words(model.tokenize(chosen).cpu(), config, rng).to(device)
    noise = torch.randn(NOISES, size, config.noise_dim, generator=rng).to(device)
    on_device = generator_for(config.seed, 2, clock, device)
    real, changes = augment(pictures.to(device), config.augment, config.flip, on_device)
    return real, tokens, noise, changes
