"""Projected gradient descent (Madry et al., 2018), with restarts, momentum and expectation over transformation.

m_{i+1} = mu m_i + g_i / mean |g_i|,        g_i = grad_x E[loss(f(x_i), y)], the mean over `eot` draws
x_{i+1} = project(x_i + step_i * steepest(m_{i+1}))        steepest: sign for Linf, m / ||m||_2 for L2

With low_frequency: K the steps are those of `attacks.common.low_frequency`, in the same ball. With `select` the mean is
over some of the draws, see `attacks.common.selected_draws`. With `surrogate_steps` f is a coarser copy of a purifier,
with so many steps, as in PGD+EOT with the surrogate process (Lee and Kim, 2023); verdicts are the defense's own.

step_i = step_size * 1 | 1 - i / steps | (1 + cos(pi i / steps)) / 2        schedule: constant | linear | cosine
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from attacks.common.gradient_attack import BestIterates, GradientAttack, Objective
from attacks.common.losses import LossName
from attacks.common.low_frequency import unit_low
from attacks.common.momentum import normalised
from attacks.common.norms import Norm, ball
from attacks.common.schedules import SCHEDULES, Schedule
from attacks.common.selected_draws import RULES, Select, selected_step
from harness.config.caps import CAPS
from harness.defense import Defense
from harness.gradients import Gradient
from harness.guard.doubt import averaged_draws, least_cosine_averaging
from harness.process import waits
from harness.quantity import Quantity
from harness.target import Step, Target
from harness.threat import Pixels
from harness.threats.frequencies import low_pass


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
        select: over which of the `eot` draws of a stochastic defense gradients are averaged: "all", those that are
            still "standing", or those "agreeing" on a direction.
        surrogate_steps: steps of the copy of a purifier whose gradient and logits the search has; left out, the
            purifier's own.
        low_frequency: how many frequencies along each side the perturbation has before it is clipped; left out, all.

    Raises:
        ValueError: a budget, a count or a combination of arguments is invalid.

    Source:
        Madry et al., 2018 (arXiv:1706.06083). `select`: Wang et al., 2024 (NeurIPS, DiffHammer). `surrogate_steps`: Lee
        and Kim, 2023 (arXiv:2303.09051). `low_frequency`: Guo et al., 2019 (arXiv:1809.08758); Kassis et al., 2025
        (arXiv:2411.16598).
    """

    version = 3
    independent = True
    method = "pgd"
    added: ClassVar[Mapping[str, Any]] = {"select": "all", "surrogate_steps": None, "low_frequency": None}
    caps: ClassVar[Mapping[str, int]] = {**CAPS, "surrogate_steps": 1}

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
        select: Select = "all",
        surrogate_steps: int | None = None,
        low_frequency: int | None = None,
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
        _check_additions(norm, gradient, eot, select, surrogate_steps, low_frequency)
        self.momentum, self.schedule = momentum, schedule
        self.select: Select = select
        self.surrogate_steps, self.low_frequency = surrogate_steps, low_frequency
        self.step_size = 2.5 * float(eps) / steps if step_size is None else float(step_size)

    def least_cosine(self) -> float:
        averaged = averaged_draws(self.momentum, self.steps) if 0 <= self.momentum < 1 else 1
        return least_cosine_averaging(self.eot * averaged)

    def run_restart(
        self, best: BestIterates, x: Tensor, start: Tensor, rows: Tensor, objective: Objective, stops: bool
    ) -> None:
        sizes = [self.step_size * SCHEDULES[self.schedule](i / self.steps) for i in range(self.steps)]
        if self.low_frequency is not None and self.random_start:
            start = self.threat.project(x[rows], x[rows] + low_pass(start - x[rows], self.low_frequency))
        pgd_steps(best, x, start, rows, objective, self.threat, sizes, self.momentum, stops, lowest=self.low_frequency)

    def looks_elsewhere(self) -> bool:
        return super().looks_elsewhere() or self.surrogate_steps is not None

    def objective_at(self, target: Target, plain: Objective, y: Tensor) -> Objective:
        if self.select == "all" and self.surrogate_steps is None:
            return plain
        view = target
        if self.surrogate_steps is not None:
            view = target.with_defense(target.defense.coarser(self.surrogate_steps))
        one = view.with_view(gradient=self.gradient, eot=1)
        draws = self.eot if target.defense.stochastic else 1
        return _Objective(**vars(plain), view=view, one=one, draws=draws, select=self.select, y=y)

    def unsuitable(self, defense: Defense) -> str | None:
        if self.surrogate_steps is not None and not defense.defines("coarser"):
            return f"surrogate_steps needs coarser(steps), which {type(defense).__name__} does not have; leave it out"
        return super().unsuitable(defense)

    def describe(self) -> str:
        told = [f"draws {self.select}"] if self.select != "all" else []
        told += [f"surrogate of {self.surrogate_steps} steps"] if self.surrogate_steps is not None else []
        told += [f"{self.low_frequency} lowest frequencies"] if self.low_frequency is not None else []
        return ", ".join([super().describe(), *told])


