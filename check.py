"""Is a collection fit to train on? What it holds, and what is wrong with it.

    python dataset.py PATH                          a report and a sheet of pictures with captions
    python dataset.py PATH --export jsonl OUT       the same collection in another layout

Exit status: 0 usable, 1 usable with problems, 2 not usable, or not to be found out.
"""

import hashlib
import sys
import traceback
from collections import Counter, defaultdict
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from tqdm import tqdm

import export
import figures
from cache import UNREADABLE, Streamed, span_of
from command_line import UserError, run, setting
from dataset import FEW, CaptionedImages, spread
from files import write_whole
from layouts import DataConfig, reading
from model import IMAGE_SIZES, ModelConfig
from pictures import open_picture
from tokenizer import SPECIAL_TOKENS, Tokenizer, split_words

NUM_SHOWN = 32  # pictures of the sheet
THIN = 2.0  # ratio of the sides from which on the cut is worth a word


@dataclass(frozen=True)
class CheckConfig(DataConfig):
    data: str = setting("", "folder, .zip, .tar or table of captioned pictures", positional=True)
    out: str = setting("", "folder that --export makes", positional=True)
    export: str = setting("", "layout to write", ("", *export.WRITERS))
    resized: bool = setting(False, "export pictures as training sees them, not as they are")
    image_size: int = setting(64, "width and height that training would use", IMAGE_SIZES)
    min_count: int = setting(2, "captions' words rarer than this are unknown in training")
    reports: str = setting("results/check", "folder for reports and sheets")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise UserError("say what to check: python dataset.py FOLDER")
        if bool(self.export) != bool(self.out):
            raise UserError("to export: python dataset.py PATH --export jsonl OUT")


def main(config: CheckConfig) -> None:
    """Check or export, as asked; ends with status 1 where there are problems."""
    if config.export:
        return export.main(config)
    dataset = CaptionedImages(config.data, image_size=config.image_size, **reading(config))
    files = look_at_files(dataset)
    lines, problems = [dataset.summary()], []
    for part in (about_pictures, about_captions, about_duplicates):
        told, wrong = part(dataset, files, config)
        lines += told
        problems += wrong
    for reason, found in dataset.collection.skipped.items():
        problems.append(f"{len(found):,} {reason}")
    sizes = {name: len(dataset.splits.get(name, ())) for name in ("train", "validation")}
    if sum(sizes.values()) < FEW:
        problems.append(f"only {sum(sizes.values()):,} pictures to train and validate with")
    lines += ["problems:", *(f"  {p}" for p in problems)] if problems else ["no problems found"]
    print("\n".join(lines))
    folder = Path(config.reports) / dataset.collection.name
    save_sheet(folder / "sheet.png", dataset)
    save_report(folder / "report.txt", lines, dataset, files)
    print(f"see {folder}/sheet.png: do captions and pictures belong together? Every file that was "
          f"skipped is in {folder}/report.txt")  # fmt: skip
    if not all(sizes.values()):
        raise UserError(f"{config.data} gives {sizes['train']} pictures to train on and "
                        f"{sizes['validation']} to validate with; add some")  # fmt: skip
    if problems:
        sys.exit(1)


@dataclass
class File:
    number: int  # of the record
    digest: bytes  # of its bytes
    size: tuple[int, int]  # width and height
    mode: str


def look_at_files(dataset: CaptionedImages) -> list[File]:
    """The pictures that can be read; where they are not decoded yet, that is tried here."""
    collection, streamed = dataset.collection, isinstance(dataset.pictures, Streamed)

    def look(number: int) -> File | str:
        record = collection.records[number]
        try:
            with collection.place.open(*span_of(record)) as file:
                digest = hashlib.blake2b(file.read(), digest_size=16).digest()
                file.seek(0)
                with open_picture(file) as picture:
                    size, mode = picture.size, picture.mode
        except Exception:  # Pillow raises any kind
            return UNREADABLE
        if streamed and isinstance(pixels := dataset.pictures.decode(number), str):
            return pixels
        return File(number, digest, size, mode)

    numbers = sorted(int(i) for split in dataset.splits.values() for i in split)
    files = []
    with ThreadPool() as threads:
        jobs = threads.imap(look, numbers, chunksize=16)
        for number, file in zip(numbers, tqdm(jobs, "checking", len(numbers)), strict=True):
            if isinstance(file, File):
                files.append(file)
            else:
                collection.skipped[file].append(collection.records[number].path)
    if not files:
        raise UserError(f"none of the pictures can be read: {collection.skipped_line()}")
    return files


