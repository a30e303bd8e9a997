"""The diffusion loss in an attack's search: on fewer timesteps, in cheaper numbers. See `harness.search`.

From a grid j = 1..T' with weights w_j, m timesteps are drawn for each image and call by systematic sampling: with
chances p_j that sum to m, P_j = p_1 + .. + p_j, and one uniform number u,

    j is drawn  <=>  one of u, u + 1, .. u + m - 1 lies in [P_{j-1}, P_j)            w_j <- w_j / p_j

so that the sum keeps its mean, and timesteps, which are in order, are drawn from all over the grid: p_j = m / T' is
stratified sampling. Where the contribution of each timestep to the margin is known, p_j is proportional to that plus a
tenth of the average, and at most 1.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.noise import with_common_classes
from defenses.diffusion.timesteps import TimeGrid
from harness.randomness import derive, fold, uniform
from harness.search import Narrowing

_SUBSET = derive("timesteps of a search")
"""Makes the draw of timesteps differ from that of the noise, which comes from the same seeds."""

MEASURED = 2
"""Rivals whose distance from the true class is measured at each timestep."""

DEFENSIVE = 0.1
"""Share of the average in a timestep's size: the measure is one draw, and a chance near 0 makes a large weight."""


def narrowed(loss: DiffusionLoss, narrowing: Narrowing, seeds: Tensor) -> DiffusionLoss:
    """The loss of a classifier for the images of one call. seeds: those of their noise, (N,) int64."""
    loss = cheaper(loss, narrowing)
    if narrowing.every_class and loss.passes == "auto":
        loss = replace(loss, passes="single")
    if narrowing.full:
        return loss
    return replace(loss, grid=subset(loss.grid, seeds, narrowing.search.timesteps, narrowing.importance))


def narrowed_purification(loss: DiffusionLoss, narrowing: Narrowing, seeds: Tensor) -> DiffusionLoss:
    """The loss of one step of likelihood maximisation. seeds: those of its noise, (N,) int64."""
    loss = cheaper(loss, narrowing)
    if loss.grid.timesteps.dim() > 1:  # random timesteps are drawn anew at each step already
        return loss
    return replace(loss, grid=subset(loss.grid, seeds, narrowing.search.purify_timesteps))


def cheaper(loss: DiffusionLoss, narrowing: Narrowing) -> DiffusionLoss:
    """The loss at the precision of a search, on all of its timesteps."""
    search = narrowing.search
    noise = with_common_classes(loss.noise) if search.common_noise else loss.noise
    return replace(loss, noise=noise, precision=search.precision, channels_last=search.channels_last)


def measures(narrowing: Narrowing) -> bool:
    """Whether this call measures the contribution of each timestep to the margin, as every full evaluation does."""
    wanted = narrowing.search.importance and narrowing.search.timesteps < 1
    return wanted and narrowing.full and narrowing.labels is not None


def importance(loss: DiffusionLoss, x: Tensor, logits: Tensor, seeds: Tensor, labels: Tensor) -> Tensor:
    """The root mean square of |loss_y - loss_k| at each timestep, over the `MEASURED` strongest rivals k: (N, T').

    Args:
        loss: the classifier's loss, on all of its timesteps.
        x, logits, seeds, labels: images (N, C, H, W), their logits (N, K), the seeds of their noise, and true classes.
    """
    rivals = logits.scatter(1, labels[:, None], -torch.inf).topk(min(MEASURED, logits.shape[1] - 1), dim=1).indices
    chosen, every = torch.cat([labels[:, None], rivals], 1), torch.arange(logits.shape[1])
    own = replace(loss, noise=with_common_classes(loss.noise))
    if own.at_once(every) is None:
        losses = own.by_timestep(x, chosen, seeds)
    else:
        losses = own.by_timestep(x, every, seeds).gather(1, chosen[:, :, None].expand(-1, -1, len(loss.grid)))
    return (losses[:, 1:] - losses[:, :1]).square().mean(1).sqrt()


def subset(grid: TimeGrid, seeds: Tensor, share: float, importance: Tensor | None = None) -> TimeGrid:
    """Timesteps drawn from a grid for each image: (N, m), or the grid itself where the share is all of it.

    Args:
        seeds: (N,) int64; equal seeds give equal timesteps.
        share: m is this share of T', rounded, and at least 1.
        importance: (N, T'), non-negative, in any unit; None means that all timesteps are equally important.
    """
    count = taken(len(grid), share)
    if count == len(grid):
        return grid
    chances = _chances(seeds.new_ones((len(seeds), len(grid)), dtype=torch.float64), count)
    if importance is not None:
        known = importance.double()
        relative = known / known.mean(1, keepdim=True).clamp(min=torch.finfo(known.dtype).tiny)
        chances = _chances(DEFENSIVE + (1 - DEFENSIVE) * relative, count)
    ends = chances.cumsum(1)
    places = uniform(fold(seeds, _SUBSET), (1,), torch.float64) + torch.arange(count, device=seeds.device)
    chosen = torch.searchsorted(ends, places, right=True).clamp(max=len(grid) - 1)
    drawn = grid.on(seeds.device).at(chosen)
    return replace(drawn, weights=drawn.weights / chances.gather(1, chosen))


def taken(number: int, share: float) -> int:
    """The number of timesteps that a share of `number` timesteps is, at least 1."""
    return max(1, round(share * number))


def _chances(sizes: Tensor, count: int) -> Tensor:
    """Inclusion probabilities: proportional to sizes where that is at most 1, else 1; each row sums to `count`."""
    ordered = sizes.sort(1, descending=True).values
    rest = ordered.flip(1).cumsum(1).flip(1)  # of the c-th and all smaller ones
    left = count - torch.arange(sizes.shape[1], device=sizes.device)
    certain = (left * ordered <= rest).int().argmax(1, keepdim=True)  # how many get 1: the first c at which no more do
    return (sizes * ((count - certain) / rest.gather(1, certain))).clamp(max=1)