@dataclass(frozen=True, kw_only=True)
class _Objective(Objective):
    """An objective whose gradients are those of a surrogate, or of selected draws.

    Args:
        view: what is differentiated; one: the same, one draw per query.
        draws: of each gradient; y: labels of the target's images, (N,).
    """

    view: Target
    one: Target
    draws: int
    select: Select
    y: Tensor

    def step(self, images: Tensor, rows: Tensor) -> Step:
        if self.select == "all" or self.draws == 1:
            step = self.view.step(images, rows, self.loss, every_class=self.every_class)
        else:
            step = selected_step(
                self.one,
                self.draws,
                images,
                rows,
                self.loss,
                y=self.y,
                select=self.select,
                every_class=self.every_class,
            )
        return replace(step, logits=self.target.defense_logits(images, rows)) if self.real else step

    def logits(self, images: Tensor, rows: Tensor) -> Tensor:
        return self.target.defense_logits(images, rows) if self.real else self.view(images, rows)


def _check_additions(
    norm: str, gradient: Gradient, eot: int, select: str, surrogate_steps: int | None, low_frequency: int | None
) -> None:
    """Raises ValueError for a value or a combination that means nothing."""
    if select not in RULES:
        raise ValueError(f"select is '{select}'; valid rules: {', '.join(RULES)}")
    if select != "all" and eot < 2:
        raise ValueError(f"select is '{select}', which chooses among draws; give an eot of at least 2")
    for name, count in (("surrogate_steps", surrogate_steps), ("low_frequency", low_frequency)):
        if count is not None and count < 1:
            raise ValueError(f"{name} is {count}; it must be at least 1")
    if surrogate_steps is not None and gradient == "blind":
        raise ValueError("surrogate_steps changes nothing under gradient: blind, which leaves the purification out")
    if low_frequency is not None and norm == "L1":
        raise ValueError("low_frequency is for Linf and L2: steps in L1 change few values, which takes all frequencies")


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
    *,
    lowest: int | None = None,
) -> None:
    """Takes gradient steps of the given `sizes` from `start`, and evaluates the last iterate too.

    For the other arguments see `GradientAttack.run_restart`.
    """
    images, velocity, field = start, torch.zeros_like(start), start - x[rows]
    for size in sizes:
        step = objective.step(images, rows)
        best.learn(images, rows, step)
        velocity = momentum * velocity + normalised(step.grad)
        if lowest is None:
            images = threat.project(x[rows], images + size * threat.steepest(velocity, images))
        else:
            field = field + size * unit_low(velocity, lowest, threat)
            images = threat.project(x[rows], x[rows] + field)
        if stops and (left := waits.some_of(~best.misclassified[rows])) is not None:
            images, velocity, field, rows = images[left], velocity[left], field[left], rows[left]
            if not len(rows):
                return
    best.update(images, rows, objective.logits(images, rows))
