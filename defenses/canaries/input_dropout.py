"""Pixels dropped at random (Guo et al., 2018, without their reconstruction; Dhillon et al., 2018, drop activations).

    purify(x) = x * m,   m_ij ~ Bernoulli(1 - p), the same for all channels

Every draw is differentiable. The defense is broken by the gradient's expectation over draws (EOT; Athalye et al., 2018,
Sec. 5.3.1).
"""

from __future__ import annotations

from torch import Tensor

from defenses.canaries.front import Front
from harness.errors import UserError
from harness.quantity import Quantity
from harness.randomness import derive, fold, uniform
from harness.suite.nested import InnerDefense

DROP = derive("input dropout")
"""Makes its draws differ from all others from the same seeds."""


class InputDropout(Front):
    """A classifier that sees a random part of the pixels in every call. BPDA differentiates the draw.

    Args:
        classifier: the defense behind it.
        rate: p above, in [0, 1).

    Raises:
        UserError: the rate is out of range.
    """

    stochastic = True

    def __init__(self, classifier: InnerDefense, rate: Quantity) -> None:
        super().__init__(classifier)
        if not 0 <= rate < 1:
            raise UserError(f"rate is {rate}", remedy="It must be at least 0 and less than 1")
        self.rate = float(rate)

    def purify(self, x: Tensor) -> Tensor:
        draws = uniform(fold(self.seeds_for(x).to(x.device), DROP), (1, *x.shape[2:]), x.dtype)
        return x * (draws >= self.rate)

    def purify_surrogate(self, x: Tensor) -> Tensor:
        return self.purify(x)
