"""How do I draw an image? From the shipped weights, right after cloning:

python generate.py --input "a big red circle at the left and a small blue star at the right"
python generate.py --input "a red circle" --n 8 --grid          one sheet, with what was drawn
python generate.py --input "a red circle" --attention           and where each word acted
python generate.py --interpolate "a red circle" "a blue star"   the way between them, animated
python generate.py --input-file captions.txt --output drawings  a caption on each line
python generate.py --from-png generated/a-red-circle-seed0.png  the same again
python generate.py --vocabulary                                 the words that it knows

What a caption leaves open is written out first, another way with each seed (--seed -1: a fresh
one); to draw it as it stands: --as-typed. Of a few images it is printed, and each PNG keeps what
was typed and drawn.
"""

import dataclasses
import hashlib
import math
import os
import re
import secrets
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

import checkpoint
from config import VERSION, GenerateConfig, UserError, choose_device, run
from files import write_whole
from model import TextToImageModel, to_uint8
from reports.hints import unknown_hints
from tokenizer import SPECIAL_TOKENS, shown, split_words

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
ANIMATED = {".gif": "GIF", ".webp": "WEBP"}
OPTIONS = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}  # small images
BATCH = 32  # images drawn at once
FRAME, REST = 80, 600  # milliseconds of a frame, and of one where an animation rests
FRAME_NAME = re.compile(r"\d{4}\.(png|jpg|webp)")
LARGEST = 16_383  # pixels a side: what every kind of file can hold
EXAMPLES = 5  # captions beside the vocabulary


class Drawing(NamedTuple):
    """An image to draw, or one that is drawn."""

    prompt: str
    seed: int
    temperature: float
    caption: str | None = None  # what is drawn; None: not yet completed
    mark: str = ""  # fingerprint of the weights

    def texts(self) -> dict[str, str]:
        """What a PNG keeps beside its pixels, by name."""
        texts = {"prompt": self.prompt, "caption": self.caption, "seed": str(self.seed),
                 "temperature": plain(self.temperature), "model": self.mark,
                 "version": VERSION}  # fmt: skip
        return {name: " ".join(str(text).split()) for name, text in texts.items()}  # grids: lines


def plain(number: float) -> str:
    """1, 0.5, 0.123456789: all its digits, and no more."""
    return repr(float(number)).removesuffix(".0")


# What to draw


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


def read_png(file: str) -> list[Drawing]:
    """What a PNG of this script shows: one drawing, or those of a grid. Raises UserError where it
    is something else."""
    try:
        with Image.open(file, formats=["PNG"]) as image:
            kept = {n: image.info[n] for n in Drawing("", 0, 0).texts() if n in image.info}
    except FileNotFoundError as error:
        raise UserError(f"--from-png {file}: there is no such file") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"--from-png {file}: this is no PNG, or a damaged one") from error
    try:
        more = kept["seed"].count("\n")
        kept.setdefault("model", "unknown" + "\nunknown" * more)  # of an earlier version
        lists = [kept[name].split("\n") if more else [kept[name]]
                 for name in ("prompt", "seed", "temperature", "caption", "model")]  # fmt: skip
        found = [Drawing(p, int(s), float(t), *more) for p, s, t, *more in zip(*lists, strict=True)]
        if not all(0 <= d.seed < 2**32 and 0 <= d.temperature < math.inf for d in found):
            raise ValueError("numbers that mean nothing")
    except (KeyError, AttributeError, ValueError) as error:
        raise UserError(f"--from-png {file}: it keeps no caption, seed and temperature; only a PNG "
                        "of generate.py does") from error  # fmt: skip
    return found


def what_to_draw(config: GenerateConfig) -> list[Drawing]:
    """Each prompt with each seed; the ends of the ways of an animation; or what PNGs tell."""
    if config.from_png:
        found = [d for file in config.from_png for d in read_png(file)]
        return list({(d.caption, d.seed, d.temperature): d for d in found}.values())
    prompts, num = config.interpolate or read_prompts(config), config.n
    if config.interpolate:
        num = max(2, num) if len(prompts) == 1 else 1
    return [Drawing(p, config.seed + i, config.temperature, p if config.as_typed else None)
            for p in prompts for i in range(num)]  # fmt: skip


# Where to


