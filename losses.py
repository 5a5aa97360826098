"""How wrong is a drawn image? Plain functions of images (B, 3, H, W), about -1..1."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

GRADIENT_WEIGHT = 8  # small stars are drawn right in .91 then, in .00 with 1 (decoder_trials.json)


def regression_loss(drawn: Tensor, real: Tensor) -> Tensor:
    """Squared error at full, half and quarter size and of the gradients: content, place, corners.

    Squared inside an image: the median of all images with a caption is an empty background. The
    root of it over images: a caption that leaves much open has a large error that nothing can
    mend, and would drown those that say it all. (Content was learnt from fewer images than with
    plain squared error in one-minute trials on the scenes; not studied further.)
    """
    error = drawn - real
    down = (error[:, :, 1:] - error[:, :, :-1]).square()
    right = (error[:, :, :, 1:] - error[:, :, :, :-1]).square()
    squared = GRADIENT_WEIGHT * (down.flatten(1).mean(1) + right.flatten(1).mean(1))  # (B,)
    for _ in range(3):
        squared = squared + error.square().flatten(1).mean(1)
        error = F.avg_pool2d(error, 2)  # (B, 3, H/2, W/2)
    return (squared + 1e-3).sqrt().mean()  # 1e-3: no cliff where an image is nearly right


def sorted_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the sorted last dimensions; gradients reach a alone.

    A CPU sorts with numpy, several times faster than torch where it has AVX-512.
    """
    with torch.no_grad():
        if a.device.type == "cpu":
            order = torch.from_numpy(np.argsort(a.numpy(), axis=-1))
            b = torch.from_numpy(np.sort(b.numpy(), axis=-1))
        else:
            order, b = a.argsort(dim=-1), b.sort(dim=-1).values
        target = torch.empty_like(a).scatter_(-1, order, b)  # for each of a, the one of its rank
    return (a - target).abs().mean()


def draw_filters(generator: torch.Generator, num_filters: int = 4, num_scales: int = 2) -> Tensor:
    """Random zero-mean unit-norm filters for each scale, (scales, filters, 3, 5, 5)."""
    drawn = [torch.randn(num_filters, 3, 5, 5, generator=generator) for _ in range(num_scales)]
    filters = torch.stack(drawn)
    filters = filters - filters.mean(dim=(2, 3, 4), keepdim=True)
    return filters / filters.flatten(2).norm(dim=2)[:, :, None, None, None]


def sliced_wasserstein_loss(drawn: Tensor, real: Tensor, filters: Tensor) -> Tensor:
    """Distance between the patches of each image and of its real one, at full size, half of it,
    ..., as many as filters (scales, filters, 3, 5, 5) are for: sharpness.

    Responses to random filters in an image are sorted and compared with the sorted ones in the real
    image, so that an edge counts as an edge even a pixel away from its place. Patch distributions
    under random filters: Elnekave and Weiss 2022 (GPDM); here each image is paired with its own
    real one, as a training term. Every pixel counts: at every second one, a shape moved by a pixel
    would cost as much as a blurred one.
    """
    loss = drawn.new_zeros(())
    for some in filters:
        some = some.contiguous(memory_format=torch.channels_last)  # twice as fast
        a, b = (F.conv2d(x, some).flatten(2).contiguous() for x in (drawn, real))
        loss = loss + sorted_difference(a, b)  # of (B, filters, responses)
        drawn, real = F.avg_pool2d(drawn, 2), F.avg_pool2d(real, 2)
    return loss


def colour_loss(drawn: Tensor, real: Tensor) -> Tensor:
    """Absolute error of plain colours, which no zero-mean filter sees: of means over 4x4 blocks,
    for each of the four places in blocks of 2x2 pixels by itself. With one mean of all of them, a
    pattern of dots passed for plain colour, and for the edges that the patches ask for.
    """
    return F.avg_pool2d(F.pixel_unshuffle(drawn - real, 2), 2).abs().mean()


def kl_divergence(mean: Tensor, log_std: Tensor) -> Tensor:
    """Nats that normal distributions (B, Z) tell beyond the standard normal one; mean over B."""
    variance = (2 * log_std).exp()
    return 0.5 * (mean.square() + variance - 1 - 2 * log_std).sum(dim=1).mean()
