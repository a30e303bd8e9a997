"""A ripple on the detail of the image, which shatters the gradient at high frequencies alone (our own).

    purify(x)   =  a + (1 - 2 a) x + a sin(2 pi f h(x)),     h(x) = x - L(x): what is left without low frequencies L(x)
    purify'(x)  =  (1 - 2 a) + 2 pi f a cos(2 pi f h(x)) (I - L)

As in `shattered` the gradient exists and is correct, and its sign is a coin toss on every pixel. But what the ripple
adds to it lies in the range of I - L: the low frequencies of the gradient are those of the classifier behind. It is
broken by PGD along low frequencies (`low_frequency: K`, Guo et al., 2019, Kassis et al., 2025), and by BPDA.
"""

from __future__ import annotations

import math

from torch import Tensor

from defenses.canaries.shattered import Shattered
from harness.errors import UserError
from harness.quantity import Quantity
from harness.suite.nested import InnerDefense
from harness.threats.frequencies import low_pass


class ShatteredDetail(Shattered):
    """A classifier behind a ripple too fine to see on the detail of an image.

    Args:
        classifier: the defense behind it.
        lowest: K, the number of frequencies along each side that are left alone.
        amplitude: a above, in (0, 0.5).
        frequency: f above, positive, in ripples over the range of a pixel.

    Raises:
        UserError: the amplitude, the frequency or the number of frequencies is out of range.
    """

    def __init__(
        self,
        classifier: InnerDefense,
        lowest: int = 5,
        amplitude: Quantity = Quantity("0.02"),  # noqa: B008
        frequency: Quantity = Quantity("1414.2"),  # noqa: B008
    ) -> None:
        super().__init__(classifier, amplitude, frequency)
        if lowest < 1:
            raise UserError(f"lowest is {lowest}", remedy="It must be at least 1")
        self.lowest = lowest

    def purify(self, x: Tensor) -> Tensor:
        ripple = (2 * math.pi * self.frequency * (x - low_pass(x, self.lowest))).sin()
        return self.amplitude + (1 - 2 * self.amplitude) * x + self.amplitude * ripple
