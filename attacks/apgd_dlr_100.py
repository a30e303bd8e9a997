"""What the paper's reference code calls AutoAttack on DC and RDC: 100 steps of Auto-PGD on the DLR loss, no more."""

from __future__ import annotations

from attacks.apgd import APGD
from attacks.common.budget import Norm
from harness.gradients import Gradient
from harness.quantity import Quantity


class APGDDLR100(APGD):
    """APGD, DLR loss, 100 steps, one random start.

    Args:
        norm, eps: the budget, on the [0, 1] scale.
        gradient, eot: the view of the defense, see `harness.attack.Attack`.
    """

    def __init__(self, norm: Norm, eps: Quantity, gradient: Gradient = "exact", eot: int = 1) -> None:
        super().__init__(norm, eps, steps=100, loss="dlr", gradient=gradient, eot=eot)
