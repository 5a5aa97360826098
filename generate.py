"""How do I draw an image? From the shipped weights, right after cloning:

python generate.py --input "a big red circle at the left and a small blue star at the right"
python generate.py --input "a red circle" --n 8 --grid
python generate.py --input-file captions.txt --output drawings        a caption on each line

What a caption leaves open is written out first, another way with each seed; to draw it as it
stands: --as-typed. Of a few images it is printed, and each PNG keeps what was typed and drawn.
"""

import hashlib
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

import checkpoint
from config import GenerateConfig, UserError, choose_device, run
from files import write_whole
from model import TextToImageModel, to_uint8
from tokenizer import split_words

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
BATCH = 32  # images drawn at once
GAP = 2  # pixels between the images of a grid
MAX_TOLD = 10  # captions or words that a message names one by one


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
                raise UserError(told) from error
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


def file_name(prompt: str, seed: int, how: str = "") -> str:
    """A name that carries prompt, seed and how it is drawn, whatever the prompt holds; never a
    path."""
    text = unicodedata.normalize("NFKC", prompt).lower()
    slug = re.sub(r"[^\w]+", "-", text).strip("-")[:40].strip("-")
    if slug.replace("-", " ") != text or not text:  # tell prompts apart that have lost something
        digest = hashlib.blake2b(prompt.encode("utf-8", "replace"), digest_size=8).hexdigest()
        slug = f"{slug or 'any'}-{digest}"
    return f"{slug}-seed{seed}{how}.png"


def shown(prompt: str) -> str:
    """The beginning of a prompt, fit for any terminal."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in prompt)
    return f'"{text[:120]}..."' if len(text) > 120 else f'"{text}"'


def tell_what_is_not_drawn(
    model: TextToImageModel, prompts: Sequence[str], completes: bool
) -> None:
    """Print words that the model does not know, and prompts that are too long for it."""
    unknown, long = defaultdict(list), []
    for prompt in prompts:
        for word in model.tokenizer.unknown_words(prompt):
            unknown[word].append(prompt)
        if len(model.tokenizer.encode(prompt)) > model.config.max_tokens:
            long.append(prompt)
    lost = [p for p in prompts if p and not set(split_words(p)) & model.tokenizer.ids.keys()]
    if lost and completes:
        more = f" and {len(lost) - 1:,} more" if len(lost) > 1 else ""
        print(f"no known word in {shown(lost[0])}{more}: any image is drawn")
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


def save_image(pixels: np.ndarray, path: Path, texts: dict[str, str] | None = None) -> None:
    """pixels: (H, W, 3) uint8; texts: what a PNG keeps beside them, by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image, kind, options = Image.fromarray(pixels), SUFFIXES[path.suffix.lower()], {}
    if kind == "PNG" and texts:
        options["pnginfo"] = PngInfo()
        for name, text in texts.items():
            options["pnginfo"].add_itxt(name, text.encode("utf-8", "replace").decode())
    write_whole(path, partial(image.save, format=kind, **options))


