"""The Lagrange attack (paper Sec. 4.4, Eq. 10): adversarial images that likelihood maximisation has no reason to move.

    minimise    log p(y | x) + l E[w_t || eps_theta(x_t, t) - eps ||^2]            for l in 0, 1, 10

The second term is the defense's `energy`, of the image before purification and in the defense's own units (of a
diffusion classifier, those of its `reduction`). An image falls if it does for any l.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor

from attacks.apgd import adapt
from attacks.common.budget import Norm, ball
from attacks.common.losses import LossName
from attacks.common.search import Best, Climber, Oracle, Round
from attacks.pgd import ascend
from harness.gradients import Gradient
from harness.quantity import Quantity
from harness.threat import L1

Optimizer = Literal["apgd", "pgd"]


class Lagrange(Climber):
    """Gradient ascent on the loss less l times the defense's energy, for one l after another.

    Needs a defense with `energy(x)`: dc, rdc, jem, sbgc.

    Args:
        norm, eps: the budget, on the [0, 1] scale.
        weights: the l, each tried on the images still standing.
        optimizer: "apgd", or "pgd" with steps of 2.5 eps / steps.
        steps: of each l.
        loss: "ce-plain" is Eq. 10 to the letter. Its gradient vanishes where the softmax saturates, that of the energy
            does not; "ce" and "margin" are safe from this.
        restarts, random_start, early_stop, gradient, eot: as for `PGD`.

    Raises:
        ValueError: no weights or a negative one, or what `PGD` and `APGD` refuse.
    """

    needs = ("energy",)

    def __init__(
        self,
        norm: Norm,
        eps: Quantity,
        weights: list[float] = [0.0, 1.0, 10.0],  # noqa: B006
        optimizer: Optimizer = "apgd",
        steps: int = 100,
        loss: LossName = "ce-plain",
        restarts: int = 1,
        random_start: bool = True,
        gradient: Gradient = "bpda",
        eot: int = 1,
        early_stop: bool = True,
    ) -> None:
        if not weights or min(weights) < 0:
            raise ValueError(f"weights is {weights}; give one or more numbers, none of them negative")
        threat = ball(norm, eps)
        if optimizer == "apgd" and isinstance(threat, L1):
            raise ValueError("optimizer is 'apgd', which has no L1; use pgd")
        super().__init__(
            threat,
            steps=steps,
            loss=loss,
            restarts=restarts,
            random_start=random_start,
            early_stop=early_stop,
            gradient=gradient,
            eot=eot,
        )
        self.weights, self.optimizer = list(weights), optimizer

    def rounds(self) -> Iterator[Round]:
        for place, weight in enumerate(self.weights):
            for restart in range(self.restarts):
                yield Round(place * self.restarts + restart, restart, weight)

    def climb(self, best: Best, x: Tensor, start: Tensor, rows: Tensor, oracle: Oracle, stops: bool) -> None:
        if self.optimizer == "apgd":
            adapt(best, x, start, rows, oracle, self.threat, self.steps, stops)
        else:
            sizes = [2.5 * float(self.threat.eps) / self.steps] * self.steps
            ascend(best, x, start, rows, oracle, self.threat, sizes, 0.0, stops)

    def describe(self) -> str:
        return f"{super().describe()}, {self.optimizer}, l in {', '.join(f'{weight:g}' for weight in self.weights)}"
