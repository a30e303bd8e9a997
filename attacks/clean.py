"""No attack at all, for suites that measure clean accuracy."""

from __future__ import annotations

from torch import Tensor

from harness.attack import Attack, Cost
from harness.quantity import Quantity
from harness.target import Target
from harness.threat import Linf


class Clean(Attack):
    """Returns the clean images unchanged."""

    independent = True

    def __init__(self) -> None:
        super().__init__()
        self.threat = Linf(Quantity(0))

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        return x

    def cost(self, num_classes: int) -> Cost:
        return Cost(0, 0)
