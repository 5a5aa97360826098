"""Which settings does each script have, how are they given, and how are user errors reported?

A setting is a field of a frozen dataclass. Those that users want are flags (--name value); where a
script has more of them, all can be given with --set name=value, or in a JSON file by --config FILE.
"""

import argparse
import difflib
import errno
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:  # functions import torch where they need it: formats/ does without
    import torch

VERSION = "0.1.0"  # of the project, as in pyproject.toml
IMAGE_SIZES = (32, 64, 128, 256)
TEXT_ENCODERS = ("lstm", "attention", "both")
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text",
         tuple: "a list of numbers, as in 1,2,3", list: "a list of texts"}  # fmt: skip
# What the decoder is told of how a training image was changed, a column each (dataset.augment).
AUGMENTATIONS = ("brightness", "contrast", "saturation", "warmth", "noise", "down", "right",
                 "mirror")  # fmt: skip
COMPLETER_HEADS = 8  # of its attentions, but the one that copies
PRIOR_HEADS = 4  # of its attention
SETTING_OF_THE_FLOW = "prior_couplings"  # older files have it, and are refused
WITH_A_FLOW = ("it is of the time when latents came from a flow, which commit "
               "40d3ebf2320e682c53d2cabeb7f976496df81276 is the last to read")  # fmt: skip
RESULTS = Path("results")  # results/<run>/checkpoint.pth
SHIPPED_WEIGHTS = Path(__file__).parent / "results_short" / "text_to_image_model.pth"
# What people type, and what it is called here.
MEANT = {"--prompt": "--input", "--text": "--input", "--caption": "--input", "--smoke":
         "--preset smoke", "--epochs": "--images", "--steps": "--images", "--dataset": "--data",
         "--name": "--run", "--resume": "--run"}  # fmt: skip
FIRST = "What people need first; in brackets: the default"
FEW = 100  # images; fewer are not enough to learn from
# What a collection of so many training images asks for, where no flag does.
SCENES_IMAGES = 80_000  # a run on the scenes sees
EPOCHS = 40  # any other run sees each image about so often,
FEWEST_SEEN, MOST_SEEN = 30_000, 600_000  # but so many in all
LONGEST_NAME = 100  # bytes
MANY = 15_000  # images; of more, words that one caption has are no words to learn
ALIKE = 3.0  # images for each caption, from which on latents tell them apart
RESERVED = ("cache", "evaluation", "judges")  # folders of results/ that are no runs


def run_length(num_images: int, scenes: bool) -> int:
    """Images that a run on a collection of so many sees."""
    return SCENES_IMAGES if scenes else min(max(FEWEST_SEEN, EPOCHS * num_images), MOST_SEEN)


def word_minimum(num_images: int) -> int:
    """How often captions of so many images hold a word that is worth learning."""
    return 1 if num_images <= MANY else 2


class UserError(ValueError):
    """A mistake its user can mend: one sentence that says what is wrong, where, and what to do."""


def setting(
    default: Any,
    help: str,
    choices: tuple | None = None,
    *,
    flag: bool = True,
    first: bool = False,
    positional: bool = False,
    fraction: bool = False,
    positive: bool = False,
    least: int = 0,
    several: bool = False,
) -> Any:
    """A field of a dataclass of settings.

    flag: has a flag of its own, or only --set; first: --help tells it first; positional: an
    argument without a flag; fraction: within 0 and 1; positive: more than 0; least: the least
    number; several: a list whose flag takes several values at once.
    """
    metadata = {"help": help, "choices": choices, "flag": flag, "first": first,
                "positional": positional, "fraction": fraction, "positive": positive,
                "least": least, "several": several}  # fmt: skip
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def hidden(default: Any, choices: tuple | None = None, **more: bool) -> Any:
    """A setting without a flag of its own."""
    return setting(default, "", choices, flag=False, **more)


def name_of(f: Field) -> str:
    """What a user types to give this setting: --name, or --set name."""
    return "--" + f.name.replace("_", "-") if f.metadata["flag"] else f"--set {f.name}"


