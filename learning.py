"""What does one step learn? Losses of a batch, gradients, update, averaged weights, and the clock
that says how far a run is: one function, `learn`."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from checkpoint import Networks, Progress
from config import Recipe, TrainConfig, choose_precision
from dataset import Batch, Given
from latents import bin_odds, cross_entropy
from losses import colour_loss, kl_divergence, regression_loss, sliced_wasserstein_loss
from model import composite
from processes import Processes, Replayed

COARSE = 16  # pixels a side, at which images of all sizes are compared


class Clock(NamedTuple):
    """Where a run is, and what follows from it for the next step."""

    lr: float
    steady_lr: float  # of the prior
    halvings: int  # of the sides of training images
    latent: float  # 0..1, how far kl_weight is ramped in; 0: latents are noise
    swd: float  # 0..1, how far swd_weight is
    average: float  # how far the averaged weights move towards the weights
    on_device: Tensor | None = None  # what `rates` holds, where numbers of it are not known

    @property
    def stage(self) -> tuple[int, bool, bool]:
        """What decides which things are computed; all else about a clock is `rates`."""
        return self.halvings, self.latent > 0, self.swd > 0

    @property
    def rates(self) -> tuple[float, ...] | Tensor:
        """lr, steady_lr, latent, swd, average."""
        if self.on_device is not None:
            return self.on_device
        return self.lr, self.steady_lr, self.latent, self.swd, self.average


def clock_at(recipe: TrainConfig, progress: Progress) -> Clock:
    """The clock of the next step."""
    seen, start = progress.images_seen, progress.start
    halvings = sum(seen < fraction * recipe.images for fraction in recipe.grow_at)
    return Clock(
        learning_rate(recipe, seen, start),
        steady_rate(recipe, seen, start),
        # Never more than before: with --init-from, training begins at full size.
        min(progress.halvings, halvings),
        ramp(recipe, seen, start, recipe.latent_ramp) if recipe.has_latents else 0.0,
        ramp(recipe, seen, start, recipe.swd_ramp) if recipe.swd_weight else 0.0,
        movement(recipe, seen),
    )


def learning_rate(recipe: Recipe, images_seen: int, start: int) -> float:
    """Warm-up, then cosine down to final_lr_fraction at the end of the run that began at start."""
    done, length = images_seen - start, recipe.images - start
    longer = max(recipe.warm_up, recipe.warm_up_steps * recipe.batch_size)
    warm_up = min(1.0, (done + recipe.batch_size) / max(1, min(longer, length / 10)))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done / length)))
    last = recipe.final_lr_fraction
    return recipe.lr * warm_up * (last + (1 - last) * cosine)


def steady_rate(recipe: Recipe, images_seen: int, start: int) -> float:
    """The rate of the prior: it falls in the last fifth of the run only, as the latents that it
    follows change all the time before."""
    left = (recipe.images - images_seen) / (recipe.images - start)
    return recipe.lr * min(1.0, 5 * left)


def movement(recipe: Recipe, images_seen: int) -> float:
    """How far averaged weights move in this step, which makes their half-life ema_half_life of the
    images seen."""
    num = min(recipe.batch_size, recipe.images - images_seen)
    half_life = recipe.ema_half_life * (images_seen + num)
    return 1 - 0.5 ** (num / max(half_life, num))


def ramp(recipe: Recipe, images_seen: int, start: int, within: tuple[float, ...]) -> float:
    """0 before, 1 after these fractions of the run; 1 when training goes on after its end."""
    progress, (first, last) = images_seen / recipe.images, within
    if start or progress >= last:
        return 1.0
    return max(0.0, (progress - first) / (last - first)) if last > first else 0.0


def compute_losses(
    batch: Batch, networks: Networks, recipe: TrainConfig, clock: Clock
) -> dict[str, Tensor]:
    """The decoder's terms of a step that count by now, each a scalar, not weighted."""
    model, ema, posterior = networks
    losses = {}
    real = F.avg_pool2d(batch.images, 2**clock.halvings)  # (B, 3, h, w)
    fast = choose_precision(recipe.precision, real.device) == torch.bfloat16
    with torch.autocast(real.device.type, torch.bfloat16, enabled=fast):
        text, latent = model.encode(batch.tokens), batch.noise  # (B, Z)
        if clock.latent > 0:  # not noise, but what the caption leaves open
            mean_drawing = ema.predict_mean(batch.tokens, batch.augmentation)
            mean, log_std = posterior(real, mean_drawing)  # (B, Z) each
            latent = mean + log_std.exp() * batch.noise  # (B, Z)
            prior_logits = model.prior(batch.tokens, latent.detach())  # (B, Z, BINS)
        layers, _ = model.decode(text, latent, batch.augmentation)
    if clock.latent > 0:
        losses["kl_loss"] = kl_divergence(mean, log_std)
        odds = bin_odds(mean.detach(), log_std.detach())  # (B, Z, BINS)
        losses["prior_loss"] = cross_entropy(odds, prior_logits.float())
    # Once sharpness counts, all losses of the drawing see sharper masks; drawings go beyond that.
    drawn = composite(layers, recipe.late_mask_scale if clock.swd > 0 else 1)  # (B, 3, h, w)
    losses["regression_loss"] = regression_loss(drawn, real)
    if clock.swd > 0:
        losses["swd_loss"] = sliced_wasserstein_loss(drawn, real, batch.filters)
        losses["colour_loss"] = colour_loss(drawn, real)
    losses["coarse_error"] = coarse_error(drawn.detach(), real)
    return losses


