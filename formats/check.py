"""Is a collection fit to train on? What it holds, and what is wrong with it."""

import hashlib
import re
import shlex
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, fields
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from tqdm import tqdm

from config import FEW, CheckConfig, ModelConfig, TrainConfig, UserError, name_of, word_minimum
from files import write_whole
from formats.cache import UNREADABLE, Streamed, span_of
from formats.export import export_collection
from formats.images import open_image
from formats.opened import OpenedCollection, open_collection, spread
from formats.places import Skipped
from reports import figures
from reports.verdict import FEW_HELD_OUT
from tokenizer import SPECIAL_TOKENS, Tokenizer, split_words

NUM_SHOWN = 32  # images of the sheet
THUMBNAIL = 16  # pixels a side
CUT = 0.01  # of the captions; more make it worth to read long ones whole
SAME = 4.0  # root of the mean squared difference, of 255, up to which thumbnails are of one image
MANY_HELD_OUT = 4_096
ODD_CAPTIONS = {
    "end in a long number, as a seed is": re.compile(r"(?<!\d)\d{6,}$"),
    "hold weights of words, which are read as words": re.compile(r"\([^()]+:\d+(\.\d+)?\)"),
}
THIN = 2.0  # ratio of the sides from which on the cut is worth a word


def check_or_export(config: CheckConfig) -> None:
    """What `python dataset.py` does; exits with status 1 where a check finds problems."""
    if config.export:
        return export_collection(config)
    opened = open_collection(config.data, config, config.image_size)
    files = look_at_files(opened)
    several, skipped = duplicates(files), opened.collection.skipped
    lines, problems = [opened.summary(), *about_images(files, config)], []
    leaks = copies_held_out(files)
    for told, wrong in (about_captions(opened, config), about_duplicates(several, leaks)):
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
    save_report(folder / "report.txt", lines, skipped, [*several, *leaks])
    print(f"see {folder}/sheet.png: do captions and pictures belong together? Every file that was "
          f"skipped is in {folder}/report.txt")  # fmt: skip
    if sizes["train"]:
        print(f"to train on it: {train_command(config, opened)}")
    else:
        there = " and ".join(name for name, found in opened.splits.items() if len(found))
        raise UserError(f"{config.data} gives no pictures to train on: all are for {there}; name "
                        "their folder itself, or call it train")  # fmt: skip
    if problems:
        sys.exit(1)


def train_command(config: CheckConfig, opened: OpenedCollection) -> str:
    """What to type, with the flags that this check was given, and one for long captions."""
    command = ["python train.py --data", shlex.quote(config.data)]
    for f in fields(TrainConfig):
        value = getattr(config, f.name, f.default)
        if f.name == "data" or value == f.default:
            continue
        flag = name_of(f) if f.metadata["flag"] else f"{name_of(f)}={value}"
        takes_value = f.metadata["flag"] and not isinstance(value, bool)
        command += [flag, shlex.quote(str(value))] if takes_value else [flag]
    captions = opened.captions(opened.indices("train"))
    lengths = [1 + len(split_words(caption)) for caption in captions]
    longest, limit = max(lengths), ModelConfig().max_tokens
    if sum(length > limit for length in lengths) > CUT * len(lengths):
        command.append(f"--set max_tokens={longest}")
    return " ".join(command)


@dataclass
class File:
    path: str
    split: str
    digest: bytes  # of its bytes
    size: tuple[int, int]  # width and height
    mode: str
    thumbnail: np.ndarray  # (3, THUMBNAIL, THUMBNAIL) uint8, of what training sees


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
        pixels = opened.images.decode(number) if streamed else opened.images[number]
        if isinstance(pixels, str):
            return pixels
        blocks = pixels.reshape(3, THUMBNAIL, pixels.shape[1] // THUMBNAIL, THUMBNAIL, -1)
        small = blocks.mean(axis=(2, 4)).round().astype(np.uint8)
        return File(record.path, split, digest, size, mode, small)

    numbers = sorted((int(i), split) for split, found in opened.splits.items() for i in found)
    files = []
    with ThreadPool() as threads:
        jobs = threads.imap(lambda args: look(*args), numbers, chunksize=16)
        for (number, _), file in zip(
            numbers, tqdm(jobs, "checking", len(numbers), disable=None), strict=True
        ):
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
    each = len(captions) / max(1, len(opened.indices("train")))
    several = sum(n for n in Counter(captions).values() if n > 1) / max(1, len(captions))
    if opened.collection.layout in ("sidecar", "kohya") and each > 1:
        lines.append(f"  each line of a text is a caption: {each:.1f} a picture; {several:.0%} of "
                     "captions are there more than once")  # fmt: skip
        if np.median(lengths) <= 2 and several > 0.5:
            problems.append("texts seem to hold a tag a line, of which each is read as a caption; "
                            "put them in one line, with commas between")  # fmt: skip
    held_out = opened.captions(opened.splits["validation"])
    for what, pattern in ODD_CAPTIONS.items():
        if odd := [caption for caption in (*captions, *held_out) if pattern.search(caption)]:
            problems.append(f"{len(odd):,} captions {what} (e.g. {odd[0][:60]!r})")
    words = [word for caption in held_out for word in split_words(caption)]
    if words:
        known = sum(word in tokenizer.ids for word in words) / len(words)
        lines.append(f"  of the words in validation captions, {known:.1%} are in it")
        if known < 0.9 and len(held_out) >= FEW_HELD_OUT:
            more = "; --min-count 1 learns all" if least > 1 else ""
            problems.append(f"only {known:.1%} of the words in validation captions are known{more}")
    common, num = Counter(captions).most_common(1)[0] if captions else ("", 0)
    if num > max(10, len(captions) / 10):
        problems.append(f"{num:,} of {len(captions):,} captions are the same: {common[:60]!r}")
    return lines, problems


def about_duplicates(several: list[list[File]], leaks: list[list[File]]) -> Told:
    lines, problems = ["duplicates: no picture is there twice"], []
    if several:
        example = paths_of(several[0][:2])
        lines = [f"duplicates: {len(several):,} pictures are there more than once (e.g. {example})"]
    if leaks:
        problems = [f"{len(leaks):,} pictures are in training and in another split (e.g. "
                    f"{paths_of(leaks[0])}), of which measures will be too good"]  # fmt: skip
    return lines, problems


def copies_held_out(files: list[File]) -> list[list[File]]:
    """(trained on, held out) of images that look the same, saved anew or not. Of many that are held
    out, MANY_HELD_OUT are looked at."""
    train = [file for file in files if file.split == "train"]
    held = [file for file in files if file.split != "train"]
    held = [held[i] for i in spread(len(held), MANY_HELD_OUT)]
    if not train or not held:
        return []
    ours = np.stack([file.thumbnail.ravel() for file in held]).astype(np.float32)
    nearest, distance = np.zeros(len(held), int), np.full(len(held), np.inf)
    for start in range(0, len(train), 4096):  # (held, 4096) at a time
        some = [file.thumbnail.ravel() for file in train[start : start + 4096]]
        some = np.stack(some).astype(np.float32)
        squares = (ours**2).sum(1)[:, None] + (some**2).sum(1) - 2 * ours @ some.T
        best = squares.argmin(1)
        least = squares[np.arange(len(held)), best] / ours.shape[1]
        nearest[least < distance] = start + best[least < distance]
        distance = np.minimum(distance, least)
    found = [[train[nearest[i]], held[i]] for i in np.flatnonzero(distance <= SAME**2)]
    return found


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
