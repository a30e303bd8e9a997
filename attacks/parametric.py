"""Gradient ascent on the parameters of a threat model (Kang et al., 2019), as PGD ascends on pixels.

m_{i+1} = mu m_i + g_i / mean |g_i|,        g_i = grad_z E[loss(f(render(x, z_i)), y)], the mean over `eot` draws
z_{i+1} = project(z_i + step_i sign(m_{i+1}))

step_i = step_size * 1 | 1 - i / steps | (1 + cos(pi i / steps)) / 2        schedule: constant | linear | cosine
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from attacks.common.gradient_attack import BestIterates, Objective, column
from attacks.common.losses import EVERY_CLASS, FEWEST_CLASSES, LOSSES, LossName, loss_of
from attacks.common.schedules import SCHEDULES, Schedule
from harness.attack import Adversarial, Attack, Cost
from harness.defense import Defense
from harness.gradients import Gradient
from harness.guard.doubt import averaged_draws, least_cosine_averaging
from harness.process import waits
from harness.process.pull_back import pull_back
from harness.quantity import Quantity
from harness.randomness import derive, fold, uniform
from harness.target import Step, Target
from harness.threats import PARAMETRIC
from harness.threats.parametric import Parametric as Threat

ThreatName = Literal["Elastic", "JPEG", "Fog", "Snow", "Gabor", "Hue", "Saturation", "ReColorAdv"]

_START = derive("parametric", "random start")


class Parametric(Attack):
    """Gradient ascent on what a threat model draws images from: fields, coefficients, colours, weather.

    On a deterministic defense an image leaves the batch as soon as the whole defense misclassifies it. On a stochastic
    one no image leaves, since one lucky draw proves nothing; the best parameters are then those of largest margin of
    the mean logits over the `eot` draws. With `gradient: blind` the logits of the whole defense cost one more forward
    pass per step while images may leave.

    Args:
        threat: the threat model, see `docs/threats.md`.
        eps: its bound, in its own unit.
        steps: gradient steps of one restart.
        step_size: length of the first step, in the unit of eps; 5 * eps / steps unless given, enough to cross the set
            from end to end under the default schedule.
        loss: what is maximised, one of the untargeted losses of `attacks.common.losses`.
        restarts: independent random starts; later ones attack only images that are not yet misclassified, on a
            deterministic defense.
        random_start: start at random parameters instead of at 0, which leave the image as it is.
        momentum: mu above; 0 is plain gradient ascent.
        schedule: of the step sizes, see the module's head.
        gradient, eot: the view of the defense, see `harness.attack.Attack`.

    Raises:
        ValueError: a bound, a count, a name or a combination of arguments is invalid.
    """

    independent = True
    version = 1

    def __init__(
        self,
        threat: ThreatName,
        eps: Quantity,
        steps: int = 40,
        step_size: Quantity | None = None,
        loss: LossName = "margin",
        restarts: int = 1,
        random_start: bool = True,
        momentum: float = 0.75,
        schedule: Schedule = "cosine",
        gradient: Gradient = "exact",
        eot: int = 1,
    ) -> None:
        super().__init__(gradient=gradient, eot=eot)
        eps = Quantity(eps)
        if eps <= 0:
            raise ValueError(f"eps is {eps}; it must be positive")
        if step_size is not None and step_size <= 0:
            raise ValueError(f"step_size is {step_size}; it must be positive")
        if steps < 1 or restarts < 1:
            raise ValueError(f"steps and restarts must be at least 1, not {steps} and {restarts}")
        if restarts > 1 and not random_start:
            raise ValueError(f"{restarts} restarts from one point would all be the same; set random_start: true")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}; it must be at least 0 and below 1")
        for name, choice, valid in (
            ("threat", threat, get_args(ThreatName)),
            ("loss", loss, tuple(LOSSES)),
            ("schedule", schedule, get_args(Schedule)),
        ):
            if choice not in valid:
                raise ValueError(f"{name} is '{choice}'; valid values: {', '.join(valid)}")
        self.threat: Threat = PARAMETRIC[threat](eps)
        self.steps, self.loss, self.restarts, self.random_start = steps, loss, restarts, random_start
        self.momentum, self.schedule = momentum, schedule
        self.step_size = 5 * float(eps) / steps if step_size is None else float(step_size)

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Adversarial:
        """The strongest images, with their parameters."""
        shape = self.threat.shape(tuple(x.shape[1:]))
        best = BestIterates.of(x.new_zeros(len(x), *shape), y)
        stops = not target.defense.stochastic
        real, every = stops and self.gradient == "blind", self.loss in EVERY_CLASS
        objective = Objective(target, loss_of(self.loss, y), energy=0, real=real, every_class=every)
        for restart in range(self.restarts):
            rows = waits.rows(~best.misclassified) if stops else torch.arange(len(x), device=x.device)
            if not len(rows):
                break
            z = x.new_zeros(len(rows), *shape)
            if self.random_start:
                z = self.threat.random(uniform(fold(target.seeds[rows], _START, restart), shape))
            self._climb(best, x, z, rows, objective, stops)
        return Adversarial(self.threat.render(x, best.images), best.images, remarks=best.remarks())

    def least_cosine(self) -> float:
        return least_cosine_averaging(self.eot * averaged_draws(self.momentum, self.steps))

    def cost(self, num_classes: int) -> Cost:
        """The cost of an image that is never misclassified. On a deterministic defense, one that is costs less."""
        gradients = self.eot * self.steps * self.restarts
        checks = self.steps * self.restarts if self.gradient == "blind" else 0
        return Cost(gradients + self.eot * self.restarts + checks, gradients)

    def describe(self) -> str:
        restarts = f", {self.restarts} restarts" if self.restarts > 1 else ""
        return f"{super().describe()}, {self.steps} steps{restarts}, {self.loss} loss"

    def unsuitable(self, defense: Defense) -> str | None:
        known, needed = defense.num_classes, FEWEST_CLASSES.get(self.loss, 2)
        if known is not None and known < needed:
            return f"the {self.loss} loss needs at least {needed} classes, not {known}; use loss: margin"
        return super().unsuitable(defense)

    def unsuitable_images(self, shape: tuple[int, ...]) -> str | None:
        return self.threat.unsuitable(shape)

    def _climb(self, best: BestIterates, x: Tensor, z: Tensor, rows: Tensor, objective: Objective, stops: bool) -> None:
        """Takes the steps of one restart from z (M, *shape) of the images `rows`, and evaluates the last ones too."""
        velocity = torch.zeros_like(z)
        for number in range(self.steps):
            step = self._step(x[rows], z, rows, objective)
            best.learn(z, rows, step)
            scale = step.grad.abs().flatten(1).mean(1).clamp(min=torch.finfo(z.dtype).tiny)
            velocity = self.momentum * velocity + step.grad / column(scale, z)
            length = self.step_size * SCHEDULES[self.schedule](number / self.steps)
            z = self.threat.project(z + length * velocity.sign())
            if stops and (left := waits.some_of(~best.misclassified[rows])) is not None:
                z, velocity, rows = z[left], velocity[left], rows[left]
                if not len(rows):
                    return
        best.update(z, rows, objective.logits(self.threat.render(x[rows], z), rows))

    def _step(self, x: Tensor, z: Tensor, rows: Tensor, objective: Objective) -> Step:
        """Loss and logits at parameters z, (M, *shape), of images x (M, C, H, W), and the gradient by z."""
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            images = self.threat.render(x, z)
            step = objective.step(images.detach(), rows)
            (grad,) = pull_back([images], [z], [step.grad.to(images.dtype)])
        return replace(step, grad=grad)
