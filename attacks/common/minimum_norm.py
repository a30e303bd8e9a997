"""What minimum-norm attacks share: the nearest misclassified image of each, out of all iterates of one run.

The attack is given no radius: it looks for the smallest perturbation, and the budget eps only says up to where it
counts. The distance of each image is in its record, so that one run gives robust accuracy at every radius up to eps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.common.gradient_attack import NO_GRADIENT, Objective, column
from attacks.common.losses import EVERY_CLASS, LossName, clearly_misclassified, loss_of
from harness.attack import Adversarial, Attack, Cost
from harness.defense import Defense
from harness.gradients import Gradient
from harness.target import Step, Target
from harness.threat import TOLERANCE, ThreatModel


class MinimumNormAttack(Attack):
    """Base of attacks on deterministic defenses that look for the nearest misclassified image.

    A subclass writes `run`. The nearest of all iterates is kept, whatever the last one is.

    Args:
        threat: the norm, and the largest distance that counts.
        steps: gradient steps.
        loss: what is maximised, see `attacks.common.losses`.
        gradient, eot: the view of the defense, see `harness.attack.Attack`.

    Raises:
        ValueError: a count is invalid.
    """

    threat: ThreatModel
    nearest: ClassVar[bool] = True

    def __init__(self, threat: ThreatModel, *, steps: int, loss: LossName, gradient: Gradient, eot: int) -> None:
        super().__init__(gradient=gradient, eot=eot)
        if steps < 1:
            raise ValueError(f"steps is {steps}; it must be at least 1")
        self.threat, self.steps, self.loss = threat, steps, loss

    @abstractmethod
    def run(self, found: Nearest, x: Tensor, objective: Objective) -> None:
        """Takes `steps` gradient steps from x (N, C, H, W), and hands every iterate to `found.see`."""

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor | Adversarial:
        """The nearest misclassified image of each; the clean one where there is none within eps."""
        found = Nearest.of(x, y, self.threat)
        real, every = self.gradient == "blind", self.loss in EVERY_CLASS
        self.run(found, x, Objective(target, loss_of(self.loss, y), 0.0, real, every))
        inside = found.distance <= float(self.threat.eps) + TOLERANCE
        dead = (~found.alive & ~inside).tolist()
        remarks = tuple((NO_GRADIENT,) if each else () for each in dead)
        return Adversarial(found.images.where(column(inside, x), x), remarks=remarks if any(dead) else None)

    def cost(self, num_classes: int) -> Cost:
        checks = self.steps if self.gradient == "blind" else 0
        return Cost(self.steps + 1 + checks, self.steps)

    def unsuitable(self, defense: Defense) -> str | None:
        if defense.stochastic:
            return (
                "it keeps the nearest image that one query misclassified, which a lucky draw decides; attack it with "
                "pgd, or write {type: fixed_noise, classifier: ...} around it"
            )
        return super().unsuitable(defense)

    def describe(self) -> str:
        return f"{super().describe()}, {self.steps} steps, {self.loss} loss"


@dataclass
class Nearest:
    """The nearest misclassified iterate of each image so far.

    Attributes:
        x, y: the clean images, (N, C, H, W), and their labels, (N,).
        images: the iterates, (N, C, H, W); distance: of each from x, (N,), inf where there is none.
        alive: whether any gradient was not zero, (N,) bool.
    """

    x: Tensor
    y: Tensor
    threat: ThreatModel
    images: Tensor
    distance: Tensor
    alive: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor, threat: ThreatModel) -> Nearest:
        never = torch.full_like(y, torch.inf, dtype=x.dtype)
        return cls(x, y, threat, x.clone(), never, torch.zeros_like(y, dtype=torch.bool))

    def see(self, images: Tensor, step: Step) -> Tensor:
        """Records iterates, (N, C, H, W), with their gradients. Returns which are misclassified, (N,) bool."""
        self.alive |= step.grad.flatten(1).any(1)
        return self.keep(images, step.logits)

    def keep(self, images: Tensor, logits: Tensor) -> Tensor:
        """Records iterates of which only the logits (N, K) are known. Returns which are misclassified, (N,) bool."""
        wrong, distance = clearly_misclassified(logits, self.y), self.threat.size(self.x, images)
        better = wrong & (distance < self.distance)
        self.images = images.where(column(better, images), self.images)
        self.distance = distance.where(better, self.distance)
        return wrong


def annealed(first: float, last: float, steps: int) -> Iterator[float]:
    """Values that fall from `first` to `last` along half a cosine."""
    for k in range(steps):
        share = (1 + float(torch.cos(torch.tensor(torch.pi * k / max(1, steps - 1))))) / 2
        yield last + (first - last) * share


def unit(gradient: Tensor) -> Tensor:
    """Gradients (N, C, H, W) at an L2 length of 1; zero where they are zero."""
    largest = column(gradient.abs().flatten(1).amax(1), gradient).clamp(min=torch.finfo(gradient.dtype).tiny)
    scaled = gradient / largest  # squares of very small gradients would underflow
    return scaled / column(scaled.flatten(1).norm(dim=1), gradient).clamp(min=1e-12)
