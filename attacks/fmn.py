"""FMN, the fast minimum-norm attack (Pintor et al., 2021): gradient steps in a ball whose radius is searched for.

    d_{k+1}  =  project(d_k + a_k g_k / ||g_k||_2)         onto the ball of radius eps_k, and x + d onto [0, 1]
    eps_k    =  min(eps_{k-1}, ||best||_p) (1 - gamma_k)    where x + d_k is misclassified; best: the nearest so far
             =  eps_{k-1} (1 + gamma_k)                     where it is not, and was before
             =  (||d_k||_p + |L_k| / ||g_k||_q) (1 + gamma_k)     where none was yet: the distance of the boundary if
                                                                  the margin L were linear; 1/p + 1/q = 1

gamma_k falls from 0.05 to 0.001 and a_k from `step_size` to a hundredth of it, along a cosine. L is the margin. The
paper has no (1 + gamma_k) in the last line, without which a linear boundary is reached, and never crossed.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from attacks.common.gradient_attack import Objective, column
from attacks.common.minimum_norm import MinimumNormAttack, Nearest, annealed, unit
from attacks.common.norms import ball
from attacks.common.targets import DUAL
from harness.gradients import Gradient
from harness.quantity import Quantity

MinimalNorm = Literal["Linf", "L2"]

STEP_SIZE: dict[str, float] = {"Linf": 10.0, "L2": 1.0}
"""The paper's, by norm; the length of a step in L2."""

FASTEST, SLOWEST = 0.05, 0.001
"""gamma at the first and at the last step."""


class FMN(MinimumNormAttack):
    """The smallest perturbation in Linf or L2, by the fast minimum-norm attack; for deterministic defenses.

    Args:
        norm: Linf or L2.
        eps: the largest distance that counts, on the [0, 1] scale.
        steps: gradient steps.
        step_size: length of the first step in L2; the paper's unless given, 10 in Linf and 1 in L2.
        gradient, eot: the view of the defense, see `harness.attack.Attack`.

    Raises:
        ValueError: a norm, a count or a size is out of range.

    Source:
        Pintor, Roli, Brendel and Biggio, 2021 (arXiv:2102.12827), Algorithm 1.
    """

    independent = True
    method = "fmn"

    def __init__(
        self,
        norm: MinimalNorm,
        eps: Quantity,
        steps: int = 100,
        step_size: Quantity | None = None,
        gradient: Gradient = "exact",
        eot: int = 1,
    ) -> None:
        if norm not in get_args(MinimalNorm):
            raise ValueError(f"norm is '{norm}'; valid norms: {', '.join(get_args(MinimalNorm))}")
        super().__init__(ball(norm, eps), steps=steps, loss="margin", gradient=gradient, eot=eot)
        if step_size is not None and step_size <= 0:
            raise ValueError(f"step_size is {step_size}; it must be positive")
        self.step_size = STEP_SIZE[norm] if step_size is None else float(step_size)

    def run(self, found: Nearest, x: Tensor, objective: Objective) -> None:
        rows, dual = torch.arange(len(x), device=x.device), DUAL[self.threat.name]
        images, radius = x, torch.full_like(found.distance, torch.inf)
        sizes = annealed(self.step_size, self.step_size / 100, self.steps)
        for size, gamma in zip(sizes, annealed(FASTEST, SLOWEST, self.steps), strict=True):
            step = objective.step(images, rows)
            wrong, steepness = found.see(images, step), torch.linalg.vector_norm(step.grad.flatten(1), dual, dim=1)
            linear = self.threat.size(x, images) + step.loss.abs() / steepness.clamp(min=1e-12)
            wider = torch.where(found.distance < torch.inf, radius, linear) * (1 + gamma)
            radius = torch.where(wrong, torch.minimum(radius, found.distance) * (1 - gamma), wider)
            moved = images - x + size * unit(step.grad)
            images = (x + self._within(moved, radius)).clamp(0, 1)
        found.keep(images, objective.logits(images, rows))

    def _within(self, moved: Tensor, radius: Tensor) -> Tensor:
        """Perturbations (N, C, H, W) projected onto the balls of radius (N,) around 0."""
        reach = column(radius, moved)
        if self.threat.name == "Linf":
            return torch.minimum(torch.maximum(moved, -reach), reach)
        norm = column(moved.flatten(1).norm(dim=1), moved)
        return moved * (reach / norm.clamp(min=1e-12)).clamp(max=1)
