"""How does a picture file of any kind become RGB pixels?"""

from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

PICTURE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".apng",
    ".ppm", ".pgm", ".tga", ".avif",
)  # fmt: skip
# Of the formats that Pillow knows, those of pictures; some others start programs (EPS).
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "AVIF")
RESIZE_FILTERS = {"lanczos": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST}
FITS = ("crop", "pad")
MAX_MEGAPIXELS = 89.0  # where Pillow begins to warn of pictures made to fill the memory
BOX_MARGIN = 0.75  # half the side of the square around a bounding box, of its longer side

Box = tuple[float, float, float, float]  # x and y of its corner, width, height, in pixels


class TooLarge(ValueError):
    """A picture of more pixels than allowed."""


class BoxOutside(ValueError):
    """A bounding box that lies outside of its picture."""


def open_picture(source: str | Path | BinaryIO) -> Image.Image:
    """Its size and mode, nothing decoded yet. Raises what Pillow raises for another file."""
    return Image.open(source, formats=readable_formats())


@lru_cache(maxsize=1)
def readable_formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def load_picture(
    source: str | Path | BinaryIO,
    image_size: int,
    resize: str = "lanczos",
    fit: str = "crop",
    box: Box | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> np.ndarray:
    """Decode any picture to RGB: (S, S, 3) uint8.

    EXIF orientation applied, transparency over white, 16 bits and floats scaled to 8, first frame
    of animations, cut to its central square or padded with white. With a bounding box, only a
    square around it is used, as far as the picture reaches (Zhang et al. 2017, StackGAN).

    Raises TooLarge, BoxOutside, and what Pillow raises for a file that is not a picture: OSError,
    ValueError, SyntaxError and others.
    """
    if Image.MAX_IMAGE_PIXELS and max_megapixels * 1e6 > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = int(max_megapixels * 1e6)  # Pillow's own limit, as asked for
    picture = open_picture(source)
    if picture.width * picture.height > max_megapixels * 1e6:
        raise TooLarge(f"{picture.width} x {picture.height} pixels")
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        values = np.array(picture, np.float32)
        if picture.mode == "F":
            np.nan_to_num(values, copy=False, posinf=np.inf)
        # 16 bits -> 8; floats are 0..1 unless they say otherwise
        scale = 255 / 65535 if picture.mode != "F" else 255 if values.max() <= 1 else 1
        values *= scale
        values += 0.5
        picture = Image.fromarray(values.clip(0, 255, out=values).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    picture = picture.convert("RGB")
    if box:
        picture = crop_around(picture, box)
    square, resample = (image_size, image_size), RESIZE_FILTERS[resize]
    if fit == "crop":
        return np.asarray(ImageOps.fit(picture, square, resample))
    scale = image_size / max(picture.size)
    width, height = (max(1, round(scale * side)) for side in picture.size)
    padded = Image.new("RGB", square, "white")
    corner = (round((image_size - width) / 2), round((image_size - height) / 2))
    padded.paste(picture.resize((width, height), resample), corner)
    return np.asarray(padded)


def crop_around(picture: Image.Image, box: Box) -> Image.Image:
    """The square around a bounding box, with a margin, as far as the picture reaches."""
    x, y, width, height = box
    half = int(BOX_MARGIN * max(width, height))
    middle_x, middle_y = int(x + width / 2), int(y + height / 2)
    left, top = max(0, middle_x - half), max(0, middle_y - half)
    right, bottom = min(picture.width, middle_x + half), min(picture.height, middle_y + half)
    if left >= right or top >= bottom:
        raise BoxOutside(f"the bounding box {box} lies outside of the picture")
    return picture.crop((left, top, right, bottom))


def is_picture_name(name: str) -> bool:
    return name[-5:].lower().endswith(PICTURE_SUFFIXES)
