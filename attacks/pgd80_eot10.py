"""The paper's attack on DiffPure (Sec. 4.2): 80 steps of PGD, each gradient averaged over 10 draws."""

from __future__ import annotations

from attacks.common.losses import LossName
from attacks.common.norms import Norm
from attacks.pgd import PGD
from harness.gradients import Gradient
from harness.quantity import Quantity


class PGD80EOT10(PGD):
    """PGD-80 with EOT 10 through the exact gradient.

    Args:
        norm, eps: the budget, on the [0, 1] scale.
        step_size: 1/255 in Linf, as in the paper; in another norm, which it does not give, 2.5 eps / 80.
        loss: what is maximised; the paper does not say.
        gradient: the view of the defense.
    """

    def __init__(
        self,
        norm: Norm,
        eps: Quantity,
        step_size: Quantity | None = None,
        loss: LossName = "ce",
        gradient: Gradient = "exact",
    ) -> None:
        if step_size is None and norm == "Linf":
            step_size = Quantity("1/255")
        super().__init__(norm, eps, steps=80, step_size=step_size, loss=loss, gradient=gradient, eot=10)
