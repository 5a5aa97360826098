"""5,011 desktop icons, captioned by their file and folder names, as a folder to train on.

    apt-get download oxygen-icon-theme gnome-icon-theme mate-icon-theme tango-icon-theme \\
        faenza-icon-theme moka-icon-theme paper-icon-theme elementary-xfce-icon-theme \\
        lxde-icon-theme faba-icon-theme
    for package in *.deb; do dpkg-deb -x "$package" unpacked; done
    python examples/icon_dataset.py unpacked icons
    python train.py --data icons

These are packages of Debian 12; other themes of the same layout do as well. The names are what
programs look icons up by, "apps/accessories-calculator.png". One caption fits several pictures, as
themes draw the same thing, and one picture has several captions, as themes link names to it. Which
theme it is from, no caption tells.
"""

import argparse
import hashlib
import json
import re
from collections import defaultdict
from pathlib import Path

from PIL import Image

SIZE = 64  # pixels a side; smaller ones are enlarged, down to LEAST
LEAST = 48


def size_and_context(path: Path) -> tuple[int, str] | None:
    """.../64x64/apps/NAME.png or .../apps/64/NAME.png -> 64, "apps"."""
    size, context = path.parts[-3:-1]
    if not re.fullmatch(r"(\d+)(x\1)?", size):
        size, context = context, size
    found = re.fullmatch(r"(\d+)(x\1)?", size)
    return (int(found[1]), context) if found else None


def caption_of(name: str, context: str) -> str:
    """Words of the file's name, and its folder: "accessories calculator, apps"."""
    return f"{' '.join(re.split(r'[-_. ]+', name.lower()))}, {context.lower()}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("unpacked", type=Path, help="folder with usr/share/icons/THEME/...")
    parser.add_argument("out", type=Path, help="folder to make; must not exist yet")
    parser.add_argument("--only", type=int, help="a random so many, the same ones each time")
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"{args.out} exists already; remove it, or choose another name")

    # The best size of each name: just large enough, or else the largest.
    best: dict[tuple[str, str, str], tuple[tuple, Path]] = {}
    root = args.unpacked / "usr/share/icons"
    for path in sorted(root.rglob("*.png")):
        found = size_and_context(path)
        if found is None or found[0] < LEAST or not path.exists() or "symbolic" in path.stem:
            continue
        size, context = found
        name = path.relative_to(root).parts[0], context, path.stem
        rank = (size < SIZE, abs(size - SIZE))
        if name not in best or rank < best[name][0]:
            best[name] = rank, path

    images, captions = {}, defaultdict(set)
    for (_, context, name), (_, path) in best.items():
        with Image.open(path) as icon:
            icon = icon.convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        image = Image.new("RGBA", icon.size, "white")
        image.alpha_composite(icon)
        digest = hashlib.blake2b(image.tobytes(), digest_size=8).hexdigest()
        images[digest] = image.convert("RGB")
        captions[digest].add(caption_of(name, context))
    if not images:
        parser.error(f"{root} holds no icons of {LEAST} pixels or more; unpack the packages there")

    args.out.mkdir(parents=True)
    chosen = sorted(images)[: args.only]  # by their digests, so at random
    with open(args.out / "metadata.jsonl", "w") as lines:
        for digest in chosen:
            images[digest].save(args.out / f"{digest}.png")
            line = {"file_name": f"{digest}.png", "text": sorted(captions[digest])}
            lines.write(json.dumps(line) + "\n")
    print(f"{len(chosen):,} pictures in {args.out}")


if __name__ == "__main__":
    main()
