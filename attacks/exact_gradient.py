"""Auto-PGD with one view of the defense: the gradient through everything, purification included."""

from __future__ import annotations

from attacks.apgd import APGD
from attacks.common.budget import Norm
from attacks.common.losses import LossName
from harness.quantity import Quantity


class ExactGradient(APGD):
    """APGD with `gradient: exact`. Its other arguments are those of `APGD`."""

    def __init__(
        self,
        norm: Norm,
        eps: Quantity,
        steps: int = 100,
        loss: LossName = "dlr",
        restarts: int = 1,
        random_start: bool = True,
        eot: int = 1,
        early_stop: bool = True,
    ) -> None:
        super().__init__(norm, eps, steps, loss, restarts, random_start, "exact", eot, early_stop)
