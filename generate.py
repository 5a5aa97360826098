"""How do I draw a picture? From the shipped weights, right after cloning:

python generate.py --input "a big red circle at the left and a small blue star at the right"
python generate.py --input-file captions.txt --output drawings        a caption on each line
"""

import hashlib
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid
from tqdm import tqdm

import checkpoint
from command_line import UserError, choose_device, run, setting
from files import write_whole
from model import TextToImageModel, to_uint8

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
BATCH = 32  # pictures drawn at once
MAX_TOLD = 10  # captions or words that a message names one by one


@dataclass(frozen=True)
class GenerateConfig:
    input: list = setting([], "caption to draw; repeat the flag for several")
    model: str = setting("", "exported weights or a checkpoint; none: newest run, else the shipped")
    seed: int = setting(0, "which picture of the many that a caption allows")
    n: int = setting(1, "pictures of each caption, with the seeds that follow")
    output: str = setting("generated", "folder, or a file name like bird.png for a single picture")
    grid: bool = setting(False, "one sheet: a line for each caption, a column for each seed")
    input_file: str = setting("", "file with a caption on each line; - reads standard input")
    skip_existing: bool = setting(False, "draw only the pictures that are not there yet")
    device: str = setting("auto", "where to compute", ("auto", "cpu", "cuda"))

    def __post_init__(self) -> None:
        if not self.input and not self.input_file:
            raise UserError(
                'say what to draw: --input "a big red star at the top on a white background"'
            )
        if self.grid and self.skip_existing:
            raise UserError("--grid draws one sheet anew; leave out --skip-existing")
        if self.n < 1 or not 0 <= self.seed <= 2**32 - self.n:
            raise UserError("--n must be 1 or more, and --seed between 0 and 4294967295")


def read_prompts(config: GenerateConfig) -> list[str]:
    """All prompts, each once, in their order; empty lines of the file do not count.

    Bytes that are no UTF-8 text become the replacement character. What is not drawn as it stands is
    told. Raises UserError where the file cannot be read or holds no prompt.
    """
    prompts = list(config.input)
    if config.input_file:
        if config.input_file == "-":
            content = sys.stdin.buffer.read()
        else:
            try:
                content = Path(config.input_file).read_bytes()
            except OSError as error:
                told = f"--input-file {config.input_file} cannot be read: {error.strerror}"
                raise UserError(told) from None
        lines = content.decode("utf-8-sig", errors="replace").split("\n")
        prompts += [line.strip() for line in lines if line.strip()]
        if broken := sum("\ufffd" in line for line in lines):
            print(f"{broken:,} lines are no UTF-8 text; what is broken in them counts as unknown")
    if not prompts:
        raise UserError(f"{config.input_file} holds no caption; write one on each line")
    once = list(dict.fromkeys(prompts))
    if len(once) < len(prompts):
        print(f"{len(prompts) - len(once):,} captions repeat others, which are drawn once")
    return once


def file_name(prompt: str, seed: int) -> str:
    """A name that carries prompt and seed, whatever the prompt holds; never a path."""
    text = unicodedata.normalize("NFKC", prompt).lower()
    slug = re.sub(r"[^\w]+", "-", text).strip("-")[:40].strip("-")
    if slug.replace("-", " ") != text or not text:  # tell prompts apart that have lost something
        digest = hashlib.blake2b(prompt.encode("utf-8", "replace"), digest_size=8).hexdigest()
        slug = f"{slug or 'any'}-{digest}"
    return f"{slug}-seed{seed}.png"


def shown(prompt: str) -> str:
    """The beginning of a prompt, fit for any terminal."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in prompt)
    return f'"{text[:80]}..."' if len(text) > 80 else f'"{text}"'


def tell_what_is_not_drawn(model: TextToImageModel, prompts: Sequence[str]) -> None:
    """Print words that the model does not know, and prompts that are too long for it."""
    unknown, long = defaultdict(list), []
    for prompt in prompts:
        for word in model.tokenizer.unknown_words(prompt):
            unknown[word].append(prompt)
        if len(model.tokenizer.encode(prompt)) > model.config.max_tokens:
            long.append(prompt)
    for word, found in list(unknown.items())[:MAX_TOLD]:
        nearest = model.tokenizer.nearest_word(word)
        hint = f'; the nearest known one is "{nearest}"' if nearest else ""
        more = f" and {len(found) - 1:,} more" if len(found) > 1 else ""
        print(f"unknown word {shown(word)} in {shown(found[0])}{more}{hint}")
    if len(unknown) > MAX_TOLD:
        print(f"and {len(unknown) - MAX_TOLD:,} more unknown words")
    if long:
        more = f" and {len(long) - 1:,} more" if len(long) > 1 else ""
        print(f"only the first {model.config.max_tokens - 1} words count of {shown(long[0])}{more}")


def save_picture(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, partial(picture.save, format=SUFFIXES[path.suffix.lower()]))


def main(config: GenerateConfig) -> list[Path]:
    """Draw and write the pictures; returns where."""
    prompts = read_prompts(config)
    state, path = checkpoint.load_whole(checkpoint.find_weights(config.model))
    model = checkpoint.model_of(state, path).to(choose_device(config.device))
    print(f"weights: {path}{checkpoint.progress(state)}")
    tell_what_is_not_drawn(model, prompts)
    pairs = [(p, config.seed + i) for p in prompts for i in range(config.n)]
    output, names = Path(config.output), [file_name(prompt, seed) for prompt, seed in pairs]
    names = ["grid-" + names[0]] if config.grid else names
    single = output.suffix.lower() in SUFFIXES and len(names) == 1
    paths = [output] if single else [output / name for name in names]

    if config.grid:
        batches = [pairs[i : i + BATCH] for i in range(0, len(pairs), BATCH)]
        drawn = torch.cat([to_uint8(model.draw(*zip(*b, strict=True))).cpu() for b in batches])
        save_picture(to_pil_image(make_grid(drawn, config.n, pad_value=255)), paths[0])
        print(paths[0])
        return paths

    to_draw = [(*pair, path) for pair, path in zip(pairs, paths, strict=True)
               if not (config.skip_existing and path.exists())]  # fmt: skip
    many = len(to_draw) > BATCH
    with tqdm(total=len(to_draw), desc="drawing", unit="img", disable=not many) as bar:
        for start in range(0, len(to_draw), BATCH):
            some, seeds, files = zip(*to_draw[start : start + BATCH], strict=True)
            pictures = to_uint8(model.draw(some, seeds)).cpu()
            for i, (picture, file) in enumerate(zip(pictures, files, strict=True), start):
                try:
                    save_picture(to_pil_image(picture), file)
                except (UserError, OSError) as error:
                    missing = to_draw[i:]
                    for _, _, name in missing if len(to_draw) > 1 else ():
                        print(f"not drawn: {name}")
                    raise UserError(
                        f"{error}; {len(to_draw) - len(missing):,} of {len(to_draw):,} pictures "
                        "were written; for the others repeat the command with --skip-existing"
                    ) from None
                if not many:
                    print(file)
                bar.update()
    if many or config.skip_existing:
        skipped = len(pairs) - len(to_draw)
        print(f"{len(to_draw):,} pictures drawn in {output}, {skipped:,} were there already")
    return paths


if __name__ == "__main__":
    run(main, GenerateConfig, __doc__)
