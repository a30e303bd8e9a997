"""Auto-PGD through one view of the defense, the base of attacks that are named after it."""

from __future__ import annotations

from typing import ClassVar

from attacks.apgd import APGD
from attacks.common.losses import LossName
from attacks.common.norms import Norm
from harness.gradients import Gradient
from harness.quantity import Quantity


class OneView(APGD):
    """APGD with the gradient that a subclass names. Its other arguments are those of `APGD`."""

    view: ClassVar[Gradient]

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
        super().__init__(norm, eps, steps, loss, restarts, random_start, self.view, eot, early_stop)
