"""How does an image file of any kind become RGB pixels?"""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from config import DataConfig

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".apng",
    ".ppm", ".pgm", ".tga", ".avif",
)  # fmt: skip
# Of the formats that Pillow knows, those of images; some others start programs (EPS).
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "AVIF")
RESIZE_FILTERS = {"lanczos": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST}
BOX_MARGIN = 0.75  # half the side of the square around a bounding box, of its longer side
TOO_LARGE = "pictures with too many pixels"

Box = tuple[float, float, float, float]  # x and y of its corner, width, height, in pixels


class NotUsable(ValueError):
    """Why an image that can be read is left out."""


def open_image(source: str | Path | BinaryIO) -> Image.Image:
    """Its size and mode, nothing decoded yet. Raises what Pillow raises for another file."""
    Image.init()
    return Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])


def load_image(
    source: str | Path | BinaryIO,
    image_size: int,
    resize: str = DataConfig.resize,
    fit: str = DataConfig.fit,
    box: Box | None = None,
    max_megapixels: float = DataConfig.max_megapixels,
) -> np.ndarray:
    """Decode any image to RGB: (S, S, 3) uint8.

    EXIF orientation applied, transparency over white, 16 bits and floats scaled to 8, first frame
    of animations, cut to its central square or padded with white. With a bounding box, only a
    square around it is used, as far as the image reaches (Zhang et al. 2017, StackGAN).

    Raises NotUsable, and what Pillow raises for a file that is not an image: OSError, ValueError,
    SyntaxError and others.
    """
    if Image.MAX_IMAGE_PIXELS and max_megapixels * 1e6 > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = int(max_megapixels * 1e6)  # Pillow's own limit, as asked for
    image = open_image(source)
    if image.width * image.height > max_megapixels * 1e6:
        raise NotUsable(TOO_LARGE)
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.array(image, np.float32)
        if image.mode == "F":
            np.nan_to_num(values, copy=False, posinf=np.inf)
        # 16 bits -> 8; floats are 0..1 unless they say otherwise
        scale = 255 / 65535 if image.mode != "F" else 255 if values.max() <= 1 else 1
        values *= scale
        values += 0.5
        image = Image.fromarray(values.clip(0, 255, out=values).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("RGB")
    if box:
        image = crop_around(image, box)
    square, resample = (image_size, image_size), RESIZE_FILTERS[resize]
    if fit == "crop":
        return np.asarray(ImageOps.fit(image, square, resample))
    scale = image_size / max(image.size)
    width, height = (max(1, round(scale * side)) for side in image.size)
    padded = Image.new("RGB", square, "white")
    corner = (round((image_size - width) / 2), round((image_size - height) / 2))
    padded.paste(image.resize((width, height), resample), corner)
    return np.asarray(padded)


def crop_around(image: Image.Image, box: Box) -> Image.Image:
    """The square around a bounding box, with a margin, as far as the image reaches."""
    x, y, width, height = box
    half = int(BOX_MARGIN * max(width, height))
    middle_x, middle_y = int(x + width / 2), int(y + height / 2)
    left, top = max(0, middle_x - half), max(0, middle_y - half)
    right, bottom = min(image.width, middle_x + half), min(image.height, middle_y + half)
    if left >= right or top >= bottom:
        raise NotUsable("pictures whose bounding box lies outside")
    return image.crop((left, top, right, bottom))


def is_image_name(name: str) -> bool:
    return name[-5:].lower().endswith(IMAGE_SUFFIXES)