def check_values(config: object) -> None:
    """Raises UserError where a setting has the wrong type, is none of its choices, or is out of
    range."""
    for f in fields(config):
        value, name, default = getattr(config, f.name), name_of(f), default_of(f)
        if type(value) is int and isinstance(default, float):
            value = float(value)
        if type(value) is not type(default):
            raise UserError(f"{name} takes {KINDS[type(default)]}, not {value!r}")
        choices = f.metadata["choices"]
        if choices and value not in choices:
            raise UserError(f"{name} is one of {choices}, not {value!r}")
        numbers = value if isinstance(value, tuple) else (value,)
        if isinstance(value, tuple) and not {type(n) for n in value} <= {int, type(default[0])}:
            raise UserError(f"{name} takes {KINDS[tuple]}, not {value!r}")
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                continue
            if f.metadata["fraction"] and not 0 <= number <= 1:
                raise UserError(f"{name} must be a fraction, within 0 and 1, not {number}")
            least = f.metadata["least"]
            if not least <= number < 2**63 or (f.metadata["positive"] and number == 0):
                least = "more than 0" if f.metadata["positive"] else f"{least} or more"
                raise UserError(f"{name} must be {least}, not {number}")


def default_of(f: Field) -> Any:
    return f.default_factory() if f.default is MISSING else f.default


# The settings