Told = tuple[list[str], list[str]]  # lines for people, and problems


def about_pictures(dataset: CaptionedImages, files: list[File], config: CheckConfig) -> Told:
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
    return lines, []


def about_captions(dataset: CaptionedImages, files: list[File], config: CheckConfig) -> Told:
    captions, problems = dataset.captions(), []
    counts = Counter(word for caption in captions for word in split_words(caption))
    tokenizer = Tokenizer.learn(captions, config.min_count)
    lengths = np.array([len(split_words(caption)) for caption in captions] or [0])
    limit = ModelConfig().max_tokens
    num_cut = int((lengths >= limit).sum())  # one more token is the start
    lines = [
        f"captions: {lengths.min()} to {lengths.max()} words, half of them at most "
        f"{np.median(lengths):.0f}; {num_cut:,} are cut to {limit} tokens",
        f"  vocabulary: {len(tokenizer) - len(SPECIAL_TOKENS):,} words of {len(counts):,}, those "
        f"that training captions hold {config.min_count} times or more",
    ]
    if num_cut:
        problems.append(f"{num_cut:,} captions are cut to {limit} tokens; the rest is not read")
    held_out = dataset.other_split("validation").captions()
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


def about_duplicates(dataset: CaptionedImages, files: list[File], config: CheckConfig) -> Told:
    several = duplicates(files)
    if not several:
        return ["duplicates: no picture is there twice"], []
    records = dataset.collection.records
    example = " = ".join(records[i].path for i in several[0][:2])
    lines = [f"duplicates: {len(several):,} pictures are there more than once (e.g. {example})"]
    split_of = {int(i): name for name, numbers in dataset.splits.items() for i in numbers}
    leaks = [g for g in several if {"train"} < {split_of[i] for i in g}]
    if not leaks:
        return lines, []
    example = " = ".join(records[i].path for i in leaks[0][:2])
    return lines, [f"{len(leaks):,} pictures are in training and in another split (e.g. {example}),"
                   " of which measures will be too good"]  # fmt: skip


def duplicates(files: list[File]) -> list[list[int]]:
    """The numbers of records that hold the same bytes, where there are several."""
    groups = defaultdict(list)
    for file in files:
        groups[file.digest].append(file.number)
    return [group for group in groups.values() if len(group) > 1]


def save_sheet(path: Path, dataset: CaptionedImages) -> None:
    """Pictures of all splits with their first captions, evenly spread; none is picked."""
    everything = dataset.other_split("train")
    everything.indices = np.sort(np.concatenate(list(dataset.splits.values())))
    pictures, captions = everything.batch(spread(len(everything), NUM_SHOWN))
    title = f"{dataset.collection.name} ({dataset.collection.layout}), {len(everything):,} pictures"
    figures.save_samples(path, {"": pictures}, [c[0] for c in captions], title)


def save_report(path: Path, told: list[str], dataset: CaptionedImages, files: list[File]) -> None:
    """What is told, and every file that was skipped or is there twice."""
    lines = list(told)
    for reason, found in dataset.collection.skipped.items():
        lines += ["", f"{len(found):,} {reason}:", *(f"  {name}" for name in found)]
    if several := duplicates(files):
        records = dataset.collection.records
        lines += ["", "the same picture:"]
        lines += ["  " + " = ".join(records[i].path for i in group) for group in several]
    text = "\n".join(lines) + "\n"
    write_whole(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def start() -> None:
    """What python dataset.py does. A fault of ours must not end with the status of problems."""
    try:
        run(main, CheckConfig, __doc__)
    except Exception:
        traceback.print_exc()
        sys.exit(2)
