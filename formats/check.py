"""Is a collection fit to train on? What it holds, and what is wrong with it."""

import hashlib
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from tqdm import tqdm

import figures
from config import FEW, CheckConfig, ModelConfig, UserError, word_minimum
from files import write_whole
from formats.cache import UNREADABLE, Streamed, span_of
from formats.export import export_collection
from formats.images import open_image
from formats.opened import OpenedCollection, open_collection, spread
from formats.places import Skipped
from tokenizer import SPECIAL_TOKENS, Tokenizer, split_words

NUM_SHOWN = 32  # images of the sheet
THIN = 2.0  # ratio of the sides from which on the cut is worth a word


def check_or_export(config: CheckConfig) -> None:
    """What `python dataset.py` does; exits with status 1 where a check finds problems."""
    if config.export:
        return export_collection(config)
    opened = open_collection(config.data, config, config.image_size)
    files = look_at_files(opened)
    several, skipped = duplicates(files), opened.collection.skipped
    lines, problems = [opened.summary(), *about_images(files, config)], []
    for told, wrong in (about_captions(opened, config), about_duplicates(several)):
        lines += told
        problems += wrong
    problems += [f"{len(found):,} {reason}" for reason, found in skipped.items()]
    sizes = {name: len(opened.splits.get(name, ())) for name in ("train", "validation")}
    if sum(sizes.values()) < FEW:
        problems.append(f"only {sum(sizes.values()):,} pictures to train and validate with")
    lines += ["problems:", *(f"  {p}" for p in problems)] if problems else ["no problems found"]
    print("\n".join(lines))
    folder = Path(config.reports) / opened.collection.name
    save_sheet(folder / "sheet.png", opened)
    save_report(folder / "report.txt", lines, skipped, several)
    print(f"see {folder}/sheet.png: do captions and pictures belong together? Every file that was "
          f"skipped is in {folder}/report.txt")  # fmt: skip
    if not all(sizes.values()):
        raise UserError(f"{config.data} gives {sizes['train']} pictures to train on and "
                        f"{sizes['validation']} to validate with; add some")  # fmt: skip
    if problems:
        sys.exit(1)


@dataclass
class File:
    path: str
    split: str
    digest: bytes  # of its bytes
    size: tuple[int, int]  # width and height
    mode: str


def look_at_files(opened: OpenedCollection) -> list[File]:
    """The images that can be read; where they are not decoded yet, that is tried here."""
    collection, streamed = opened.collection, isinstance(opened.images, Streamed)

    def look(number: int, split: str) -> File | str:
        record = collection.records[number]
        try:
            with collection.place.open(*span_of(record)) as file:
                digest = hashlib.blake2b(file.read(), digest_size=16).digest()
                file.seek(0)
                with open_image(file) as image:
                    size, mode = image.size, image.mode
        except Exception:  # Pillow raises any kind
            return UNREADABLE
        if streamed and isinstance(pixels := opened.images.decode(number), str):
            return pixels
        return File(record.path, split, digest, size, mode)

    numbers = sorted((int(i), split) for split, found in opened.splits.items() for i in found)
    files = []
    with ThreadPool() as threads:
        jobs = threads.imap(lambda args: look(*args), numbers, chunksize=16)
        for (number, _), file in zip(numbers, tqdm(jobs, "checking", len(numbers)), strict=True):
            if isinstance(file, File):
                files.append(file)
            else:
                collection.skipped[file].append(collection.records[number].path)
    if not files:
        raise UserError(f"none of the pictures can be read: {collection.skipped_line()}")
    return files


Told = tuple[list[str], list[str]]  # lines for people, and problems


def about_images(files: list[File], config: CheckConfig) -> list[str]:
    sizes = np.array([file.size for file in files])  # (N, 2)
    (width, height), (least, most) = np.median(sizes, axis=0), (sizes.min(1), sizes.max(1))
    modes = ", ".join(f"{n:,} {mode}" for mode, n in Counter(f.mode for f in files).most_common(4))
    lines = [f"pictures: {least.min():,} to {most.max():,} pixels a side, typically {width:.0f} x "
             f"{height:.0f}; {modes}"]  # fmt: skip
    small, thin = (least < config.image_size).sum(), (most > THIN * least).sum()
    if small:
        lines.append(f"  {small:,} are smaller than {config.image_size} pixels, and are enlarged")
    if thin and config.fit == "crop":
        lines.append(f"  {thin:,} are more than {THIN:g} times as long as wide, and are cut to "
                     "their middle; --fit pad keeps all of them")  # fmt: skip
    return lines


