"""What the paper's reference code calls AutoAttack on DC and RDC: Auto-PGD on the DLR loss, 100 steps, five restarts.

The reference code runs the library's APGD, which on a stochastic defense is done with an image at the first draw that
is misclassified: later restarts leave it alone, and the iterate of that draw is what is judged. Here every image of a
stochastic defense meets all restarts, and the iterate of largest margin is judged, by votes that the attack has not
seen. `autoattack` with `version: custom`, `attacks: [apgd-dlr]`, `apgd_restarts: 5` and `eot` above 1 is the library's.
"""

from __future__ import annotations

from attacks.apgd import APGD
from attacks.common.norms import Norm
from harness.gradients import Gradient
from harness.quantity import Quantity

RESTARTS = 5


class APGDDLR100(APGD):
    """APGD, DLR loss, 100 steps, five random starts.

    Args:
        norm, eps: the budget, on the [0, 1] scale.
        gradient, eot: the view of the defense, see `harness.attack.Attack`.
    """

    version = 3

    def __init__(self, norm: Norm, eps: Quantity, gradient: Gradient = "exact", eot: int = 1) -> None:
        super().__init__(norm, eps, steps=100, loss="dlr", restarts=RESTARTS, gradient=gradient, eot=eot)
