"""Which images and captions does training see? A torch Dataset, and the batches of each step.

    python dataset.py PATH                          check a collection: a report, and a sheet
    python dataset.py PATH --export jsonl OUT       write it in another layout

    CaptionedImages("folder")                          any layout that formats/ reads
    CaptionedImages([("a.png", "a red bird"), ...])    a Python list
    CaptionedImages()                                  the built-in scenes

Each image is decoded once, into a memory-mapped file; epochs after that cost nothing.
Exit status of a check: 0 usable, 1 usable with problems, 2 not usable, or not to be found out.
"""

import copy
import hashlib
import random
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

import scenes
from completion import draw_pair, fullest
from config import AUGMENTATIONS, RESULTS, CheckConfig, DataConfig, Recipe, UserError, run
from formats import Collection, Record, check_or_export, open_collection
from losses import draw_filters
from model import TextToImageModel, from_uint8
from tokenizer import PAD, START, UNKNOWN

LOOKED_AT = 10_000  # images whose captions tell what a collection's captions are like
LENGTHS = 4  # of captions, that batches of the completer differ in
FEW_LENGTHS = 16  # tokens, of which lengths of captions are multiples in recorded steps
NUM_SCENES = {"train": 32_768, "validation": 1_024, "unseen": 1_024, "test": 1_024}
# The largest change of each kind; parameters are fractions of it, -1..1.
BRIGHTNESS, CONTRAST, SATURATION, WARMTH = 0.1, 0.15, 0.2, 0.06  # images range over -1..1
NOISE = 0.04  # standard deviation of the Gaussian noise
SHIFT = 1 / 32  # of the width: 2 pixels of 64
Item = tuple[Tensor, list[str], str]  # image (3, S, S) uint8, captions, relative path


