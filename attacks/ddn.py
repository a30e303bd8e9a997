"""DDN, decoupled direction and norm (Rony et al., 2019): the direction by gradient steps, the norm by what they reach.

    d_{k+1}  =  eps_{k+1} u / ||u||_2,     u = d_k + a_k g_k / ||g_k||_2         clipped so that x + d is in [0, 1]
    eps_{k+1}  =  (1 - gamma) eps_k   where x + d_k is misclassified, and (1 + gamma) eps_k where it is not

a_k falls from 1 to 0.01 along a cosine. The nearest misclassified iterate is returned. Levels of grey are not rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.common.gradient_attack import Objective, column
from attacks.common.losses import LossName
from attacks.common.minimum_norm import MinimumNormAttack, Nearest, annealed, unit
from attacks.common.norms import ball
from harness.gradients import Gradient
from harness.quantity import Quantity


class DDN(MinimumNormAttack):
    """The smallest L2 perturbation, by decoupled direction and norm; for deterministic defenses.

    Args:
        eps: the largest distance that counts, on the [0, 1] scale; in L2.
        steps: gradient steps.
        first_norm: the norm that the search starts at.
        gamma: by which share the norm changes in each step.
        loss: what is maximised, see `attacks.common.losses`.
        gradient, eot: the view of the defense, see `harness.attack.Attack`.

    Raises:
        ValueError: a count, a norm or gamma is out of range.

    Source:
        Rony, Hafemann, Oliveira, Ben Ayed, Sabourin and Granger, 2019 (arXiv:1811.09600), Algorithm 1.
    """

    independent = True
    method = "ddn"

    def __init__(
        self,
        eps: Quantity,
        steps: int = 100,
        first_norm: Quantity = Quantity(1),  # noqa: B008
        gamma: float = 0.05,
        loss: LossName = "ce",
        gradient: Gradient = "exact",
        eot: int = 1,
    ) -> None:
        super().__init__(ball("L2", eps), steps=steps, loss=loss, gradient=gradient, eot=eot)
        if first_norm <= 0:
            raise ValueError(f"first_norm is {first_norm}; it must be positive")
        if not 0 < gamma < 1:
            raise ValueError(f"gamma is {gamma}; it must lie between 0 and 1")
        self.first_norm, self.gamma = float(first_norm), gamma

    def run(self, found: Nearest, x: Tensor, objective: Objective) -> None:
        rows = torch.arange(len(x), device=x.device)
        images, norm = x, torch.full_like(rows, self.first_norm, dtype=x.dtype)
        for size in annealed(1.0, 0.01, self.steps):
            step = objective.step(images, rows)
            wrong = found.see(images, step)
            norm = torch.where(wrong, (1 - self.gamma) * norm, (1 + self.gamma) * norm)
            moved = images - x + size * unit(step.grad)
            images = (x + column(norm, x) * unit(moved)).clamp(0, 1)
        found.keep(images, objective.logits(images, rows))
