"""Draws that contradict each other: in a few of them the gradient points the other way, and is larger (our own).

    f_d(x)  =  f(x)                            f_d'(x) = f'(x)         in a share 1 - p of the draws
            =  f(x) + r (f^(x) - f(x)) + f^(x) / 100,    f_d'(x) = (1 - r) f'(x)  in the others;   f^: f, held constant

All draws have the classes of f, so that votes are those of the undefended network. The mean gradient over draws is
(1 - p r) f'(x): for p r > 1 it leads away from every adversarial image, and the more draws are averaged (EOT), the more
surely. It is the gradient dilemma of DiffHammer (Wang et al., 2024) in its simplest form, and broken by averaging over
the draws that agree: `select: agreeing`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from defenses.canaries.front import Front
from harness.errors import UserError
from harness.quantity import Quantity
from harness.randomness import derive, fold, uniform
from harness.suite.nested import InnerDefense

REVERSE = derive("reversed draws")
"""Makes its draws differ from all others from the same seeds."""

LOUDER = 0.01
"""By which share logits are larger in reversed draws: what is random should look random."""


class ReversedDraws(Front):
    """A classifier whose gradient is reversed, and larger, in a share of its draws.

    Args:
        classifier: the defense behind it.
        share: p above, in (0, 0.5).
        reversal: r above, more than 1.

    Raises:
        UserError: the share or the reversal is out of range.
    """

    stochastic = True

    def __init__(
        self,
        classifier: InnerDefense,
        share: Quantity = Quantity("0.25"),  # noqa: B008
        reversal: Quantity = Quantity(20),  # noqa: B008
    ) -> None:
        super().__init__(classifier)
        if not 0 < share < 0.5:
            raise UserError(f"share is {share}", remedy="It must lie between 0 and 0.5")
        if reversal <= 1:
            raise UserError(f"reversal is {reversal}", remedy="It must be more than 1")
        self.share, self.reversal = float(share), float(reversal)

    def classify(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x)
        odd = uniform(fold(self.seeds_for(x).to(x.device), REVERSE), (1,), x.dtype) < self.share
        constant = logits.detach()
        return torch.where(odd, logits + self.reversal * (constant - logits) + LOUDER * constant, logits)
