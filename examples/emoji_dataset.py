"""7,572 captioned emoji in two styles, from public npm packages, as a folder to train on.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 emojibase-data@17.0.0
    python examples/emoji_dataset.py . emoji
    python train.py --data emoji

Without npm, download the three archives from https://registry.npmjs.org, e.g.
https://registry.npmjs.org/emojibase-data/-/emojibase-data-17.0.0.tgz. They are read in place.

Splits. Of every twelfth emoji one style is held out ("validation"): its twin in the other style is
trained on, and so are its words, only the combination is new. Another twelfth, with all its skin
tones, is held out in both styles ("test"): these are new emoji, of words that are often known.
"""

import argparse
import json
import tarfile
import zlib
from pathlib import Path

STYLES = {"noto": "emoji-datasource-google", "twemoji": "emoji-datasource-twitter"}
NAMES = "emojibase-data"
LICENSES = """\
Captioned emoji, 64 x 64 PNG, made by examples/emoji_dataset.py from npm packages.
noto/     Noto Emoji, Copyright Google, Apache License 2.0 (emoji-datasource-google)
twemoji/  Twemoji, Copyright Twitter and contributors, CC-BY 4.0 (emoji-datasource-twitter)
Captions: Unicode CLDR names and keywords, Unicode License (emojibase-data, MIT)
"""


def find_package(folder: Path, name: str) -> Path | None:
    found = folder.glob(f"{name}-[0-9]*.tgz")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def read_names(package: Path) -> dict[str, tuple[str, list[str], str]]:
    """Code points -> name, keywords, and code points of the emoji without skin tones."""
    with tarfile.open(package) as archive:
        emoji = json.load(archive.extractfile("package/en/data.json"))
    return {
        key(variant["hexcode"]): (
            variant["label"].replace(":", ","),
            variant.get("tags") or entry.get("tags") or [],
            key(entry["hexcode"]),
        )
        for entry in emoji
        for variant in [entry, *entry.get("skins", [])]
    }


def key(code_points: str) -> str:
    """1F44D-FE0F -> 1f44d: packages differ in where they write the variation selector fe0f."""
    return "-".join(c for c in code_points.lower().split("-") if c != "fe0f")


def split_of(code_points: str, base: str, style: str) -> str:
    if zlib.crc32(base.encode()) % 12 == 0:
        return "test"
    number = zlib.crc32(code_points.encode()) // 12
    held_out = list(STYLES)[number // 12 % 2]
    return "validation" if number % 12 == 0 and style == held_out else "train"


def random_order(style_and_code_points: tuple[str, str]) -> int:
    """A number to sort by that has nothing to do with what is shown."""
    return zlib.crc32("/".join(style_and_code_points).encode())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", type=Path, help="folder with the three .tgz archives")
    parser.add_argument("out", type=Path, help="folder to make; must not exist yet")
    parser.add_argument("--only", type=int, help="a random so many, the same ones each time")
    args = parser.parse_args()
    packages = {name: find_package(args.packages, name) for name in (*STYLES.values(), NAMES)}
    missing = [name for name, package in packages.items() if package is None]
    if missing:
        parser.error(f"{args.packages} holds no .tgz of {', '.join(missing)}; download with: "
                     f"npm pack {' '.join(missing)}")  # fmt: skip
    if args.out.exists():
        parser.error(f"{args.out} exists already; remove it, or choose another name")
    names = read_names(packages[NAMES])

    pictures: dict[str, dict[str, tuple[str, bytes]]] = {}  # style -> key -> file name and PNG
    for style, name in STYLES.items():
        pictures[style] = {}
        with tarfile.open(packages[name]) as archive:
            for member in archive:
                path = Path(member.name)
                if path.suffix == ".png" and path.parent.name == "64" and key(path.stem) in names:
                    png = archive.extractfile(member).read()
                    pictures[style][key(path.stem)] = f"{style}/{path.name}", png
    both = sorted(set.intersection(*(set(found) for found in pictures.values())))

    chosen = sorted(((style, key) for style in STYLES for key in both), key=random_order)
    chosen = set(chosen[: args.only])
    lines = []
    for style in STYLES:
        (args.out / style).mkdir(parents=True)
        for code_points in both:
            if (style, code_points) not in chosen:
                continue
            file_name, png = pictures[style][code_points]
            (args.out / file_name).write_bytes(png)
            name, keywords, base = names[code_points]
            captions = [f"{name}, {style} style"]
            if keywords:
                captions.append(f"{name} ({', '.join(keywords)}), {style} style")
            split = split_of(code_points, base, style)
            lines.append({"file_name": file_name, "text": captions, "split": split})
    (args.out / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (args.out / "LICENSES.txt").write_text(LICENSES)
    held_out = [sum(line["split"] == split for line in lines) for split in ("validation", "test")]
    print(
        f"{len(lines):,} pictures in {args.out}; held out: {held_out[0]} combinations "
        f"(validation), {held_out[1]} whole emoji (test)"
    )


if __name__ == "__main__":
    main()