@dataclass(frozen=True)
class ModelConfig:
    """How large the model is and how it draws; stored with the weights."""

    image_size: int = setting(64, "width and height in pixels", IMAGE_SIZES, first=True)
    noise_dim: int = hidden(32)  # width of the latent; 0: there is none
    text_encoder: str = hidden("both", TEXT_ENCODERS)  # what reads captions
    text_dim: int = hidden(192)  # width of words and of pooled text; an even number
    max_tokens: int = hidden(64)  # longer captions are cut
    num_heads: int = hidden(4, positive=True)  # of attention in the text encoder and the decoder
    completer_dim: int = hidden(128)  # width of what completes prompts; 0: they are drawn as typed
    channels: tuple[int, ...] = hidden((168, 128, 84, 56, 32, 24))  # at 4, 8, 16, 32, 64, 128 px
    word_attentions: int = hidden(3)  # of the first feature maps: at 4, 8 and 16 px
    refine: bool = hidden(True)  # by a 3x3 convolution before the layers, which are 1x1 then
    num_layers: int = hidden(6, positive=True)  # that an image is composed of
    augmentation_dim: int = hidden(len(AUGMENTATIONS))  # columns that the decoder is told
    prior_dim: int = hidden(128, positive=True)  # width of what draws latents
    latent_temperature: float = hidden(0.7, positive=True)  # when drawing; 1: as often as learnt
    mask_scale: float = hidden(3.4, positive=True)  # of mask logits when drawing; 1: doubt is mixed

    def __post_init__(self) -> None:
        check_values(self)
        sizes = (self.text_dim // 2, *self.channels)
        if self.completer_dim % COMPLETER_HEADS:
            raise UserError(f"completer_dim must be a multiple of {COMPLETER_HEADS}, or 0")
        if self.text_dim % 2 or any(c < 1 or c % self.num_heads for c in sizes):
            raise UserError("num_heads must divide half of text_dim and every entry of channels")
        if self.prior_dim % PRIOR_HEADS:
            raise UserError(f"prior_dim must be a multiple of {PRIOR_HEADS}")
        if len(self.channels) < len(self.resolutions):
            raise UserError(f"channels needs an entry for each of {self.resolutions} px")
        if self.max_tokens < 2:
            raise UserError("max_tokens must be 2 or more")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Sizes of the feature maps: 4, 8, ... half of image_size."""
        return tuple(4 * 2**i for i in range(int(math.log2(self.image_size)) - 2))

    @property
    def max_halvings(self) -> int:
        """Of the sides of training images: every block but the first can do without enlarging, so
        that words are still looked at on 4x4 and 8x8."""
        return len(self.resolutions) - 2


@dataclass(frozen=True)
class Recipe:
    """How the model learns; a run goes on only with the recipe it began with.

    What defines a term (the scales of a loss, the strengths in dataset.py, the bounds in
    latents.py) is a constant beside its use.
    """

    images: int = setting(0, "length of the run, in images seen; 0: as the collection asks for",
                          first=True)  # fmt: skip
    batch_size: int = setting(64, "images a step", positive=True)
    lr: float = setting(1.5e-3, "largest learning rate", positive=True)
    seed: int = setting(0, "of all that is random; same seed, same bits on a CPU", first=True)
    augment: float = setting(0.3, "fraction of training images that are varied", fraction=True)
    flip: bool = setting(False, "mirror half of the training images")
    shuffle_tags: bool = setting(False, "shuffle what commas separate in captions")
    min_count: int = setting(0, "rarer words of captions are unknown; 0: 1, or 2 of many images")
    latents: str = setting("auto", "whether seeds vary what no caption tells; auto: where three "
                           "images share a caption", ("auto", "on", "off"))  # fmt: skip
    precision: str = hidden("auto", ("auto", "float32", "bfloat16"))  # of the decoder and the prior
    # The schedule. Fractions are of the run; a ramp goes from 0 at the first to 1 at the second.
    warm_up: int = hidden(3_000)  # images over which the rate rises; at most a tenth of the run
    warm_up_steps: int = hidden(45)  # the same in steps; the longer of the two counts
    final_lr_fraction: float = hidden(0.03, fraction=True)  # of the rate, at the end of the cosine
    # Small images teach content sooner: they become twice as large at these fractions (progressive
    # growing, Karras et al. 2018; here by the same weights, and without fading in).
    grow_at: tuple[float, ...] = hidden((0.2, 0.4))
    latent_ramp: tuple[float, ...] = hidden((0.45, 0.55))  # of kl_weight; before, latents are noise
    swd_ramp: tuple[float, ...] = hidden((0.6, 0.8))  # of swd_weight
    # The losses.
    swd_weight: float = hidden(3.0)  # of sliced Wasserstein and colour loss; 0: blurred
    swd_filters: int = hidden(4, positive=True)  # of it, at each scale
    swd_scales: int = hidden(2, positive=True)  # full size, half of it, ...
    late_mask_scale: float = hidden(2.0, positive=True)  # that losses see once swd_ramp begins
    kl_weight: float = hidden(7e-4)  # price of a nat that a latent tells; higher: less varied
    word_dropout: float = hidden(0.02, fraction=True)  # words that are hidden; teaches <unk>
    caption_dropout: float = hidden(0.02, fraction=True)  # captions; teaches "", any image
    # What an image's captions are to each other, see completion.kind_of_pairs.
    pairs: str = hidden("auto", ("auto", "captions", "parts", "each"))
    # The completer, of prompts.
    completer_only: bool = hidden(False)  # the decoder stays as it is; goes with --init-from
    completer_pairs: int = hidden(2, positive=True)  # of prompt and caption, for each image seen
    unknown_share: float = hidden(0.15, fraction=True)  # unknown words put into half the prompts
    completer_lr_ratio: float = hidden(0.6)  # to the rate of the decoder's AdamW
    # The optimizers.
    max_grad_norm: float = hidden(1.0, positive=True)  # gradients are clipped to it
    adam_betas: tuple[float, ...] = hidden((0.9, 0.99))  # the second is low, as runs are short
    muon_lr_ratio: float = hidden(13.0)  # to the rate of AdamW, whose steps are measured otherwise
    muon_momentum: float = hidden(0.95, fraction=True)
    weight_decay: float = hidden(0.01)  # of both
    ema_half_life: float = hidden(0.05, positive=True)  # of averaged weights; of the images seen


@dataclass(frozen=True)
class DataConfig:
    """How captioned images are read."""

    data: str = setting("", "captioned images: folder, .zip, .tar or table; none: the scenes",
                        first=True)  # fmt: skip
    format: str = setting("auto", "layout of --data; auto: see for yourself", (
        "auto", "imagefolder", "sidecar", "kohya", "coco", "webdataset", "table"
    ))  # fmt: skip
    image_dir: str = setting("", "where the images of a table or json lie, if not beside it")
    image_column: str = setting(
        "", "column of a table that names the images; none: the usual names"
    )
    caption_column: str = setting("", "column of a table that holds the captions; none: the same")
    caption_from: str = setting("", "names of what are the captions", ("", "dirname", "filename"))
    follow_links: bool = hidden(False)  # read what links in the folder lead to outside of it
    crop_boxes: bool = setting(False, "use only what bounding boxes surround, where there are any")
    resize: str = setting("lanczos", "filter; nearest for pixel art", ("lanczos", "nearest"))
    fit: str = setting("crop", "what to do with images that are not square", ("crop", "pad"))
    cache: str = hidden("100")  # GB of disk for decoded images; beyond, or off: decoded each time
    max_megapixels: float = hidden(89.0, positive=True)  # of an image; there Pillow begins to warn

    def __post_init__(self) -> None:
        check_values(self)
        self.cache_bytes()

    def cache_bytes(self) -> float:
        """How much room decoded images may take."""
        try:
            size = 0.0 if self.cache == "off" else float(self.cache) * 1e9
        except ValueError:
            size = -1.0
        if not size >= 0:
            raise UserError(f"--set cache is a number of GB, or off, not {self.cache!r}")
        return size

    def decoding(self, image_size: int) -> dict:
        """Keyword arguments of formats.cache.decode."""
        names = ("resize", "fit", "max_megapixels", "crop_boxes")
        return {"image_size": image_size} | {name: getattr(self, name) for name in names}


def short(name: str) -> str:
    """What a folder is called after, where more is added to that: systems take 255 bytes."""
    return name.encode(errors="surrogateescape")[:LONGEST_NAME].decode(errors="ignore")


def data_options(config: DataConfig) -> dict:
    """Those settings of any script that tell how a collection is read, for CaptionedImages."""
    return {f.name: getattr(config, f.name) for f in fields(DataConfig) if f.name != "data"}


@dataclass(frozen=True)
class TrainConfig(DataConfig, ModelConfig, Recipe):
    """What a run is called, where it is computed, and what it leaves behind."""

    preset: str = setting("default", "settings to start from", ("smoke", "default", "gpu-128"),
                          first=True)  # fmt: skip
    run: str = setting("", "name of the folder in results/; none: named after the data",
                       first=True)  # fmt: skip
    minutes: float = setting(0.0, "length of a new run in minutes on this machine, in place of "
                             "--images", first=True)  # fmt: skip
    dry_run: bool = setting(False, "say what would happen, and how long it takes; change nothing",
                            first=True)  # fmt: skip
    device: str = setting("auto", "where to compute: auto, cpu, cuda, cuda:1, mps", first=True)
    sample_every: int = setting(
        10_000,
        "images between sample sheets, validations, checkpoints; shorter runs have four",
        positive=True,
    )
    init_from: str = setting("", "weights or run that a new run begins with; its words are kept",
                             first=True)  # fmt: skip
    mask_scale: float = hidden(0.0)  # of ModelConfig; 0: see model_config
    latent_temperature: float = hidden(0.0)  # the same
    accumulate: int = hidden(1, positive=True)  # parts of a batch, one after another: less memory
    graphs: bool = hidden(False)  # on a GPU, steps are CUDA graphs (processes.Replayed); untried
    stop_after: int = hidden(0)  # images seen after which to save and stop; 0: at the end
    keep_every: int = hidden(0)  # images between checkpoints that are kept for good; 0: none
    tensorboard: bool = hidden(False)  # write for it, too; needs the package of that name
    logs_per_sample: int = hidden(10, positive=True)  # lines of metrics.jsonl for each sample sheet

    def __post_init__(self) -> None:
        super().__post_init__()
        self.model_config()
        for name in ("grow_at", "latent_ramp", "swd_ramp"):
            value = getattr(self, name)
            if list(value) != sorted(value) or (name != "grow_at" and len(value) != 2):
                raise UserError(f"--set {name} takes fractions of the run in their order, "
                                f"not {value}")  # fmt: skip
        if self.latents == "on" and not self.noise_dim:
            raise UserError("--latents on needs a width; leave out --set noise_dim=0")
        if self.completer_only and not self.completer_dim:
            raise UserError("completer_only trains a completer; leave out --set completer_dim=0")
        if self.completer_only and not self.init_from:
            raise UserError("completer_only gives weights a completer; name them: --init-from FILE")
        if len(self.adam_betas) != 2 or max(self.adam_betas) >= 1:
            raise UserError(f"--set adam_betas takes two numbers below 1, not {self.adam_betas}")
        if self.augmentation_dim != len(AUGMENTATIONS):
            raise UserError(f"--set augmentation_dim must be {len(AUGMENTATIONS)} in training")
        name = self.run_name()
        if name in ("", ".", "..", *RESERVED) or Path(name).name != name:
            raise UserError(f"--run {name!r} must be a plain name, and none of {RESERVED}")

    def run_name(self) -> str:
        data = short(Path(self.data).resolve().name) if self.data else "scenes"
        return self.run or data + (f"-{self.preset}" if self.preset != "default" else "")

    @property
    def has_latents(self) -> bool:
        return self.latents != "off" and self.noise_dim > 0

    def model_config(self) -> ModelConfig:
        """Of a new model. Masks are drawn as sharp as the losses saw them, those of the scenes
        sharper: where an image is not learnt well, sharper ones tint it. Latents are drawn as the
        prior learnt them, those of the scenes less freely: after a short run more are right."""
        settings = {f.name: getattr(self, f.name) for f in fields(ModelConfig)}
        seen = self.late_mask_scale if self.swd_weight else 1.0
        sharper = ModelConfig.mask_scale if self.swd_weight and not self.data else seen
        settings |= {"mask_scale": self.mask_scale or sharper}
        freely = 1.0 if self.data else ModelConfig.latent_temperature
        settings |= {"latent_temperature": self.latent_temperature or freely}
        return ModelConfig(**settings | {"noise_dim": self.noise_dim * self.has_latents})


PRESETS = {
    "default": {},
    # A minute on two cores: blurred places and colours, nothing more.
    "smoke": {"images": 2_048, "sample_every": 1_024},
    # Not yet measured.
    "gpu-128": {"images": 5_000_000, "image_size": 128, "batch_size": 256, "sample_every": 200_000},
}


@dataclass(frozen=True)
class GenerateConfig:
    """What to draw, from which weights, and where to."""

    input: list = setting([], "caption to draw; repeat the flag for several")
    model: str = setting("", "exported weights or a checkpoint; none: newest run, else the shipped")
    seed: int = setting(0, "which image of the many that a caption allows; -1: a fresh one, which "
                           "is printed", least=-1)  # fmt: skip
    n: int = setting(1, "images of each caption, with the seeds that follow", positive=True)
    output: str = setting("generated", "folder, or a file name like bird.png for a single image")
    grid: bool = setting(False, "one sheet: a line for each caption, a column for each seed")
    input_file: str = setting("", "file with a caption on each line; - reads standard input")
    as_typed: bool = setting(False, "draw the caption as it stands; what it leaves open stays so")
    temperature: float = setting(1.0, "how freely words and latents are chosen; 0: the likeliest, "
                                 "whatever the seed")  # fmt: skip
    skip_existing: bool = setting(False, "draw only the images that are not there yet")
    interpolate: list = setting([], "captions to go through in an animation; of one, its seeds",
                                several=True)  # fmt: skip
    frames: int = setting(24, "of an animation, from each caption to the next", least=2)
    from_png: list = setting([], "image of this script to draw again; repeat the flag for several")
    attention: bool = setting(False, "beside each image, a figure of where its words acted")
    show: bool = setting(False, "show images in the terminal, too")
    upscale: int = setting(1, "enlarge images so many times, pixel by pixel", positive=True)
    format: str = setting("png", "kind of files in a folder; webp is one of animations, too",
                          ("png", "jpg", "webp"))  # fmt: skip
    vocabulary: bool = setting(False, "print the words that the weights know, the frequent first")
    device: str = setting("auto", "where to compute: auto, cpu, cuda, cuda:1, mps")

    def __post_init__(self) -> None:
        check_values(self)
        # What to draw, and the settings that say nothing there.
        idle = {"input": ("frames",), "input_file": ("frames",),
                "interpolate": ("grid", "attention", "show", "skip_existing"),
                "from_png": ("seed", "n", "temperature", "as_typed", "grid", "frames"),
                "vocabulary": ("frames", "n", "output", "grid", "as_typed", "skip_existing",
                               "attention", "show", "upscale", "format")}  # fmt: skip
        flags = {f.name: f for f in fields(self)}
        given = [name for name in idle if getattr(self, name)]
        if given[:2] == ["input", "input_file"]:  # which go together
            del given[1]
        if not given:
            raise UserError(
                'say what to draw: --input "a big red star at the top on a white background"'
            )
        told = [name_of(flags[name]) for name in given]
        if len(given) > 1:
            raise UserError(f"{told[0]} and {told[1]} ask for different things; leave out one")
        for name in idle[given[0]]:
            if getattr(self, name) != default_of(flags[name]):
                raise UserError(
                    f"{name_of(flags[name])} means nothing with {told[0]}; leave it out"
                )
        if self.grid and self.skip_existing:
            raise UserError("--grid draws one sheet anew; leave out --skip-existing")
        if self.grid and (self.attention or self.show):
            other = "--attention" if self.attention else "--show"
            raise UserError(f"{other} is of single images; leave out --grid")
        if self.frames > 1_000:
            raise UserError("--frames must be 1,000 or fewer: they are drawn at once")
        if len(self.interpolate) > 1 and self.n > 1:
            raise UserError("--interpolate goes from caption to caption with one seed; leave out "
                            "--n, or give one caption")  # fmt: skip
        num = max(2, self.n) if len(self.interpolate) == 1 else self.n
        if self.seed > 2**32 - num:
            raise UserError("--seed must be between 0 and 4294967295, that of the last image too")


@dataclass(frozen=True)
class SaveConfig:
    """What to export, and where to."""

    run: str = setting("", "folder in results/, or a file of weights; none: the newest run")
    output: str = setting(str(SHIPPED_WEIGHTS), "file to write")
    format: str = setting("pth", "kind of file; the others need more packages",
                          ("pth", "safetensors", "onnx"))  # fmt: skip
    force: bool = setting(False, "export a smoke run, or one that is not finished")


@dataclass(frozen=True)
class EvaluateConfig(DataConfig):
    """What to measure, on what, and where to write it."""

    model: str = setting("", "weights, checkpoint or run; none: the newest run, else the shipped")
    split: str = setting("", "what to measure on; none: test where there is one, else validation")
    output: str = setting("results/evaluation", "folder for evaluation.json and the figures")
    quick: bool = setting(False, "few images: seconds, and wide intervals")
    fit_judges: bool = setting(False, "train the networks that judge, where there are none yet")
    judges: str = setting("", "those of a larger collection, which did not train on what is held "
                          "out here (a file of results/judges)")  # fmt: skip
    device: str = setting("auto", "where to draw: auto, cpu, cuda, cuda:1, mps")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.judges and (self.fit_judges or not self.data):
            raise UserError("--judges FILE goes with --data FOLDER and without --fit-judges")
        if self.split == "train" or not (self.data or self.split in ("", "validation", "test")):
            raise UserError(f"--split {self.split} holds nothing that was kept out of training; "
                            "leave it out, or choose validation or test")  # fmt: skip


@dataclass(frozen=True)
class CheckConfig(DataConfig):
    """What to check or export."""

    data: str = setting("", "folder, .zip, .tar or table of captioned images", positional=True)
    out: str = setting("", "folder that --export makes", positional=True)
    export: str = setting("", "layout to write", ("", "jsonl", "sidecar", "tar"))
    resized: bool = setting(False, "export images as training sees them, not as they are")
    image_size: int = setting(64, "width and height that training would use", IMAGE_SIZES)
    min_count: int = setting(0, "rarer words of captions are unknown in training; 0: as there")
    reports: str = setting("results/check", "folder for reports and sheets")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise UserError("say what to check: python dataset.py FOLDER")
        if bool(self.export) != bool(self.out):
            raise UserError("to export: python dataset.py PATH --export jsonl OUT")


# Flags


def parse_flags(
    config_class: type, description: str, presets: dict[str, dict], argv: Sequence[str]
) -> Any:
    """The settings that a command line gives, as an instance of config_class.

    A preset (an entry of `presets`) changes defaults; --config FILE wins over it, flags win over
    both, and --set over all. Booleans are --name and --no-name; flags of lists are repeated.
    """
    known = {f.name: f for f in fields(config_class)}
    positional = [f for f in known.values() if f.metadata["positional"]]
    parser = Parser(
        description=description,
        usage=" ".join(["%(prog)s", *(f.name.upper() for f in positional), "[flags]"]),
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100),
        argument_default=argparse.SUPPRESS,  # only what is given counts
        add_help=False,
    )
    others = [f for f in known.values() if not f.metadata["flag"]]
    parser.hidden = {name_of(f): f"--set {f.name}=..." for f in others}
    groups = {}
    for cls in filter(is_dataclass, config_class.__mro__):
        for name in vars(cls)["__annotations__"]:
            groups.setdefault(name, cls.__doc__.splitlines()[0].rstrip("."))
    groups |= {name: FIRST for name, f in known.items() if f.metadata["first"]}
    titles = sorted(dict.fromkeys(groups.values()), key=lambda title: title != FIRST)
    titled = {title: parser.add_argument_group(title) for title in titles}
    for f in known.values():
        if f.metadata["positional"]:
            parser.add_argument(f.name, nargs="?", help=f.metadata["help"])
        elif f.metadata["flag"]:
            titled[groups[f.name]].add_argument(name_of(f), dest=f.name, **_argument(f))
    more = parser.add_argument_group("More")
    if others:
        told = "any other setting of config.py; repeat the flag for several"
        more.add_argument("--set", action="append", metavar="NAME=VALUE", help=told)
        told = "JSON of settings; for train.py also the config.json of a run"
        more.add_argument("--config", metavar="FILE", help=told)
    more.add_argument("--traceback", action="store_true", help="show where an error comes from")
    more.add_argument("-h", "--help", action="help", help="show this, and stop")

    given = vars(parser.parse_intermixed_args(argv))
    given.pop("traceback", None)
    assignments = {}
    for assignment in given.pop("set", ()):
        name, _, text = assignment.partition("=")
        if name not in known:
            raise UserError(f"--set {assignment}: there is no setting {name!r}; config.py lists "
                            "them all")  # fmt: skip
        assignments[name] = from_text(known[name], text)
    given = read_settings(given.pop("config", ""), known) | given | assignments
    if given.get("minutes") and given.get("images"):
        raise UserError("--minutes chooses --images; leave out one of them")
    return config_class(**presets.get(given.get("preset", ""), {}) | given)


class Parser(argparse.ArgumentParser):
    """Answers a flag that is nearly right with the right one."""

    hidden: dict[str, str]  # "--set name", and what to type to give this setting

    def error(self, message: str) -> NoReturn:
        wrong = re.fullmatch(r"unrecognized arguments: (.*)", message, re.DOTALL)
        if wrong and not wrong[1].startswith("-"):
            flags = {flag for action in self._actions for flag in action.option_strings}
            flag = next((flag for flag in ("--input", "--data") if flag in flags), "")
            hint = f'; did you mean {flag} "{wrong[1]}"?' if flag else ""
            message = f"{wrong[1]!r} belongs to no flag{hint}"
        elif wrong:
            wrong = re.match(r"(-[\w-]*)", wrong[1])
            right = {flag: flag for action in self._actions for flag in action.option_strings}
            right |= {"--" + name.split()[1].replace("_", "-"): to_type
                      for name, to_type in self.hidden.items()}  # fmt: skip
            typed = wrong[1].lower().replace("_", "-")
            right |= {flag: other for flag, other in MEANT.items() if other.split()[0] in right}
            close = difflib.get_close_matches(typed, right, n=1)
            hint = f"; did you mean {right[close[0]]}?" if close else ""
            message = f"there is no flag {wrong[1]}{hint or '; --help lists all flags'}"
        raise UserError(message)


def _argument(f: Field) -> dict:
    default = default_of(f)
    if isinstance(default, list):
        options = {"action": "extend", "nargs": "+" if f.metadata["several"] else 1}
    elif isinstance(default, bool):
        options = {"action": argparse.BooleanOptionalAction}
    else:
        options = {"type": type(default), "choices": f.metadata["choices"]}
    if not isinstance(default, bool) and not f.metadata["choices"]:
        options["metavar"] = {int: "N", float: "X"}.get(type(default), "...")
    told = default not in ("", []) and default is not False and "0: " not in f.metadata["help"]
    return options | {"help": f.metadata["help"] + f" [{default}]" * told}


def from_text(f: Field, text: str) -> Any:
    """The value of --set name=text. Raises UserError where it is of another kind."""
    default = default_of(f)
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, tuple):
            return tuple(map(type(default[0]), filter(None, text.split(","))))
        return [text] if isinstance(default, list) else type(default)(text)
    except (ValueError, KeyError) as error:
        raise UserError(f"--set {f.name} takes {KINDS[type(default)]}, not {text!r}") from error


def read_settings(file: str, known: dict[str, Field]) -> dict:
    """The settings in a JSON file: {"name": value}, or a run's config.json."""
    if not file:
        return {}
    try:
        values = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"--config {file} cannot be read: {error}") from error
    if isinstance(values, dict) and isinstance(values.get("train"), dict):
        values = settings_of(values)
    if not isinstance(values, dict) or set(values) - set(known):
        unknown = sorted(set(values) - set(known)) if isinstance(values, dict) else "no settings"
        raise UserError(f"--config {file} holds {unknown}; config.py lists all settings")
    return {name: tuple(v) if isinstance(v, list) and isinstance(known[name].default, tuple) else v
            for name, v in values.items()}  # fmt: skip