class CaptionedImages(Dataset):
    """Images with their captions; dataset[i] is an Item.

    Args:
        data: a folder (or zip, tar, table), a list of (image path, caption or captions), or None
            for the scenes.
        split: "train", "validation" or another that the collection has (scenes: "unseen" and
            "test"). Where it tells nothing of validation, that is picked by a hash of the path, so
            that an image stays where it is when files are added.
        image_size: S, in pixels.
        validation_fraction: of the images, 0..1, kept out of training.
        cache_dir: folder of the caches of captions and pixels.
        options: how to read and resize, the fields of config.DataConfig: resize="nearest", ...

    Raises UserError where there is no such collection or split, or nothing in it can be read.
    """

    def __init__(
        self,
        data: str | Path | Sequence[tuple[str | Path, str | Sequence[str]]] | None = None,
        split: str = "train",
        image_size: int = 64,
        validation_fraction: float = 0.05,
        cache_dir: str | Path = RESULTS / "cache",
        show_progress: bool = True,
        **options,
    ):
        self.opened = open_collection(
            list_scenes() if data is None else data, DataConfig(**options), image_size,
            Path(cache_dir), validation_fraction, show_progress
        )  # fmt: skip
        self.collection, self.rows = self.opened.collection, self.opened.rows
        self.splits = self.opened.splits  # name -> numbers of its records
        if split not in (*self.splits, "train", "validation"):
            has = ", ".join(sorted(self.splits))
            raise UserError(f"{data or 'the scenes'} has no split {split!r}; it has {has}")
        self.indices = self.opened.indices(split)  # the record of each item
        self.seconds_waited = 0.0  # for images, by all that asked for batches

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Item:
        images, (record,) = self._read([self.indices[i]])
        return images[0], list(record.captions), record.path

    def other_split(self, split: str) -> "CaptionedImages":
        """The same collection, another split of it."""
        return self._with_indices(self.opened.indices(split))

    def once(self) -> "CaptionedImages":
        """The same images, each once, however often an epoch shows it."""
        return self._with_indices(np.unique(self.indices))

    def _with_indices(self, indices: np.ndarray) -> "CaptionedImages":
        other = copy.copy(self)
        other.indices = indices
        return other

    def batch(self, numbers: Sequence[int]) -> tuple[Tensor, list[tuple[str, ...]]]:
        """The images (B, 3, S, S) uint8 and the captions of several items at once."""
        images, records = self._read(self.indices[list(numbers)])
        return images, [record.captions for record in records]

    def prefetch(self, numbers: Sequence[int]) -> None:
        """Begin to decode the batch that will be asked for next, where there is no cache."""
        self.opened.prefetch(self.indices[list(numbers)])

    def _read(self, numbers: Sequence[int]) -> tuple[Tensor, list[Record]]:
        began = time.monotonic()
        images, records = self.opened.read(numbers, self.indices)
        self.seconds_waited += time.monotonic() - began
        return torch.from_numpy(images), records

    def captions(self, limit: int | None = None) -> list[str]:
        """All captions of this split; with a limit, those of so many images, evenly spread."""
        return self.opened.captions(self.indices, limit)

    def captions_at(self, numbers: Sequence[int]) -> list[tuple[str, ...]]:
        """The captions of several items, without their images."""
        return [self.collection.records[self.indices[i]].captions for i in numbers]

    def captions_of_each(self, limit: int) -> list[tuple[str, ...]]:
        """The captions of so many images, evenly spread."""
        num = min(limit, len(self))
        return self.captions_at([i * len(self) // num for i in range(num)])

    def fingerprint(self, version: int = 1) -> str:
        """Changes with the captions of this split, with its images as they are trained on, and
        with `version`."""
        return self.opened.fingerprint(self.indices, version)

    def summary(self) -> str:
        """What was found, in a few lines."""
        return self.opened.summary()


def collate(items: Sequence[Item]) -> tuple[Tensor, list[list[str]], list[str]]:
    """For a DataLoader: images (B, 3, S, S) uint8, the captions of each, and paths. Images may have
    different numbers of captions."""
    images, captions, paths = zip(*items, strict=True)
    return torch.stack(images), list(captions), list(paths)


def list_scenes() -> Collection:
    """The built-in scenes as a collection; the images are drawn when the cache is built."""
    records = [
        Record(f"{split}/{i:06d}", scenes.compose(0, i, split)[1], split)
        for split, num in NUM_SCENES.items()
        for i in range(num)
    ]
    code = hashlib.blake2b(Path(scenes.__file__).read_bytes(), digest_size=8).digest()
    stamp = int.from_bytes(code, "big")
    return Collection("scenes", "built-in", None, records, draw=draw_scene, stamp=stamp)


def draw_scene(record: Record, size: int) -> np.ndarray:
    """The image (size, size, 3) uint8 of a record of `list_scenes`."""
    split, index = record.path.split("/")
    return scenes.render(0, int(index), split, size)[0]


# What a step of training sees; it depends on (seed, images seen) alone, so that runs resume.


class Batch(NamedTuple):
    images: Tensor  # (B, 3, H, W) float32, real ones
    tokens: Tensor  # (B, L), of the fullest caption of each, or of any, see `kind_of_pairs`
    noise: Tensor  # (B, Z) float32, standard normal
    augmentation: Tensor  # (B, A) float32, how each image was changed
    filters: Tensor  # (scales, filters, 3, 5, 5), of the patches that are compared


def generator_for(
    seed: int, stream: int, images_seen: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator that depends on these whole numbers alone, not on what was drawn before."""
    mixed = np.random.SeedSequence([seed, stream, images_seen]).generate_state(1)[0]
    return torch.Generator(device).manual_seed(int(mixed))


@lru_cache(maxsize=1)
def permutation(num_items: int, seed: int, epoch: int) -> list[int]:
    """The order of an epoch: every item once, fresh for each epoch, from (seed, epoch) alone."""
    return torch.randperm(num_items, generator=generator_for(seed, 0, epoch)).tolist()


def augment(
    images: Tensor, fraction: float, flip: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Vary a fraction of the images a little: colours, noise, small shifts, and if asked mirroring.

    Args:
        images: (B, 3, H, W) uint8.
        fraction: probability 0..1 that an image is varied; the others get parameters 0.
        flip: whether half of all images are mirrored.
        generator: on the device of the images.

    Returns:
        (B, 3, H, W) float32 in -1..1, and (B, A) float32, a parameter for each of AUGMENTATIONS.
    """
    x = from_uint8(images)
    num, _, height, width = x.shape

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=x.device)

    parameters = torch.zeros(num, len(AUGMENTATIONS), device=x.device)
    told = dict(zip(AUGMENTATIONS, parameters.unbind(dim=1), strict=True))  # name -> its column
    if fraction > 0:
        varied = draw(num) < fraction
        drawn = [name for name in AUGMENTATIONS if name != "mirror"]
        for name, value in zip(drawn, draw(num, len(drawn)).unbind(dim=1), strict=True):
            told[name].copy_(torch.where(varied, 2 * value - 1, 0))
        told["noise"].abs_()  # its strength has no sign
    if flip:
        told["mirror"].copy_((draw(num) < 0.5).float())
    steps = max(1, round(SHIFT * width))  # whole pixels; the parameters tell what is really done
    for name in ("down", "right"):
        told[name].copy_((told[name] * steps).round() / steps)
    change = {name: column[:, None, None, None] for name, column in told.items()}  # (B, 1, 1, 1)

    # Colours.
    gray = x.mean(dim=1, keepdim=True)
    x = x + (x - gray) * SATURATION * change["saturation"]  # exactly x where nothing changes
    x = x * (1 + CONTRAST * change["contrast"]) + BRIGHTNESS * change["brightness"]
    warm = torch.tensor([1.0, 0.0, -1.0], device=x.device)[:, None, None]
    x = x + WARMTH * change["warmth"] * warm
    x = x + NOISE * change["noise"] * torch.randn(x.shape, generator=generator, device=x.device)

    # Places, the border repeated.
    down, right = ((told[name] * steps).round()[:, None] for name in ("down", "right"))  # (B, 1)
    rows = torch.arange(height, device=x.device)[None] - down  # (B, H)
    columns = torch.arange(width, device=x.device)[None] - right  # (B, W)
    columns = torch.where(told["mirror"][:, None] > 0, width - 1 - columns, columns)
    rows, columns = rows.clamp(0, height - 1).long(), columns.clamp(0, width - 1).long()
    batch = torch.arange(num, device=x.device)[:, None, None]
    x = x.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]  # (B, H, W, 3)
    return x.permute(0, 3, 1, 2).clamp(-1, 1), parameters


def hide_words(tokens: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Word dropout (gives <unk> a meaning) and caption dropout ('' asks for any image)."""
    words = (tokens != PAD) & (tokens != START)
    hidden = torch.rand(tokens.shape, generator=generator) < recipe.word_dropout
    tokens = torch.where(words & hidden, UNKNOWN, tokens)
    dropped = torch.rand(len(tokens), 1, generator=generator) < recipe.caption_dropout
    return torch.where(words & dropped, PAD, tokens)


def shuffle_tags(caption: str, generator: torch.Generator) -> str:
    """The tags of a caption, which commas separate, in another order."""
    tags = [tag.strip() for tag in caption.split(",")]
    return ", ".join(tags[i] for i in torch.randperm(len(tags), generator=generator).tolist())


def items_at(recipe: Recipe, num_items: int, images_seen: int) -> list[int]:
    """Which of the training images the step sees that begins after so many."""
    clocks = range(images_seen, min(images_seen + recipe.batch_size, recipe.images))
    return [permutation(num_items, recipe.seed, c // num_items)[c % num_items] for c in clocks]


def training_batch(
    dataset: CaptionedImages, model: TextToImageModel, recipe: Recipe, images_seen: int
) -> Batch:
    """What the step sees that begins after so many images, on the device of the model."""
    device = next(model.parameters()).device
    rng = generator_for(recipe.seed, 1, images_seen)
    items = items_at(recipe, len(dataset), images_seen)
    size = len(items)
    images, captions = dataset.batch(items)
    if images_seen + size < recipe.images:
        dataset.prefetch(items_at(recipe, len(dataset), images_seen + size))
    if recipe.pairs == "each":
        which = torch.rand(size, generator=rng).tolist()
        chosen = [c[int(u * len(c))] for c, u in zip(captions, which, strict=True)]
    else:
        chosen = [fullest(c) for c in captions]
    if recipe.shuffle_tags:
        chosen = [shuffle_tags(caption, rng) for caption in chosen]
    tokens = hide_words(model.tokenize(chosen, "cpu"), recipe, rng).to(device)
    noise = torch.randn((size, model.config.noise_dim), generator=rng).to(device)
    on_device = generator_for(recipe.seed, 2, images_seen, device)
    real, changes = augment(images.to(device), recipe.augment, recipe.flip, on_device)
    of_filters = generator_for(recipe.seed, 3, images_seen)
    filters = draw_filters(of_filters, recipe.swd_filters, recipe.swd_scales).to(device)
    return Batch(real, tokens, noise, changes, filters)


def completer_batch(
    dataset: CaptionedImages,
    model: TextToImageModel,
    recipe: Recipe,
    images_seen: int,
    num: int,
) -> tuple[Tensor, Tensor]:
    """Prompts (N, L) and full captions (N, T) for the completer, completer_pairs for each of `num`
    images."""
    rng = generator_for(recipe.seed, 4, images_seen)
    chance = random.Random(int(torch.randint(2**40, (), generator=rng)))
    wanted = num * recipe.completer_pairs
    some = [int(chance.random() * len(dataset)) for _ in range(LENGTHS * wanted)]
    # Of about one length, so that little is padding: a step takes half the time.
    by_length = sorted(dataset.captions_at(some), key=lambda captions: len(fullest(captions)))
    first = int(chance.random() * LENGTHS) * wanted
    pairs = [draw_pair(c, chance, recipe.pairs) for c in by_length[first : first + wanted]]
    prompts, captions = (model.tokenize(texts, "cpu") for texts in zip(*pairs, strict=True))
    device = next(model.parameters()).device
    return insert_unknown(prompts, recipe.unknown_share, rng).to(device), captions.to(device)


def insert_unknown(prompts: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """In half of the prompts (N, L), put an unknown word after a word, or at the beginning, this
    often: the completer learns that it means nothing. share: 0..1. Returns (N, up to 2 * L)."""
    chance = torch.rand(len(prompts), 1 + prompts.shape[1], generator=rng)
    chosen = (chance[:, :1] < 0.5) & (chance[:, 1:] < share) & (prompts != PAD)
    both = torch.stack([prompts, torch.where(chosen, UNKNOWN, PAD)], dim=2).flatten(1)  # (N, 2 * L)
    both = both.gather(1, (both == PAD).int().argsort(dim=1, stable=True))  # padding at the end
    return both[:, : (both != PAD).sum(dim=1).max()]


def pad(tokens: Tensor) -> Tensor:
    """tokens (N, L) -> (N, the next multiple of FEW_LENGTHS)."""
    return F.pad(tokens, (0, -tokens.shape[1] % FEW_LENGTHS), value=PAD)


class Given(NamedTuple):
    """What a step learns from."""

    size: int  # images, or as many pairs of captions
    batch: Batch | None  # None: only the completer learns
    pairs: tuple[Tensor, Tensor] | None  # prompts (N, L), captions (N, T); None: no completer

    def part(self, index: int, num_parts: int) -> tuple["Given", float]:
        """One of several parts of about the same size, and its share of the whole; where images
        are too few for all, the first one, with share 0."""
        if num_parts == 1:
            return self, 1.0
        some = slice(index, None, num_parts) if index < self.size else slice(1)
        size = len(range(self.size)[some])
        batch = self.batch and Batch(*(tensor[some] for tensor in self.batch))
        batch = batch and batch._replace(filters=self.batch.filters)  # those of all images
        several = self.pairs and len(self.pairs[0]) // self.size  # pairs for each image
        pairs = self.pairs and tuple(t.unflatten(0, (self.size, several))[some].flatten(0, 1)
                                     for t in self.pairs)  # fmt: skip
        return Given(size, batch, pairs), size / self.size if index < self.size else 0.0

    def tensors(self) -> list[Tensor]:
        """All that it holds, for `like_this`."""
        return [*(self.batch or ()), *(self.pairs or ())]

    def like_this(self, tensors: Sequence[Tensor]) -> "Given":
        """The same with other tensors."""
        num = len(self.batch or ())
        batch = self.batch and Batch(*tensors[:num])
        return Given(self.size, batch, self.pairs and tuple(tensors[num:]))

    def padded(self) -> "Given":
        """The same, with captions padded to a multiple of FEW_LENGTHS tokens."""
        batch = self.batch and self.batch._replace(tokens=pad(self.batch.tokens))
        return Given(self.size, batch, self.pairs and tuple(map(pad, self.pairs)))


def given_at(
    dataset: CaptionedImages, model: TextToImageModel, recipe: Recipe, images_seen: int
) -> Given:
    """What the step learns from that begins after so many images."""
    num = min(recipe.batch_size, recipe.images - images_seen)
    batch = pairs = None
    if not recipe.completer_only:
        batch = training_batch(dataset, model, recipe, images_seen)
    if model.completer:
        pairs = completer_batch(dataset, model, recipe, images_seen, num)
    return Given(num, batch, pairs)


if __name__ == "__main__":
    run(check_or_export, CheckConfig, __doc__)
