"""A ripple on every pixel that shatters the gradient (Athalye et al., 2018, Sec. 3; the name: Balduzzi et al., 2017).

    purify(x)  = a + (1 - 2 a) x + a sin(2 pi f x)
    purify'(x) = (1 - 2 a) + 2 pi f a cos(2 pi f x)

Nothing is detached or rounded: the gradient exists, is finite, and agrees with finite differences. Where 2 pi f a is
much larger than 1 its sign is nonetheless a coin toss, which says nothing about a step longer than 1/f. The defense is
broken by BPDA: the image is moved by less than 2 a, so that the identity is a good surrogate.
"""

from __future__ import annotations

import math

from torch import Tensor

from defenses.canaries.front import Front
from harness.errors import UserError
from harness.quantity import Quantity
from harness.suite.nested import InnerDefense


class Shattered(Front):
    """A classifier behind a ripple too fine to see.

    Args:
        classifier: the defense behind it.
        amplitude: a above, in (0, 0.5).
        frequency: f above, positive, in ripples over the range of a pixel; a multiple of the number of grey levels
            would have the same slope on all of them.

    Raises:
        UserError: the amplitude or the frequency is out of range.
    """

    def __init__(
        self,
        classifier: InnerDefense,
        amplitude: Quantity = Quantity("0.02"),  # noqa: B008
        frequency: Quantity = Quantity("1414.2"),  # noqa: B008
    ) -> None:
        super().__init__(classifier)
        if not 0 < amplitude < 0.5:
            raise UserError(f"amplitude is {amplitude}", remedy="It must lie between 0 and 0.5")
        if frequency <= 0:
            raise UserError(f"frequency is {frequency}", remedy="It must be positive")
        self.amplitude, self.frequency = float(amplitude), float(frequency)

    def purify(self, x: Tensor) -> Tensor:
        ripple = (2 * math.pi * self.frequency * x).sin()
        return self.amplitude + (1 - 2 * self.amplitude) * x + self.amplitude * ripple
