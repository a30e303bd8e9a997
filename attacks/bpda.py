"""Auto-PGD with BPDA: purification replaced by its surrogate on the backward pass (Athalye et al., 2018)."""

from __future__ import annotations

from attacks.apgd import APGD
from attacks.common.budget import Norm
from attacks.common.losses import LossName
from harness.quantity import Quantity


class BPDA(APGD):
    """APGD with `gradient: bpda`. Its other arguments are those of `APGD`."""

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
        super().__init__(norm, eps, steps, loss, restarts, random_start, "bpda", eot, early_stop)