def make_grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Images (N, H, W, 3), row by row, on one white sheet (H', W', 3) uint8."""
    num, height, width, _ = images.shape
    rows, cell = -(-num // columns), (height + GAP, width + GAP)
    sheet = np.full((rows * cell[0] + GAP, columns * cell[1] + GAP, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = GAP + i // columns * cell[0], GAP + i % columns * cell[1]
        sheet[y : y + height, x : x + width] = image
    return sheet


def output_paths(config: GenerateConfig, names: list[str]) -> list[Path]:
    """Where images with these names go. Raises UserError where --output is meant for a single one,
    or names a kind of file that is not written."""
    output = Path(config.output)
    suffix = output.suffix.lower()
    if suffix in SUFFIXES and not output.is_dir():
        if len(names) > 1:
            raise UserError(f"--output {output} is one file, but {len(names):,} images are drawn; "
                            "name a folder, or put them on one sheet with --grid")  # fmt: skip
        return [output]
    if suffix in Image.registered_extensions() and not output.is_dir():
        raise UserError(f"--output {output}: images are written as {', '.join(SUFFIXES)}; choose "
                        "one of these, or a folder")  # fmt: skip
    return [output / name for name in names]


def main(config: GenerateConfig) -> list[Path]:
    """Draw and write the images; returns where."""
    prompts = read_prompts(config)
    pairs = [(p, config.seed + i) for p in prompts for i in range(config.n)]
    warmth = f"-temperature{config.temperature:g}" if config.temperature != 1 else ""
    how = "-as-typed" * config.as_typed + warmth
    names = [file_name(prompt, seed, how) for prompt, seed in pairs]
    paths = output_paths(config, ["grid-" + names[0]] if config.grid else names)
    chosen, why = checkpoint.choose_weights(config.model)
    state, path = checkpoint.load_whole(chosen)
    model = checkpoint.model_of(state, path).to(choose_device(config.device))
    print(f"weights: {path}{checkpoint.progress_line(state)}{why and f', {why}'}")
    completes = model.completer is not None and not config.as_typed
    tell_what_is_not_drawn(model, prompts, completes)
    if not completes and not config.as_typed:
        print("these weights complete no captions: they are drawn as typed")

    def draw(some: Sequence[str], seeds: Sequence[int]) -> tuple[np.ndarray, list[dict[str, str]]]:
        """Images (B, H, W, 3) uint8, and the texts that each is kept with."""
        captions = model.complete(some, seeds, config.temperature) if completes else some
        images = to_uint8(model.draw(captions, seeds, config.temperature))
        drawn = images.permute(0, 2, 3, 1).cpu().numpy()
        texts = zip(some, captions, seeds, strict=True)
        warmth = f"{config.temperature:g}"
        return drawn, [{"prompt": p, "caption": c, "seed": str(s), "temperature": warmth}
                       for p, c, s in texts]  # fmt: skip

    if config.grid:
        batches = [pairs[i : i + BATCH] for i in range(0, len(pairs), BATCH)]
        drawn, texts = zip(*(draw(*zip(*batch, strict=True)) for batch in batches), strict=True)
        texts = [text for some in texts for text in some]
        for text in texts[:BATCH] if completes else ():
            print(f"seed {text['seed']}: {shown(text['prompt'])} -> {shown(text['caption'])}")
        if completes and len(texts) > BATCH:
            print(f"and {len(texts) - BATCH:,} more; the file keeps all of them")
        told = {name: "\n".join(text[name] for text in texts) for name in texts[0]}
        save_image(make_grid(np.concatenate(drawn), config.n), paths[0], told)
        print(paths[0])
        return paths

    to_draw = [(*pair, path) for pair, path in zip(pairs, paths, strict=True)
               if not (config.skip_existing and path.exists())]  # fmt: skip
    many = len(to_draw) > BATCH
    with tqdm(
        total=len(to_draw), desc="drawing", unit="img", disable=None if many else True
    ) as bar:
        for start in range(0, len(to_draw), BATCH):
            some, seeds, files = zip(*to_draw[start : start + BATCH], strict=True)
            drawn = zip(*draw(some, seeds), files, strict=True)
            for i, (pixels, texts, file) in enumerate(drawn, start):
                try:
                    save_image(pixels, file, texts)
                except (UserError, OSError) as error:
                    missing = to_draw[i:]
                    for _, _, name in missing if len(to_draw) > 1 else ():
                        print(f"not drawn: {name}")
                    raise UserError(
                        f"{error}; {len(to_draw) - len(missing):,} of {len(to_draw):,} images "
                        "were written; for the others repeat the command with --skip-existing"
                    ) from error
                if not many:
                    if completes:
                        print(f"{shown(texts['prompt'])} -> {shown(texts['caption'])}")
                    print(file)
                bar.update()
    if many or config.skip_existing:
        skipped = len(pairs) - len(to_draw)
        print(f"{len(to_draw):,} images drawn in {config.output}, {skipped:,} were there already")
    return paths


if __name__ == "__main__":
    run(main, GenerateConfig, __doc__)