def file_name(prompt: str, seed: int, how: str = "", suffix: str = ".png") -> str:
    """A name that carries prompt, seed and how it is drawn, whatever the prompt holds; never a
    path."""
    text = unicodedata.normalize("NFKC", prompt).lower()
    slug = re.sub(r"[^\w]+", "-", text).strip("-")[:40].strip("-")
    if slug.replace("-", " ") != text or not text:  # tell prompts apart that have lost something
        digest = hashlib.blake2b(prompt.encode("utf-8", "replace"), digest_size=8).hexdigest()
        slug = f"{slug or 'any'}-{digest}"
    return f"{slug}-seed{seed}{how}{suffix}"


def output_paths(config: GenerateConfig, drawings: Sequence[Drawing]) -> list[Path]:
    """Where they go: a file for each, or one for all. Raises UserError where --output is meant for
    a single one, or names a kind of file that is not written."""
    output, kinds, ending = Path(config.output), SUFFIXES, "." + config.format
    ways = ["-as-typed" * config.as_typed + "-again" * bool(config.from_png)
            + (f"-temperature{plain(d.temperature)}" if d.temperature != 1 else "")
            + (f"-x{config.upscale}" if config.upscale != 1 else "") for d in drawings]  # fmt: skip
    names = [file_name(d.caption if config.from_png else d.prompt, d.seed, way, ending)
             for d, way in zip(drawings, ways, strict=True)]  # fmt: skip
    if config.grid:
        names = ["grid-" + names[0]]
    if config.interpolate:
        kinds, ending = ANIMATED, ".webp" if config.format == "webp" else ".gif"
        told = " - ".join(dict.fromkeys(d.prompt for d in drawings))
        last = f"-to{drawings[-1].seed}" if len(config.interpolate) == 1 else ""
        names = ["way-" + file_name(told, config.seed, last + ways[0], ending)]
    suffix = output.suffix.lower()
    if output.is_dir() or suffix not in Image.registered_extensions():
        return [output / name for name in names]
    if suffix not in kinds:
        what = "animations" if config.interpolate else "images"
        raise UserError(f"--output {output}: {what} are written as {', '.join(kinds)}; choose one "
                        "of these, or a folder")  # fmt: skip
    if len(names) > 1:
        raise UserError(f"--output {output} is one file, but {len(names):,} images are drawn; "
                        "name a folder, or put them on one sheet with --grid")  # fmt: skip
    if config.format != "png" and kinds[suffix] != kinds["." + config.format]:
        raise UserError(f"--output {output} says the kind of file already; leave out --format")
    return [output]


def png_info(texts: dict[str, str]) -> PngInfo:
    """Texts as a PNG keeps them."""
    info = PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text.encode("utf-8", "replace").decode())
    return info