def coarse_error(drawn: Tensor, real: Tensor) -> Tensor:
    """Root mean squared error of small images. Nothing learns from it: it tells people how a run
    goes, as it falls whatever size images have by now, and whatever losses count."""
    drawn, real = (F.adaptive_avg_pool2d(x, COARSE) for x in (drawn, real))
    return (drawn - real).square().mean().sqrt()


def step_losses(
    given: Given, networks: Networks, config: TrainConfig, clock: Clock
) -> tuple[dict[str, Tensor], Tensor]:
    """All losses of the step at this clock with the weighted "total" of the decoder's, and what is
    minimised: scalars."""
    model = networks.model
    model.halvings = networks.ema.halvings = clock.halvings
    losses, total = {}, torch.zeros((), device=model.to_layers.weight.device)
    if given.batch:
        losses = compute_losses(given.batch, networks, config, clock)
        total = weighted_sum(losses, config, clock)
    if given.pairs:
        losses["completion_loss"] = model.completer.loss(*given.pairs)
    # The prior and the completer have weights and optimizers of their own.
    objective = total + sum(losses.get(name, 0) for name in ("prior_loss", "completion_loss"))
    return losses | {"total": total}, objective


def add_gradients(
    given: Given, networks: Networks, config: TrainConfig, clock: Clock, processes: Processes
) -> dict[str, Tensor]:
    """The losses of a step, whose gradients are added to those of the weights. Each process takes
    its share, in `accumulate` parts."""
    means: dict[str, Tensor] = {}
    for i in range(config.accumulate):
        index = processes.rank * config.accumulate + i
        part, share = given.part(index, processes.count * config.accumulate)
        losses, objective = step_losses(part, networks, config, clock)
        (share * objective).backward()
        for name, loss in losses.items():
            means[name] = means.get(name, 0) + share * loss.detach().float()
    gradients = [p.grad for network in (networks.model, networks.posterior) if network
                 for p in network.parameters() if p.grad is not None]  # fmt: skip
    processes.add_up([*gradients, *means.values()])
    return means


def learn(
    given: Given,
    networks: Networks,
    optimizers: list[torch.optim.Optimizer],
    config: TrainConfig,
    clock: Clock,
    processes: Processes,
) -> dict[str, Tensor]:
    """One step: losses, gradients, update, averaged weights. Returns what tells how it went, as
    scalars: the losses and the norm of the gradients."""
    lr, steady_lr, *_, average = clock.rates
    for optimizer in optimizers:
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = (steady_lr if group["steady"] else lr) * group["relative_lr"]
    losses = add_gradients(given, networks, config, clock, processes)
    norms = [nn.utils.clip_grad_norm_(weights, config.max_grad_norm)
             for weights in clipped_together(optimizers)]  # fmt: skip
    for optimizer in optimizers:
        optimizer.step()
    update_ema(networks.ema, networks.model, average)
    return losses | {"gradient norm": sum(norms)}


def learn_replayed(
    replayed: Replayed,
    given: Given,
    networks: Networks,
    optimizers: list[torch.optim.Optimizer],
    config: TrainConfig,
    clock: Clock,
    processes: Processes,
) -> dict[str, Tensor]:
    """`learn` as a CUDA graph: captions have few lengths, and the rates lie on the device."""
    given = given.padded()
    rates = torch.tensor(clock.rates, device=networks.model.to_layers.weight.device)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]

    def step(inputs: list[Tensor]) -> dict[str, Tensor]:
        capturing = inputs[0].is_cuda and torch.cuda.is_current_stream_capturing()
        for group in groups:  # of AdamW
            group["capturable"] = capturing
        other = clock._replace(on_device=inputs[0])
        return learn(given.like_this(inputs[1:]), networks, optimizers, config, other, processes)

    terms = replayed(step, [rates, *given.tensors()], clock.stage)
    for group in groups:
        group["lr"] = clock.lr  # a plain number, as the checkpoint holds
    return terms


def clipped_together(optimizers: list[torch.optim.Optimizer]) -> list[list[Tensor]]:
    """The weights of each AdamW and the Muon that goes with it."""
    groups = [[p for group in o.param_groups for p in group["params"]] for o in optimizers]
    return [groups[i] + groups[i + 1] for i in range(0, len(groups), 2)]


def weighted_sum(losses: dict[str, Tensor], recipe: Recipe, clock: Clock) -> Tensor:
    """What the decoder and the posterior learn from."""
    _, _, latent, swd, _ = clock.rates
    weights = {
        "kl_loss": latent * recipe.kl_weight,
        "regression_loss": 1.0,
        "swd_loss": swd * recipe.swd_weight,
        "colour_loss": swd * recipe.swd_weight,
    }
    return sum(weight * losses[name] for name, weight in weights.items() if name in losses)


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, movement: float | Tensor) -> None:
    """Move the averaged weights towards the weights, by this fraction of the way."""
    averages, weights = list(ema.parameters()), list(model.parameters())
    way = [movement] * len(weights) if isinstance(movement, Tensor) else movement
    torch._foreach_lerp_(averages, weights, way)
