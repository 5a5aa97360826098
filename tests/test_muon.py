"""Does the optimiser orthogonalise, and does it step as torch's own Muon does?"""

import pytest
import torch
from torch import nn

from config import Recipe
from muon import NEWTON_SCHULZ, Muon, make_optimizers, orthogonalise

SETTINGS = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.01}


@pytest.mark.parametrize("shape", [(8, 8), (8, 40), (40, 8)])
def test_steps_gathered_on_the_short_side_are_the_iteration_of_the_paper(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    a, b, c = NEWTON_SCHULZ
    x = matrix.double() / matrix.norm()
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    others = [torch.ones(8, 9), torch.eye(5)]  # of the same shorter side, and of another
    assert torch.allclose(orthogonalise([others[0], matrix, others[1]])[1], x.float(), atol=1e-5)
    values = torch.linalg.svdvals(x)
    assert values.min() > 0.5 and values.max() < 1.3  # nearly orthogonal


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon before 2.9")
@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_steps_are_those_of_torch(shape):
    rng = torch.Generator().manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    optimizers = Muon([ours], **SETTINGS), torch.optim.Muon([theirs], **SETTINGS)
    for _ in range(4):
        ours.grad = theirs.grad = torch.randn(shape, generator=rng)
        for optimizer in optimizers:
            optimizer.step()
    assert (ours - 1).abs().max() > 0.01
    assert torch.allclose(ours, theirs, atol=2e-3)  # bfloat16


def test_a_convolution_steps_like_the_matrix_of_its_patches():
    rng = torch.Generator().manual_seed(0)
    conv = nn.Parameter(torch.randn(6, 4, 3, 3, generator=rng))
    matrix = nn.Parameter(conv.detach().permute(0, 2, 3, 1).reshape(6, 36).clone())
    conv.grad = torch.randn(conv.shape, generator=rng)
    matrix.grad = conv.grad.permute(0, 2, 3, 1).reshape(6, 36)
    for p in (conv, matrix):
        Muon([p], **SETTINGS).step()
    assert torch.equal(conv.permute(0, 2, 3, 1).reshape(6, 36), matrix)


class Model(nn.Module):
    """A decoder, and what has optimizers of its own."""

    def __init__(self, prior: nn.Module | None, completer: nn.Module | None):
        super().__init__()
        self.decoder = nn.Sequential(nn.Embedding(5, 4), nn.LSTM(4, 4), nn.Linear(4, 3))
        self.prior, self.completer = prior, completer


def test_every_parameter_has_one_optimizer_and_only_weights_of_layers_get_muon():
    model, posterior = Model(None, None), nn.Conv2d(3, 2, 3)
    adamw, muon = make_optimizers(model, posterior, Recipe())
    steered = [p for o in (adamw, muon) for g in o.param_groups for p in g["params"]]
    every = [*model.parameters(), *posterior.parameters()]
    assert sorted(map(id, steered)) == sorted(map(id, every))
    assert [p.shape for p in muon.param_groups[0]["params"]] == [(3, 4), (2, 3, 3, 3)]


def test_prior_and_completer_have_optimizers_of_their_own_and_their_lstms_are_matrices():
    recipe = Recipe(completer_lr_ratio=2.0, muon_lr_ratio=10.0)
    completer = nn.Sequential(nn.LSTM(4, 4), nn.Linear(4, 4), nn.Embedding(5, 4))
    optimizers = make_optimizers(Model(nn.Linear(2, 3), completer), nn.Linear(3, 3), recipe)
    groups = [optimizer.param_groups[0] for optimizer in optimizers]
    assert [[tuple(p.shape) for p in group["params"]] for group in groups[2:]] == [
        [(3,)], [(3, 2)], [(16,), (16,), (4,), (5, 4)], [(16, 4), (16, 4), (4, 4)]]  # fmt: skip
    assert [group["relative_lr"] for group in groups] == [1, 10, 1, 10, 2, 20]
    assert [group["steady"] for group in groups] == [False, False, True, True, False, False]
