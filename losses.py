"""How wrong is a drawn picture? Plain functions of pictures (B, 3, H, W), about -1..1."""

import torch
import torch.nn.functional as F
from torch import Tensor


def regression_loss(drawn: Tensor, real: Tensor) -> Tensor:
    """Squared error at full, half and quarter size and of the gradients: content and place.

    Squared, not absolute: the median of all pictures with a caption is an empty background.
    """
    error = drawn - real  # every term is linear in it before squaring
    loss = (error[:, :, 1:] - error[:, :, :-1]).square().mean()
    loss = loss + (error[:, :, :, 1:] - error[:, :, :, :-1]).square().mean()
    for _ in range(3):
        loss = loss + error.square().mean()
        error = F.avg_pool2d(error, 2)  # (B, 3, H/2, W/2)
    return loss


def sliced_wasserstein_loss(
    drawn: Tensor, real: Tensor, generator: torch.Generator, num_filters: int = 12
) -> Tensor:
    """Distance between the patches of each picture and of its real one, at two scales: sharpness.

    Random zero-mean unit-norm 5x5 filters, fresh at each call; the responses of a picture are
    sorted and compared with the sorted ones of the real picture, so that an edge counts as an edge
    even a pixel away from its place. Patch distributions under random filters: Elnekave and Weiss
    2022 (GPDM); here each picture is paired with its own real one, as a training term.

    generator: of the CPU, decides the filters.
    """
    loss = drawn.new_zeros(())
    for _ in range(2):
        filters = torch.randn(num_filters, 3, 5, 5, generator=generator)
        filters = filters - filters.mean(dim=(1, 2, 3), keepdim=True)
        filters = (filters / filters.flatten(1).norm(dim=1)[:, None, None, None]).to(drawn.device)
        responses = [F.conv2d(x, filters).flatten(2) for x in (drawn, real)]  # (B, F, H'W')
        a, b = (x.float().sort(dim=2).values for x in responses)
        loss = loss + (a - b).abs().mean()
        drawn, real = F.avg_pool2d(drawn, 2), F.avg_pool2d(real, 2)
    return loss