def save_image(pixels: np.ndarray, path: Path, texts: dict[str, str] | None = None) -> None:
    """pixels: (H, W, 3) uint8; texts: what a PNG keeps beside them, by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image, kind = Image.fromarray(pixels), SUFFIXES[path.suffix.lower()]
    options = dict(OPTIONS.get(kind, {}))
    if kind == "PNG" and texts:
        options["pnginfo"] = png_info(texts)
    write_whole(path, partial(image.save, format=kind, **options))


# What to tell


def tell_what_is_not_drawn(model: TextToImageModel, drawings: list[Drawing], mark: str) -> None:
    """Print words that the model does not know, prompts that are too long for it, and what other
    weights than those of this fingerprint drew."""

    def named(some: list[str]) -> str:
        return shown(some[0]) + (f" and {len(some) - 1:,} more" if len(some) > 1 else "")

    opened, completes = drawings[0].caption is None, model.completer is not None
    prompts = list(dict.fromkeys(d.prompt if opened else d.caption for d in drawings))
    known, limit = model.tokenizer.ids.keys(), model.config.max_tokens
    lost = [p for p in prompts if p and not set(split_words(p)) & known]
    if lost and opened and completes:
        print(f"no known word in {named(lost)}: any image is drawn")
    for line in unknown_hints(model, prompts):
        print(line)
    if long := [p for p in prompts if len(model.tokenizer.encode(p)) > limit]:
        print(f"only the first {limit - 1} words count of {named(long)}")
    if opened and not completes:
        print("these weights complete no captions: they are drawn as typed")
    if others := [d for d in drawings if d.mark not in ("", mark)]:
        print(f"{named([d.prompt for d in others])} was drawn by other weights, {others[0].mark}, "
              f"not {mark}: the image may differ")  # fmt: skip


def print_vocabulary(model: TextToImageModel, config: GenerateConfig) -> None:
    """All known words in columns, and a few captions, which show how they go together."""
    if model.completer:
        print("captions that these weights write, for nothing typed:")
        seeds = range(config.seed, config.seed + EXAMPLES)
        print(*model.complete([""] * EXAMPLES, seeds, config.temperature), sep="\n")
    words = model.tokenizer.vocabulary[len(SPECIAL_TOKENS) :]
    print(f"{len(words):,} known words, the most frequent first:")
    wide = {w: len(w) + sum(unicodedata.east_asian_width(c) in "WF" for c in w) for w in words}
    column = max(wide.values(), default=0) + 2
    across = max(1, shutil.get_terminal_size().columns // column)
    cells = [word + " " * (column - wide[word]) for word in words]
    for i in range(0, len(cells), across):
        print("".join(cells[i : i + across]).rstrip())


# Draw


def pixels_of(images: torch.Tensor, times: int = 1) -> np.ndarray:
    """(B, 3, H, W) in -1..1 -> (B, H, W, 3) uint8, each pixel so many times in both directions."""
    pixels = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
    return pixels.repeat(times, axis=1).repeat(times, axis=2)


def completed(model: TextToImageModel, drawings: list[Drawing]) -> list[Drawing]:
    """The same of one temperature, with captions."""
    if drawings[0].caption is not None:
        return drawings
    prompts, seeds, temperatures, *_ = zip(*drawings, strict=True)
    captions = model.complete(prompts, seeds, temperatures[0])
    return [d._replace(caption=c) for d, c in zip(drawings, captions, strict=True)]


def draw(
    model: TextToImageModel, drawings: list[Drawing], times: int
) -> Iterator[tuple[Drawing, np.ndarray]]:
    """Each with its caption, and its pixels (H, W, 3) uint8, enlarged so many times."""
    for temperature, same in groupby(drawings, key=lambda drawing: drawing.temperature):
        same = list(same)
        for i in range(0, len(same), BATCH):
            some = completed(model, same[i : i + BATCH])
            images = model.draw([d.caption for d in some], [d.seed for d in some], temperature)
            yield from zip(some, pixels_of(images, times), strict=True)


def draw_files(
    config: GenerateConfig, model: TextToImageModel, drawings: list[Drawing], paths: list[Path]
) -> None:
    """A file for each, and what belongs to it."""
    figures = [path.with_name(path.stem + "-attention.png") for path in paths]
    left = [i for i, path in enumerate(paths) if not (config.skip_existing and path.exists()
            and (figures[i].exists() or not config.attention))]  # fmt: skip
    many, utf = len(left) > BATCH, (sys.stdout.encoding or "").lower().startswith("utf")
    shows = config.show and utf and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    if config.show and not shows:
        print("--show: standard output is no terminal that shows images")
    bar = tqdm(left, desc="drawing", unit="img", disable=None if many and not shows else True)
    drawn = draw(model, [drawings[i] for i in left], config.upscale)
    for done, (i, (drawing, pixels)) in enumerate(zip(bar, drawn, strict=True)):
        prompt, seed, temperature, caption, _ = drawing
        try:
            save_image(pixels, paths[i], drawing.texts())
            if config.attention:
                look = model.look(caption, seed, temperature)
                save_image(look.figure(f"seed {seed}: {shown(prompt)}", caption), figures[i])
        except (UserError, OSError) as error:
            for k in left[done:] if len(left) > 1 else ():
                print(f"not drawn: {paths[k]}")
            raise UserError(
                f"{error}; {done:,} of {len(left):,} images were written; for the others repeat "
                "the command with --skip-existing"
            ) from error
        if shows:
            from reports.figures import as_blocks  # which takes half a second to import

            print(as_blocks(pixels[:: config.upscale, :: config.upscale]))
        if not many:
            if caption != prompt:
                print(f"{shown(prompt)} -> {shown(caption)}")
            print(paths[i], *[figures[i]] * config.attention, sep="\n")
    if many or config.skip_existing:
        skipped = len(paths) - len(left)
        print(f"{len(left):,} images drawn in {config.output}, {skipped:,} were there already")


def draw_grids(
    config: GenerateConfig, model: TextToImageModel, drawings: list[Drawing], path: Path
) -> list[Path]:
    """A sheet with a line for each prompt; more sheets where one has no room for all of them."""
    from reports import figures

    num, times = config.n, max(config.upscale, figures.IMAGE // model.config.image_size)
    side, is_webp = times * model.config.image_size, path.suffix.lower() == ".webp"
    rows = figures.prompts_that_fit(num, side, LARGEST if is_webp else figures.MAX_SIDE)
    if not rows:
        raise UserError(f"{num:,} images of {side} pixels side by side are wider than a file can "
                        "be; leave out --grid, or make --n or --upscale smaller")  # fmt: skip
    parts = [drawings[i : i + rows * num] for i in range(0, len(drawings), rows * num)]
    paths = [path.with_stem(f"{path.stem}-{i + 1}") if i else path for i in range(len(parts))]
    for part, file in zip(parts, paths, strict=True):
        done, images = zip(*draw(model, part, times), strict=True)
        lines = [done[i : i + num] for i in range(0, len(done), num)]  # of a prompt each
        sheet = figures.draw_prompts(
            np.stack(images).reshape(-1, num, side, side, 3), [line[0].prompt for line in lines],
            [[d.caption for d in line] for line in lines], [d.seed for d in lines[0]])  # fmt: skip
        texts = [d.texts() for d in done]
        save_image(sheet, file, {name: "\n".join(t[name] for t in texts) for name in texts[0]})
        for d in done if len(drawings) <= BATCH and not config.as_typed else ():
            print(f"seed {d.seed}: {shown(d.prompt)} -> {shown(d.caption)}")
        print(file)
    return paths


def draw_way(
    config: GenerateConfig, model: TextToImageModel, stops: list[Drawing], path: Path
) -> list[Path]:
    """An animation from each stop to the next, and its frames in a folder beside it."""
    stops, frames = completed(model, stops), []
    for d in stops:
        print(f"seed {d.seed}: {shown(d.prompt)} -> {shown(d.caption)}")
    for a, b in zip(stops, stops[1:], strict=False):
        both = [a.caption, b.caption], [a.seed, b.seed]
        leg = model.interpolate(*both, config.frames, config.temperature)
        frames += [*pixels_of(leg, config.upscale)][bool(frames) :]  # which begins where one ended
    folder, kind = path.with_name(f"{path.stem}-frames"), ANIMATED[path.suffix.lower()]
    old = list(folder.iterdir()) if folder.exists() else []
    if any(not FRAME_NAME.fullmatch(file.name) for file in old):
        raise UserError(f"{folder} holds other things than frames of an animation; choose another "
                        "--output")  # fmt: skip
    for file in old:  # of a longer one
        file.unlink()
    names = [folder / f"{i:04d}.{config.format}" for i in range(len(frames))]
    for name, frame in zip(names, frames, strict=True):
        save_image(frame, name)
    rests = [REST if i % (config.frames - 1) == 0 else FRAME for i in range(len(frames))]
    first, *others = map(Image.fromarray, frames)
    write_whole(path, partial(first.save, format=kind, save_all=True, append_images=others,
                              duration=rests, loop=0, **OPTIONS.get(kind, {})))  # fmt: skip
    print(path, f"{folder}{os.sep} ({len(frames):,} frames)", sep="\n")
    return [path, *names]


def main(config: GenerateConfig) -> list[Path]:
    """Draw and write the images; returns where."""
    if config.seed < 0:
        config = dataclasses.replace(config, seed=secrets.randbelow(2**32 - config.n))
        print(f"seed {config.seed}; to draw the same again: --seed {config.seed}")
    drawings = [] if config.vocabulary else what_to_draw(config)
    paths = output_paths(config, drawings) if drawings else []
    chosen, why = checkpoint.choose_weights(config.model)
    state, path = checkpoint.load_whole(chosen)
    model = checkpoint.model_of(state, path).to(choose_device(config.device))
    print(f"weights: {path}{checkpoint.progress_line(state)}{why and f', {why}'}")
    if config.vocabulary:
        print_vocabulary(model, config)
        return []
    if (side := model.config.image_size * config.upscale) > LARGEST:
        raise UserError(f"--upscale {config.upscale} makes images of {side:,} pixels a side; "
                        f"{LARGEST // model.config.image_size} is the most here")  # fmt: skip
    mark = checkpoint.fingerprint(model)
    tell_what_is_not_drawn(model, drawings, mark)
    drawings = [d._replace(mark=mark) for d in drawings]
    if config.interpolate:
        return draw_way(config, model, drawings, paths[0])
    if config.grid:
        return draw_grids(config, model, drawings, paths[0])
    draw_files(config, model, drawings, paths)
    return paths


if __name__ == "__main__":
    run(main, GenerateConfig, __doc__)
