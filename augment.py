"""How are training pictures varied, and how does none of it leak into what is drawn?

Each changed picture comes with the parameters of its change. The generator is told them in
training and gets zeros when it draws (non-leaking augmentation, Karras et al. 2022), so that it
draws the colours and places of the data.
"""

import torch
from torch import Tensor

from model import AUGMENTATION_DIM, from_uint8

# The largest change of each kind; parameters are given to the generator as shares of it, -1..1.
BRIGHTNESS, CONTRAST, SATURATION, WARMTH = 0.1, 0.15, 0.2, 0.06  # pictures range over -1..1
NOISE = 0.04  # standard deviation of the Gaussian noise
SHIFT = 1 / 32  # of the width: 2 pixels of 64


def augment(
    pictures: Tensor, share: float, flip: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Vary a share of the pictures a little: colours, noise, small shifts, and if asked mirroring.

    Args:
        pictures: (B, 3, H, W) uint8.
        share: probability 0..1 that a picture is varied; the others get parameters 0.
        flip: whether half of all pictures are mirrored.
        generator: on the device of the pictures.

    Returns:
        (B, 3, H, W) float32 in -1..1, and (B, A) float32, the parameters.
    """
    x = from_uint8(pictures)
    num, _, height, width = x.shape

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=x.device)

    parameters = torch.zeros(num, AUGMENTATION_DIM, device=x.device)
    if share > 0:
        varied = draw(num, 1) < share
        parameters[:, :7] = torch.where(varied, 2 * draw(num, 7) - 1, 0)
        parameters[:, 4].abs_()  # the strength of noise has no sign
    if flip:
        parameters[:, 7] = (draw(num) < 0.5).float()
    brightness, contrast, saturation, warmth, noise, down, right, mirror = (
        parameters[:, :, None, None, None].unbind(dim=1)  # each (B, 1, 1, 1)
    )  # fmt: skip

    # Colours.
    gray = x.mean(dim=1, keepdim=True)
    x = x + (x - gray) * SATURATION * saturation  # exactly x where nothing changes
    x = x * (1 + CONTRAST * contrast) + BRIGHTNESS * brightness
    x = x + WARMTH * warmth * torch.tensor([1.0, 0.0, -1.0], device=x.device)[:, None, None]
    x = x + NOISE * noise * torch.randn(x.shape, generator=generator, device=x.device)

    # Places: whole pixels, the border repeated; the parameters tell what was really done.
    steps = max(1, round(SHIFT * width))
    down, right = (down * steps).round(), (right * steps).round()
    parameters[:, 5], parameters[:, 6] = down.flatten() / steps, right.flatten() / steps
    rows = torch.arange(height, device=x.device)[None] - down.flatten()[:, None]  # (B, H)
    columns = torch.arange(width, device=x.device)[None] - right.flatten()[:, None]
    columns = torch.where(mirror.flatten()[:, None] > 0, width - 1 - columns, columns)
    rows, columns = rows.clamp(0, height - 1).long(), columns.clamp(0, width - 1).long()
    batch = torch.arange(num, device=x.device)[:, None, None]
    x = x.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]  # (B, H, W, 3)
    return x.permute(0, 3, 1, 2).clamp(-1, 1), parameters
