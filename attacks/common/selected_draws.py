"""Which draws of a stochastic defense a gradient is averaged over (DiffHammer, Wang et al., 2024).

    g  =  sum_d w_d g_d / sum_d w_d        g_d: the gradient of the loss in draw d;  w_d in {0, 1}, by image

    all        w_d = 1: EOT
    standing   w_d = 1 where the draw is still classified correctly: nothing is to be gained from the others
    agreeing   w_d = 1 where cos(g_d, u) > 0 with the direction u = sum_d w_d g_d / ||g_d||, found by turns from w = 1

The mean over all draws (EOT) fails where draws contradict each other: a few of large gradients, which no image may be
able to mislead, then decide the direction. Wang et al. call it the gradient dilemma, and separate by expectation
maximisation draws of a shared vulnerability from the others. `agreeing` is the hard form of that on the directions of
gradients: the turn from w to u is the M-step, the one from u to w the E-step. Their gradient grafting, which saves
backward passes, is not here: every draw has its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from attacks.common.losses import RowLoss, margin
from harness.target import Step, Target

Select = Literal["all", "standing", "agreeing"]

TURNS = 10
"""Turns of expectation maximisation; of a few draws it stands still after two or three."""


def selected_step(
    view: Target,
    draws: int,
    images: Tensor,
    rows: Tensor,
    loss: RowLoss,
    *,
    y: Tensor,
    select: Select,
    every_class: bool = False,
) -> Step:
    """`Target.step` over some of the draws, as `select` says; loss and logits are the means over all of them.

    Args:
        view: a target that takes one draw per query.
        draws: how many.
        images: (M, C, H, W); rows: the images of the target that they belong to, (M,).
        loss: what is maximised, see `Target.step`.
        y: the labels of the target's images, (N,).
    """
    steps = [view.step(images, rows, loss, every_class=every_class) for _ in range(draws)]
    grads, logits = torch.stack([step.grad for step in steps]), torch.stack([step.logits for step in steps])
    weights = RULES[select](grads, logits, y[rows])
    spread = weights.view(*weights.shape, *[1] * (images.dim() - 1))
    mean = (spread * grads).sum(0) / spread.sum(0).clamp(min=1)
    return Step(torch.stack([step.loss for step in steps]).mean(0), mean, logits.mean(0))


def everything(grads: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    """w_d of the module's head, (D, M) float, from gradients (D, M, C, H, W), logits (D, M, K) and labels (M,)."""
    return torch.ones(grads.shape[:2], dtype=grads.dtype, device=grads.device)


def standing(grads: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    """Draws that are still classified correctly; all of an image, where there is none."""
    right = torch.stack([margin(draw, y) <= 0 for draw in logits])
    return (right | ~right.any(0)).to(grads.dtype)


def agreeing(grads: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    """Draws whose gradients agree with the direction that they share; all of an image, where gradients cancel out.

    Example:
        >>> grads = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-50.0, 0.0]]).view(3, 1, 1, 1, 2)
        >>> agreeing(grads, torch.zeros(3, 1, 2), torch.zeros(1, dtype=torch.int64)).flatten().tolist()
        [1.0, 1.0, 0.0]
    """
    largest = grads.abs().flatten(2).amax(2, keepdim=True).clamp(min=torch.finfo(grads.dtype).tiny)
    units = torch.nn.functional.normalize(grads.flatten(2) / largest, dim=2)
    weights = everything(grads, logits, y)
    for _ in range(TURNS):
        direction = (weights[..., None] * units).sum(0)
        weights = ((units * direction).sum(2) > 0).to(grads.dtype)
    return torch.where(weights.any(0), weights, 1.0)


RULES: dict[Select, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "all": everything,
    "standing": standing,
    "agreeing": agreeing,
}
