"""How are training images varied, and how does none of it leak into what is drawn?

Each changed image comes with the parameters of its change. The decoder is told them in
training and gets zeros when it draws (non-leaking augmentation, Karras et al. 2022), so that it
draws the colours and places of the data.
"""

import torch
from torch import Tensor

from config import AUGMENTATIONS
from model import from_uint8

# The largest change of each kind; parameters are fractions of it, -1..1.
BRIGHTNESS, CONTRAST, SATURATION, WARMTH = 0.1, 0.15, 0.2, 0.06  # images range over -1..1
NOISE = 0.04  # standard deviation of the Gaussian noise
SHIFT = 1 / 32  # of the width: 2 pixels of 64


def augment(
    images: Tensor, fraction: float, flip: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Vary a fraction of the images a little: colours, noise, small shifts, and if asked mirroring.

    Args:
        images: (B, 3, H, W) uint8.
        fraction: probability 0..1 that an image is varied; the others get parameters 0.
        flip: whether half of all images are mirrored.
        generator: on the device of the images.

    Returns:
        (B, 3, H, W) float32 in -1..1, and (B, A) float32, a parameter for each of AUGMENTATIONS.
    """
    x = from_uint8(images)
    num, _, height, width = x.shape

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=x.device)

    parameters = torch.zeros(num, len(AUGMENTATIONS), device=x.device)
    told = dict(zip(AUGMENTATIONS, parameters.unbind(dim=1), strict=True))  # name -> its column
    if fraction > 0:
        varied = draw(num) < fraction
        drawn = [name for name in AUGMENTATIONS if name != "mirror"]
        for name, value in zip(drawn, draw(num, len(drawn)).unbind(dim=1), strict=True):
            told[name].copy_(torch.where(varied, 2 * value - 1, 0))
        told["noise"].abs_()  # its strength has no sign
    if flip:
        told["mirror"].copy_((draw(num) < 0.5).float())
    steps = max(1, round(SHIFT * width))  # whole pixels; the parameters tell what is really done
    for name in ("down", "right"):
        told[name].copy_((told[name] * steps).round() / steps)
    change = {name: column[:, None, None, None] for name, column in told.items()}  # (B, 1, 1, 1)

    # Colours.
    gray = x.mean(dim=1, keepdim=True)
    x = x + (x - gray) * SATURATION * change["saturation"]  # exactly x where nothing changes
    x = x * (1 + CONTRAST * change["contrast"]) + BRIGHTNESS * change["brightness"]
    warm = torch.tensor([1.0, 0.0, -1.0], device=x.device)[:, None, None]
    x = x + WARMTH * change["warmth"] * warm
    x = x + NOISE * change["noise"] * torch.randn(x.shape, generator=generator, device=x.device)

    # Places, the border repeated.
    down, right = ((told[name] * steps).round()[:, None] for name in ("down", "right"))  # (B, 1)
    rows = torch.arange(height, device=x.device)[None] - down  # (B, H)
    columns = torch.arange(width, device=x.device)[None] - right  # (B, W)
    columns = torch.where(told["mirror"][:, None] > 0, width - 1 - columns, columns)
    rows, columns = rows.clamp(0, height - 1).long(), columns.clamp(0, width - 1).long()
    batch = torch.arange(num, device=x.device)[:, None, None]
    x = x.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]  # (B, H, W, 3)
    return x.permute(0, 3, 1, 2).clamp(-1, 1), parameters
