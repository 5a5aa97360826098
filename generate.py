"""How do I draw a picture? From the shipped weights, right after cloning:

python generate.py --input "a big red circle at the left and a small blue star at the right"
"""

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

import checkpoint
from command_line import UserError, choose_device, run, setting

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


@dataclass(frozen=True)
class GenerateConfig:
    input: list = setting([], "caption to draw; repeat the flag for several")
    model: str = setting("", "exported weights or a checkpoint; none: newest run, else the shipped")
    seed: int = setting(0, "which picture of the many that a caption allows")
    n: int = setting(1, "pictures of each caption, with the seeds that follow")
    output: str = setting("generated", "folder, or a file name like bird.png for a single picture")
    grid: bool = setting(False, "one sheet: a line for each caption, a column for each seed")
    device: str = setting("auto", "where to compute", ("auto", "cpu", "cuda"))

    def __post_init__(self) -> None:
        if not self.input:
            raise UserError(
                'say what to draw: --input "a big red star at the top on a white background"'
            )
        if self.n < 1 or not 0 <= self.seed <= 2**32 - self.n:
            raise UserError("--n must be 1 or more, and --seed between 0 and 4294967295")


def file_name(prompt: str, seed: int) -> str:
    """A name that carries prompt and seed, whatever the prompt holds; never a path."""
    text = unicodedata.normalize("NFKC", prompt).lower()
    slug = re.sub(r"[^\w]+", "-", text).strip("-")[:40].strip("-")
    if slug.replace("-", " ") != text:  # something was lost: tell such prompts apart
        slug += "-" + hashlib.blake2b(prompt.encode("utf-8", "replace"), digest_size=3).hexdigest()
    return f"{slug.lstrip('-') or 'any'}-seed{seed}.png"


def find_weights(model: str) -> Path:
    """The file that --model names; without it the newest run, else the shipped weights."""
    path = Path(model) if model else checkpoint.newest_checkpoint() or checkpoint.SHIPPED_WEIGHTS
    return path / "checkpoint.pth" if path.is_dir() else path


def main(config: GenerateConfig) -> list[Path]:
    """Draw and write the pictures; returns where."""
    path = find_weights(config.model)
    model = checkpoint.load_model(path).to(choose_device(config.device))
    print(f"weights: {path}{checkpoint.progress(path)}")
    for prompt in dict.fromkeys(config.input):
        for word, nearest in model.tokenizer.unknown_words(prompt).items():
            hint = f'; the nearest known one is "{nearest}"' if nearest else ""
            print(f'unknown word "{word}" in "{prompt}"{hint}')
        if len(model.tokenizer.encode(prompt)) > model.config.max_tokens:
            print(f'only the first {model.config.max_tokens - 1} words count of "{prompt}"')
    pictures = model.generate(config.input, config.seed, config.n)
    seeds = range(config.seed, config.seed + config.n)
    names = [file_name(prompt, seed) for prompt in config.input for seed in seeds]
    if config.grid:
        sheet = make_grid(
            torch.stack([pil_to_tensor(p) for p in pictures]), config.n, pad_value=255
        )
        pictures, names = [to_pil_image(sheet)], ["grid-" + names[0]]
    output = Path(config.output)
    if output.suffix.lower() in SUFFIXES and len(pictures) == 1:
        paths = [output]
    else:
        paths = [output / name for name in names]
    for picture, path in zip(pictures, paths, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"unfinished-{path.name}")
        picture.save(temporary)
        temporary.replace(path)
        print(path)
    return paths


if __name__ == "__main__":
    run(main, GenerateConfig, __doc__)
