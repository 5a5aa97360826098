"""Which captioned images does a tar hold, as webdataset and img2dataset write it?"""

import re
import tarfile
from collections import defaultdict
from pathlib import Path

from formats.images import IMAGE_SUFFIXES
from formats.places import OUTSIDE, Skipped, is_litter, join
from formats.texts import MAX_TEXT, NOT_UTF8, captions_in_json, cleaned

IMAGES = ("jpg", "png", "webp", *sorted(s[1:] for s in IMAGE_SUFFIXES), "img", "image",
            "input.jpg", "input.png")  # fmt: skip
TEXTS = ("txt", "cap", "caption", "text")
NO_CAPTION = "pictures without a caption"
OTHER = "files in tars that are neither picture nor caption"
SPECIAL = "links and other special files in tars"
DAMAGED = "tars that are damaged"
NO_IMAGE = "captions without a picture"
NOT_TOGETHER = ("samples whose files do not lie together in the tar; unpack it, or pack it anew by "
                "tar --sort=name")  # fmt: skip
METADATA = re.compile("__.*__")  # names that are no samples
SUSPICIOUS = re.compile(r"^/|\.\.|[\\:]")  # parts of names that may lead out of the folder
Sample = tuple[str, tuple[str, ...], int, int]  # name of the image, captions, offset, size


def read_shard(path: Path) -> tuple[list[Sample], Skipped]:
    """The samples of a tar, and what was left out of it."""
    samples: list[Sample] = []
    skipped: Skipped = defaultdict(list)
    parts: dict[str, tuple] = {}  # of the sample that is being read: field -> what it holds
    its_key = None

    def finish() -> None:
        images = [parts[part] for part in IMAGES if part in parts]
        captions = next((parts[part] for part in ("json", *TEXTS) if parts.get(part)), ())
        if images and captions:
            samples.append((images[0][0], captions, *images[0][1:]))
        elif images:
            broken = "broken" in parts
            skipped[NOT_UTF8 if broken else NO_CAPTION].append(images[0][0])
        elif parts:
            skipped[NO_IMAGE].append(str(its_key))
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
                key, part = key_of(name)
                if SUSPICIOUS.search(name) and join("", name) is None:
                    skipped[OUTSIDE].append(name)
                    continue
                if not member.isreg() and not member.isdir() or member.issparse():
                    skipped[SPECIAL].append(name)
                    continue
                litter = is_litter(name.rpartition("/")[2]) or METADATA.fullmatch(name)
                if not part or member.isdir() or litter:
                    continue
                if key != its_key:
                    finish()
                    its_key = key
                if part in parts:
                    skipped["files that are twice in one sample"].append(name)
                elif part in IMAGES:
                    parts[part] = (name, member.offset_data, member.size)
                elif part not in ("json", *TEXTS):
                    skipped[f"{OTHER} ({part[:20]})"].append(name)
                elif member.size > MAX_TEXT:
                    skipped["texts that are too large"].append(name)
                else:
                    archive.fileobj.seek(member.offset_data)  # half the time of extractfile
                    data = archive.fileobj.read(member.size)
                    text = data.decode("utf-8-sig", errors="surrogateescape")
                    parts[part] = cleaned(captions_in_json(text) if part == "json" else [text])
                    if isinstance(parts[part], int):  # no UTF-8
                        parts[part] = parts["broken"] = ()
            # A damaged header ends the iteration, too: only the end of a tar is made of zeros.
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it ends in the middle, or a header is broken")
    except Exception as error:  # TarError, OSError, OverflowError, RecursionError, ...
        skipped[DAMAGED].append(f"after {len(samples)} samples ({error})")
    finish()
    images = {key_of(name)[0]: name for name in skipped.get(NO_CAPTION, ())}
    if apart := images.keys() & skipped.get(NO_IMAGE, ()):
        skipped[NOT_TOGETHER] = sorted(images[key] for key in apart)
        skipped[NO_CAPTION] = [name for key, name in images.items() if key not in apart]
        skipped[NO_IMAGE] = [key for key in skipped[NO_IMAGE] if key not in apart]
    return samples, skipped


def key_of(name: str) -> tuple[str, str]:
    """The sample that a file belongs to, and which part of it that is: up to the first dot of its
    last part, and from there."""
    folder, slash, base = name.rpartition("/")
    stem, _, part = base.partition(".")
    return folder + slash + stem, part.lower()
