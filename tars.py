"""Which captioned pictures does a tar hold, as webdataset and img2dataset write it?"""

import json
import re
import tarfile
from collections import defaultdict
from pathlib import Path

from pictures import PICTURE_SUFFIXES
from places import OUTSIDE, Skipped, is_litter, join
from texts import BROKEN, MAX_TEXT, NOT_UTF8, caption_cell, clean_caption, is_text

PICTURES = ("jpg", "png", "webp", *sorted(s[1:] for s in PICTURE_SUFFIXES), "img", "image",
            "input.jpg", "input.png")  # fmt: skip
TEXTS = ("txt", "cap", "caption", "text")
NO_CAPTION = "pictures without a caption"
OTHER = "files in tars that are neither picture nor caption"
SPECIAL = "links and other special files in tars"
DAMAGED = "tars that are damaged"
NO_PICTURE = "captions without a picture"
METADATA = re.compile("__.*__")  # names that are no samples
SUSPICIOUS = re.compile(r"^/|\.\.|[\\:]")  # parts of names that may lead out of the folder
Sample = tuple[str, tuple[str, ...], int, int]  # name of the picture, captions, offset, size


def read_shard(path: Path) -> tuple[list[Sample], Skipped]:
    """The samples of a tar, and what was left out of it."""
    samples: list[Sample] = []
    skipped: Skipped = defaultdict(list)
    parts: dict[str, tuple] = {}  # of the sample that is being read: field -> what it holds
    its_key = None

    def finish() -> None:
        pictures = [parts[part] for part in PICTURES if part in parts]
        captions = next((parts[part] for part in ("json", *TEXTS) if parts.get(part)), ())
        if pictures and captions:
            samples.append((pictures[0][0], captions, *pictures[0][1:]))
        elif pictures:
            broken = "broken" in parts
            skipped[NOT_UTF8 if broken else NO_CAPTION].append(pictures[0][0])
        elif parts:
            skipped[NO_PICTURE].append(str(its_key))
        parts.clear()

    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
            end = 0
            for member in archive:
                archive.members = []  # it would keep them all
                if member.size < 0 or member.offset_data < end:  # it would go round in circles
                    raise tarfile.ReadError("a header with an impossible size")
                end = member.offset_data + (0 if member.issparse() else member.size)
                name = member.name
                folder, slash, base = name.rpartition("/")
                stem, _, part = base.partition(".")
                key, part = folder + slash + stem, part.lower()
                if SUSPICIOUS.search(name) and join("", name) is None:
                    skipped[OUTSIDE].append(name)
                    continue
                if not member.isreg() and not member.isdir() or member.issparse():
                    skipped[SPECIAL].append(name)
                    continue
                if not part or member.isdir() or is_litter(base) or METADATA.fullmatch(name):
                    continue
                if key != its_key:
                    finish()
                    its_key = key
                if part in parts:
                    skipped["files that are twice in one sample"].append(name)
                elif part in PICTURES:
                    parts[part] = (name, member.offset_data, member.size)
                elif part == "json" or part in TEXTS:
                    if member.size > MAX_TEXT:
                        skipped["texts that are too large"].append(name)
                        continue
                    archive.fileobj.seek(member.offset_data)  # half the time of extractfile
                    data = archive.fileobj.read(member.size)
                    captions, broken = captions_in(part, data)
                    parts[part] = captions
                    if broken:
                        parts["broken"] = ()
                else:
                    skipped[f"{OTHER} ({part[:20]})"].append(name)
            # A damaged header ends the iteration, too: only the end of a tar is made of zeros.
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it ends in the middle, or a header is broken")
    except Exception as error:  # TarError, OSError, OverflowError, RecursionError, ...
        skipped[DAMAGED].append(f"after {len(samples)} samples ({error})")
    finish()
    return samples, skipped


def captions_in(part: str, data: bytes) -> tuple[tuple[str, ...], bool]:
    """The captions in a file of a tar, and whether there are bytes that are no UTF-8."""
    text = data.decode("utf-8-sig", errors="surrogateescape")
    found: object = text
    if part == "json":
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            return (), bool(BROKEN.search(text))
        found = caption_cell(row) if isinstance(row, dict) else None
    texts = [t for t in (found if isinstance(found, list) else [found]) if is_text(t)]
    broken = any(BROKEN.search(t) for t in texts)
    return tuple(t for t in map(clean_caption, texts) if t) if not broken else (), broken
