"""How does a gradient become a step? By Muon for matrices and convolutions, by AdamW for the rest.

Muon (Jordan et al. 2024) replaces the momentum of a matrix by the nearest orthogonal matrix, so
that every direction is learnt at the same rate, not only those with the largest gradients. Weights
of convolutions count as matrices of (out, all else). torch's own Muon, since 2.9, takes
two-dimensional weights only.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from config import Recipe

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of Jordan et al. 2024


def orthogonalise(matrices: Sequence[Tensor]) -> list[Tensor]:
    """The orthogonal matrix nearest to each, roughly: singular values within .7..1.2.

    Five steps of a Newton-Schulz iteration (Jordan et al. 2024), x <- p(x x^T) x. As every step is
    a polynomial in x x^T, they are gathered on that square of the shorter side: a third of the work
    for a convolution; and squares of one size are multiplied as one batch. In float32: many CPUs
    emulate bfloat16, a hundred times slower.
    """
    a, b, c = NEWTON_SCHULZ
    wide = [m if m.shape[0] <= m.shape[1] else m.T for m in matrices]  # (M, N) each
    wide = [x / (x.norm() + 1e-7) for x in wide]
    alike: dict[int, list[int]] = {}  # M -> which they are
    for i, x in enumerate(wide):
        alike.setdefault(len(x), []).append(i)
    for some in alike.values():
        square = torch.stack([wide[i] @ wide[i].T for i in some])  # (K, M, M), of this step's x
        product = None  # of the polynomials so far
        for last in (False, False, False, False, True):
            step = torch.baddbmm(square, square, square, beta=b, alpha=c)
            step.diagonal(dim1=1, dim2=2).add_(a)
            product = step if product is None else step @ product
            if not last:
                square = step @ square @ step
        for i, polynomial in zip(some, product, strict=True):
            wide[i] = polynomial @ wide[i]
    return [x if m.shape[0] <= m.shape[1] else x.T for m, x in zip(matrices, wide, strict=True)]


class Muon(torch.optim.Optimizer):
    """For parameters of two or more dimensions, the first of them the outputs."""

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float, weight_decay: float
    ):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            gradients = [p.grad for p in weights]
            for p in weights:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            momenta = [self.state[p]["momentum"] for p in weights]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov
            # (out, in, H, W) -> (out, H, W, in): no copy where the weights are channels_last.
            updates = [update.movedim(1, -1) for update in updates]
            steps = orthogonalise([update.flatten(1) for update in updates])
            for p, update, step in zip(weights, updates, steps, strict=True):
                gain = max(1, p.shape[0] / p[0].numel()) ** 0.5
                step = step.view(update.shape).movedim(-1, 1)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(step * (group["lr"] * gain))


def make_optimizers(
    model: nn.Module, posterior: nn.Module, recipe: Recipe
) -> list[torch.optim.Optimizer]:
    """AdamW and Muon for all parameters but the prior's and the completer's, then the same for
    each of these, where there is one; before each step, set "lr" of every group to the learning
    rate, or where "steady" is true to the steady one, times "relative_lr"."""
    apart = [(model.prior, 1.0, True), (model.completer, recipe.completer_lr_ratio, False)]
    apart = [one for one in apart if one[0]]
    own = {id(p) for module, *_ in apart for p in module.parameters()}
    modules = nn.ModuleList([model, posterior])
    parameters = [p for p in modules.parameters() if id(p) not in own]
    matrices = [m.weight for m in modules.modules()
                if isinstance(m, (nn.Linear, nn.Conv2d)) and id(m.weight) not in own]  # fmt: skip
    optimizers = _adamw_and_muon(parameters, matrices, 1.0, False, recipe)
    for module, ratio, steady in apart:  # their LSTMs count as matrices, too
        matrices = [weight for m in module.modules() if isinstance(m, (nn.Linear, nn.LSTM))
                    for weight in m.parameters() if weight.ndim == 2]  # fmt: skip
        optimizers += _adamw_and_muon(module.parameters(), matrices, ratio, steady, recipe)
    return optimizers


def _adamw_and_muon(
    parameters: Iterable[Tensor], matrices: list[Tensor], ratio: float, steady: bool, recipe: Recipe
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for the other parameters; ratio: of their rate to the run's."""
    taken = {id(weight) for weight in matrices}
    others = [p for p in parameters if id(p) not in taken]
    betas, decay = recipe.adam_betas, recipe.weight_decay
    adamw = torch.optim.AdamW(others, betas=betas, weight_decay=decay, fused=True)
    muon = Muon(matrices, recipe.lr, recipe.muon_momentum, decay)
    adamw.param_groups[0] |= {"relative_lr": ratio, "steady": steady}
    muon.param_groups[0] |= {"relative_lr": ratio * recipe.muon_lr_ratio, "steady": steady}
    return [adamw, muon]


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict) -> None:
    """As its load_state_dict, but the settings stay those of the recipe. Raises ValueError where
    what was saved belongs to other parameters."""
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    names = {"momentum"} if isinstance(optimizer, Muon) else {"step", "exp_avg", "exp_avg_sq"}
    for parameter, state in optimizer.state.items():
        shapes = {n: v.shape for n, v in state.items() if isinstance(v, Tensor)}
        fits = {n: torch.Size() if n == "step" else parameter.shape for n in names}
        if shapes != fits or not all(v.isfinite().all() for v in state.values()):
            raise ValueError(f"the optimiser's state of a parameter of shape {parameter.shape}")
