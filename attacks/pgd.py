"""Projected gradient descent (Madry et al., 2018), with restarts, momentum and expectation over transformation.

m_{i+1} = mu m_i + g_i / mean |g_i|,        g_i = grad_x E[loss(f(x_i), y)], the mean over `eot` draws
x_{i+1} = project(x_i + step_i * steepest(m_{i+1}))        steepest: sign for Linf, m / ||m||_2 for L2

step_i = step_size * 1 | 1 - i / steps | (1 + cos(pi i / steps)) / 2        schedule: constant | linear | cosine
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from attacks.common.gradient_attack import BestIterates, GradientAttack, Objective, column
from attacks.common.losses import LossName
from attacks.common.norms import Norm, ball
from attacks.common.schedules import SCHEDULES, Schedule
from harness.gradients import Gradient
from harness.guard.doubt import averaged_draws, least_cosine_averaging
from harness.quantity import Quantity
from harness.threat import Pixels


class PGD(GradientAttack):
    """Projected gradient descent, with restarts, momentum, EOT and the best iterate kept.

    Args:
        norm, eps: the budget, on the [0, 1] scale.
        steps: gradient steps of one restart.
        step_size: length of a step in `norm`; 2.5 * eps / steps unless given, enough to cross the ball from anywhere.
        loss: what is maximised, see `attacks.common.losses`. `ce` suits logits of any scale, `ce-plain` does not.
            A targeted loss aims at the strongest rival on the clean image, and in each further restart at the next;
            one that ends in `-malt` aims at the nearest rival, see `attacks.common.targets`.
        restarts: independent random starts; later ones attack only images that are not yet misclassified, where
            `early_stop` applies.
        random_start: start at a random point of the ball instead of at the image.
        momentum: mu above; 0 is plain PGD.
        schedule: of the step sizes, see the module's head.
        gradient, eot: the view of the defense, see `harness.attack.Attack`.
        early_stop: let images leave the batch once they are misclassified (deterministic defenses only).

    Raises:
        ValueError: a budget, a count or a combination of arguments is invalid.
    """

    version = 3
    independent = True
    method = "pgd"

    def __init__(
        self,
        norm: Norm,
        eps: Quantity,
        steps: int = 40,
        step_size: Quantity | None = None,
        loss: LossName = "ce",
        restarts: int = 1,
        random_start: bool = True,
        momentum: float = 0.0,
        schedule: Schedule = "constant",
        gradient: Gradient = "exact",
        eot: int = 1,
        early_stop: bool = True,
    ) -> None:
        super().__init__(
            ball(norm, eps),
            steps=steps,
            loss=loss,
            restarts=restarts,
            random_start=random_start,
            early_stop=early_stop,
            gradient=gradient,
            eot=eot,
        )
        if step_size is not None and step_size <= 0:
            raise ValueError(f"step_size is {step_size}; it must be positive")
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule is '{schedule}'; valid schedules: {', '.join(get_args(Schedule))}")
        self.momentum, self.schedule = momentum, schedule
        self.step_size = 2.5 * float(eps) / steps if step_size is None else float(step_size)

    def least_cosine(self) -> float:
        averaged = averaged_draws(self.momentum, self.steps) if 0 <= self.momentum < 1 else 1
        return least_cosine_averaging(self.eot * averaged)

    def run_restart(
        self, best: BestIterates, x: Tensor, start: Tensor, rows: Tensor, objective: Objective, stops: bool
    ) -> None:
        sizes = [self.step_size * SCHEDULES[self.schedule](i / self.steps) for i in range(self.steps)]
        pgd_steps(best, x, start, rows, objective, self.threat, sizes, self.momentum, stops)


def pgd_steps(
    best: BestIterates,
    x: Tensor,
    start: Tensor,
    rows: Tensor,
    objective: Objective,
    threat: Pixels,
    sizes: list[float],
    momentum: float,
    stops: bool,
) -> None:
    """Takes gradient steps of the given `sizes` from `start`, and evaluates the last iterate too.

    For the other arguments see `GradientAttack.run_restart`.
    """
    images, velocity = start, torch.zeros_like(start)
    for size in sizes:
        step = objective.step(images, rows)
        best.learn(images, rows, step)
        velocity = momentum * velocity + _normalised(step.grad)
        images = threat.project(x[rows], images + size * threat.steepest(velocity, images))
        if stops:
            left = ~best.misclassified[rows]
            images, velocity, rows = images[left], velocity[left], rows[left]
            if not len(rows):
                return
    best.update(images, rows, objective.logits(images, rows))


def _normalised(grad: Tensor) -> Tensor:
    """The gradient with a mean magnitude of 1 per image, so that momentum does not depend on the loss's scale."""
    size = grad.abs().flatten(1).mean(1).clamp(min=torch.finfo(grad.dtype).tiny)
    return grad / column(size, grad)