def settings_of(record: dict) -> dict:
    """The settings that a run was started with last, from its config.json."""
    settings = record["train"] if isinstance(record.get("train"), dict) else {}
    for resumed in record.get("resumed", ()):
        settings = settings | resumed.get("changed", {})
    return settings


def as_text(value: Any) -> str:
    """A value as --set takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


class Stream:
    """A stream of text that falls silent, and does not raise, when what it leads to is gone.

    reader_gone: a pipe was closed at its other end. A closed terminal is another case: it sends
    SIGHUP.
    """

    def __init__(self, stream: Any):
        self.stream, self.reader_gone = stream, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        return self._try(self.stream.write, text) or len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, function: Callable, *arguments: str) -> Any:
        try:
            return function(*arguments)
        except BrokenPipeError:
            self.reader_gone = True
        except OSError as error:
            if error.errno != errno.EIO:  # of a terminal that is gone
                raise
        # What is still in the buffer, and what comes, goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


def reader_gone() -> bool:
    """Whether what is printed goes into a pipe that nobody reads any more."""
    return any(getattr(stream, "reader_gone", False) for stream in (sys.stdout, sys.stderr))


def run(
    main: Callable, config_class: type, description: str | None, presets: dict | None = None
) -> None:
    """Call main with the settings of the command line. A user's mistake, or trouble with a file,
    becomes one sentence and exit status 2; --traceback shows where it comes from, too."""
    for name in ("stdout", "stderr"):  # captions of any script, terminals of any kind
        getattr(sys, name).reconfigure(errors="backslashreplace")
        setattr(sys, name, Stream(getattr(sys, name)))
    try:
        main(parse_flags(config_class, description or "", presets or {}, sys.argv[1:]))
    except (UserError, OSError) as error:
        if "--traceback" in sys.argv:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except Exception:  # a fault of ours; status 1 says other things in dataset.py
        traceback.print_exc()
        sys.exit(2)


# Where to compute


def choose_device(name: str) -> "torch.device":
    """auto -> cuda where there is one, else cpu. Raises UserError where torch finds none."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name}, but torch finds no such device; use --device cpu, or "
                        "auto") from error  # fmt: skip
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device {name} is none of cpu, cuda, cuda:1, ..., mps")
    return device


def choose_precision(precision: str, device: "torch.device") -> "torch.dtype":
    """auto -> bfloat16 where the hardware multiplies it faster; elsewhere float32, since a CPU that
    has to emulate bfloat16 is ten times slower with it."""
    import torch

    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
    else:  # private in torch, so missing is a no
        has_bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if has_bfloat16 and device.type != "mps" else torch.float32


def provenance(device: "torch.device") -> dict:
    """What made a result: command, commit, versions, hardware and time, as plain values."""
    import torch

    git = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        root = Path(__file__).parent
        commit = subprocess.run(git, cwd=root, capture_output=True, text=True).stdout.strip()
    except OSError:  # git is not installed
        commit = ""
    command = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
    if "launcher" in Path(sys.argv[0]).name or not sys.argv[0]:  # Jupyter's; its path says nothing
        command = "from a notebook"
    # What multiplies matrices decides the speed: AVX2, AVX512 or AMX.
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    kind = "AMX" if has_amx else torch.backends.cpu.get_cpu_capability()
    hardware = f"{os.cpu_count()} CPU cores ({platform.machine()}, {kind})"
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    return {
        "command": command,
        "commit": commit or "unknown",
        "hardware": hardware,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
