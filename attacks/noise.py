"""Random noise in the budget: what a defense loses to an attacker who knows nothing of it and uses no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.common.gradient_attack import BestIterates
from attacks.common.norms import Norm, ball
from harness.attack import Attack, Cost
from harness.process import waits
from harness.quantity import Quantity
from harness.randomness import derive, fold, normal, uniform
from harness.target import Target
from harness.threat import Pixels

DRAW = derive("random noise")


class Noise(Attack):
    """Draws random images of the ball and keeps the one of largest margin. In Linf the noise is uniform.

    Args:
        norm, eps: the budget, on the [0, 1] scale.
        tries: random images of each clean image. On a deterministic defense a misclassified image gets no more.
        eot: draws that a stochastic defense's margin is averaged over.

    Raises:
        ValueError: a budget or a count is invalid.
    """

    independent = True

    def __init__(self, norm: Norm, eps: Quantity, tries: int = 10, eot: int = 1) -> None:
        super().__init__(eot=eot)
        if tries < 1:
            raise ValueError(f"tries is {tries}; it must be at least 1")
        self.threat: Pixels = ball(norm, eps)
        self.tries = tries

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        best = BestIterates.of(x, y)
        rows = torch.arange(len(x), device=x.device)
        for number in range(self.tries):
            if not target.defense.stochastic:
                rows = waits.rows(~best.misclassified)
            if not len(rows):
                break
            seeds = fold(target.seeds[rows], DRAW, number)
            shape = x.shape[1:]
            images = self.threat.random(x[rows], uniform(fold(seeds, 0), shape), normal(fold(seeds, 1), shape))
            best.update(images, rows, target(images, rows))
        return best.images

    def cost(self, num_classes: int) -> Cost:
        return Cost(self.eot * self.tries, 0)

    def describe(self) -> str:
        return f"{super().describe()}, {self.tries} tries"
