"""Bit-depth reduction, or feature squeezing (Xu et al., 2018; Guo et al., 2018).

    purify(x) = round((2^b - 1) x) / (2^b - 1)

Its derivative is zero almost everywhere, and so is the gradient of `gradient: exact`: an attack that follows it does
not move. It is broken by BPDA with the identity (Athalye et al., 2018, Sec. 5.2.2; He et al., 2017, for the adaptive
attack).
"""

from __future__ import annotations

from torch import Tensor

from defenses.canaries.front import Front
from harness.errors import UserError
from harness.suite.nested import InnerDefense


class BitDepth(Front):
    """A classifier of images that are reduced to 2^bits grey levels per channel.

    Args:
        classifier: the defense behind it.
        bits: b above, 1 to 8; 3 in Guo et al.

    Raises:
        UserError: the number of bits is out of range.
    """

    def __init__(self, classifier: InnerDefense, bits: int = 3) -> None:
        super().__init__(classifier)
        if not 1 <= bits <= 8:
            raise UserError(f"bits is {bits}", remedy="It must lie between 1 and 8")
        self.bits = bits

    def purify(self, x: Tensor) -> Tensor:
        return quantised(x, 2**self.bits - 1)


def quantised(x: Tensor, steps: int) -> Tensor:
    """x in [0, 1], of any shape, rounded to the nearest multiple of 1/steps; the derivative is zero."""
    return (x * steps).round() / steps
