"""In which order a targeted attack aims at the classes other than the true one.

By their logits, or by MALT (arXiv 2407.02240), here with the norm that is dual to the budget's: if the network were
linear around the image x, the boundary to the class t would be at the distance

    d_t  =  (z_y - z_t) / || grad z_y - grad z_t ||_q         1 / p + 1 / q = 1, for a budget in the norm p

so that a class with a small logit and a steep gradient may be nearer than the strongest rival.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attacks.common.losses import margin_targeted, rivals
from harness.target import Target
from harness.threat import Pixels

CANDIDATES = 100
"""So many of the strongest rivals are put in order, a gradient each; the others follow by their logits."""

DUAL = {"Linf": 1.0, "L2": 2.0, "L1": math.inf}
"""q by the norm of the budget."""


def nearest_first(target: Target, x: Tensor, y: Tensor, threat: Pixels) -> Tensor:
    """The classes other than y by d_t of the module's head, the smallest first: (N, K - 1).

    It takes a gradient per candidate. A class without a gradient comes behind all that have one.

    Args:
        x, y: clean images, (N, C, H, W), and their labels, (N,).
    """
    rows = torch.arange(len(x), device=x.device)
    aims = rivals(target(x, rows), y)
    candidates, others = aims[:, :CANDIDATES], aims[:, CANDIDATES:]
    distances = [_distance(target, x, rows, y, aim, DUAL[threat.name]) for aim in candidates.T]
    order = torch.stack(distances, 1).argsort(dim=1, stable=True)
    return torch.cat([candidates.gather(1, order), others], 1)


def gradients_to_order(num_classes: int) -> int:
    """How many gradients of an image `nearest_first` takes."""
    return min(num_classes - 1, CANDIDATES)


def _distance(target: Target, x: Tensor, rows: Tensor, y: Tensor, aim: Tensor, dual: float) -> Tensor:
    """d_t for one class of each image, (N,)."""
    step = target.step(x, rows, lambda logits, some: margin_targeted(logits, y[some], aim[some]))
    steepness = torch.linalg.vector_norm(step.grad.flatten(1), dual, dim=1)
    return torch.where(steepness > 0, -step.loss / steepness, torch.inf)
