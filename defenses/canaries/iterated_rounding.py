"""Rounding by many smooth steps, each of which is differentiable (our own; rounding: Xu et al., 2018).

    x_{k+1}  =  x_k - sin(2 pi L x_k) / (2 pi L)          from the image; purify(x) = x_n
    x_{k+1}' =  1 - cos(2 pi L x_k)                       0 on the L + 1 grey levels, which the steps tend to

Nothing is detached, and the gradient of `gradient: exact` is correct. But it is a product of factors that tend to 0,
and after a few steps nothing of it is left: an attack that follows it does not move. This is how the gradients of
purifiers of many steps vanish. It is broken by a surrogate of fewer steps, `surrogate_steps: 1`, whose factor is 1 on
average and never negative (the surrogate process: Lee and Kim, 2023); and by BPDA, like rounding itself.
"""

from __future__ import annotations

import math

from torch import Tensor

from defenses.canaries.front import Front
from harness.defense import Defense
from harness.errors import UserError
from harness.suite.nested import InnerDefense


class IteratedRounding(Front):
    """A classifier of images whose values were moved to the nearest of a few grey levels, step by step.

    Args:
        classifier: the defense behind it.
        steps: n above.
        levels: L above: there are so many steps of grey between 0 and 1.

    Raises:
        UserError: a number is not positive.
    """

    def __init__(self, classifier: InnerDefense, steps: int = 40, levels: int = 7) -> None:
        super().__init__(classifier)
        for name, count in (("steps", steps), ("levels", levels)):
            if count < 1:
                raise UserError(f"{name} is {count}", remedy="It must be at least 1")
        self.steps, self.levels = steps, levels

    def purify(self, x: Tensor) -> Tensor:
        rate = 2 * math.pi * self.levels
        for _ in range(self.steps):
            x = x - (rate * x).sin() / rate
        return x

    def coarser(self, steps: int) -> Defense:
        """The first of the steps."""
        return self.sharing(steps=min(steps, self.steps))
