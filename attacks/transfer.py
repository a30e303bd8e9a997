"""Transfer: adversarial images that were made against another defense of the suite, tried on this one.

A defense that misclassifies more of them than of its own attack's images hides its gradients (Athalye et al., 2018).
"""

from __future__ import annotations

from torch import Tensor

from attacks.common.norms import Norm, ball
from harness.attack import Attack, Cost
from harness.quantity import Quantity
from harness.target import Target
from harness.threat import Pixels


class Transfer(Attack):
    """Returns the stored images of another pairing of the same suite, without a query to this defense.

    Args:
        from: the defense that the images were made against.
        attack: the attack that made them, by its name in the suite.
        norm, eps: their budget.
    """

    independent = True

    def __init__(self, from_: str, attack: str, norm: Norm, eps: Quantity) -> None:
        super().__init__()
        self.threat: Pixels = ball(norm, eps)
        self.source = (from_, attack)
        self._pair = f"{from_}/{attack}"

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        if target.source_images is None:
            raise ValueError("transfer attacks only within a suite that has the pairing it takes images from")
        return target.source_images

    def cost(self, num_classes: int) -> Cost:
        return Cost(0, 0)

    def describe(self) -> str:
        return f"transfer from {self._pair}"