def about_captions(opened: OpenedCollection, config: CheckConfig) -> Told:
    captions, problems = opened.captions(opened.indices("train")), []
    counts = Counter(word for caption in captions for word in split_words(caption))
    least = config.min_count or word_minimum(len(np.unique(opened.indices("train"))))
    tokenizer = Tokenizer.learn(captions, least)
    lengths = np.array([len(split_words(caption)) for caption in captions] or [0])
    limit = ModelConfig().max_tokens
    num_cut = int((lengths >= limit).sum())  # one more token is the start
    lines = [
        f"captions: {lengths.min()} to {lengths.max()} words, half of them at most "
        f"{np.median(lengths):.0f}; {num_cut:,} are cut to {limit} tokens",
        f"  vocabulary: {len(tokenizer) - len(SPECIAL_TOKENS):,} words of {len(counts):,}, those "
        f"that training captions hold {least} times or more",
    ]
    if num_cut:
        problems.append(f"{num_cut:,} captions are cut to {limit} tokens; the rest is not read")
    held_out = opened.captions(opened.splits["validation"])
    words = [word for caption in held_out for word in split_words(caption)]
    if words:
        known = sum(word in tokenizer.ids for word in words) / len(words)
        lines.append(f"  of the words in validation captions, {known:.1%} are in it")
        if known < 0.9:
            problems.append(f"only {known:.1%} of the words in validation captions are known; with "
                            "few pictures, --min-count 1 helps")  # fmt: skip
    common, num = Counter(captions).most_common(1)[0] if captions else ("", 0)
    if num > max(10, len(captions) / 10):
        problems.append(f"{num:,} of {len(captions):,} captions are the same: {common[:60]!r}")
    return lines, problems


def about_duplicates(several: list[list[File]]) -> Told:
    if not several:
        return ["duplicates: no picture is there twice"], []
    example = paths_of(several[0][:2])
    lines = [f"duplicates: {len(several):,} pictures are there more than once (e.g. {example})"]
    leaks = [group for group in several if {"train"} < {file.split for file in group}]
    if not leaks:
        return lines, []
    return lines, [f"{len(leaks):,} pictures are in training and in another split (e.g. "
                   f"{paths_of(leaks[0][:2])}), of which measures will be too good"]  # fmt: skip


def duplicates(files: list[File]) -> list[list[File]]:
    """Those that hold the same bytes, where there are several."""
    groups = defaultdict(list)
    for file in files:
        groups[file.digest].append(file)
    return [group for group in groups.values() if len(group) > 1]


def paths_of(files: list[File]) -> str:
    return " = ".join(file.path for file in files)


def save_sheet(path: Path, opened: OpenedCollection) -> None:
    """Images of all splits with their first captions, evenly spread; none is picked."""
    everything = np.sort(np.concatenate(list(opened.splits.values())))
    images, records = opened.read(everything[spread(len(everything), NUM_SHOWN)], everything)
    title = f"{opened.collection.name} ({opened.collection.layout}), {len(everything):,} pictures"
    figures.save_samples(path, {"": images}, [r.captions[0] for r in records], title)


def save_report(path: Path, told: list[str], skipped: Skipped, several: list[list[File]]) -> None:
    """What is told, and every file that was skipped or is there twice."""
    lines = list(told)
    for reason, found in skipped.items():
        lines += ["", f"{len(found):,} {reason}:", *(f"  {name}" for name in found)]
    if several:
        lines += ["", "the same picture:", *(f"  {paths_of(group)}" for group in several)]
    text = "\n".join(lines) + "\n"
    write_whole(path, lambda file: file.write(text.encode(errors="backslashreplace")))
