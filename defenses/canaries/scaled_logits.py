"""Logits times a million (Carlini and Wagner, 2017, who found defensive distillation to do this).

The prediction is the same, but the softmax rounds to 0 and 1 and the gradient of the cross-entropy to exactly 0, so
that an attack on it fails. The defense is broken by losses that do not depend on the scale, see
`attacks.common.losses`.
"""

from __future__ import annotations

from torch import Tensor

from defenses.canaries.front import Front
from harness.errors import UserError
from harness.quantity import Quantity
from harness.suite.nested import InnerDefense


class ScaledLogits(Front):
    """A classifier with its logits multiplied.

    Args:
        classifier: the defense behind it.
        factor: the multiplier, positive.

    Raises:
        UserError: the factor is not positive.
    """

    def __init__(self, classifier: InnerDefense, factor: Quantity = Quantity("1e6")) -> None:  # noqa: B008
        super().__init__(classifier)
        if factor <= 0:
            raise UserError(f"factor is {factor}", remedy="It must be positive")
        self.factor = float(factor)

    def classify(self, x: Tensor) -> Tensor:
        return self.factor * super().classify(x)
