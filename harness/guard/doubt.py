"""Why a robust accuracy may be too high: the gradients were too noisy for the attack that climbed by them.

Let one draw of a stochastic defense's gradient be g + n, with n independent and of mean 0, in many dimensions, and
rho = E||n||² / ||g||². Two draws have the cosine

    c  =  1 / (1 + rho)

which `harness diagnose` measures. An attack whose direction is the mean of several draws with weights w_i counts as one
that averages over

    N  =  (sum w_i)² / sum w_i²  =  m (1 + mu)(1 - mu^T) / ((1 - mu)(1 + mu^T))

draws, the latter for m draws a step and T steps of momentum mu: the noise of such a mean is rho / N. (Gradients of
several steps are draws at one point as far as the true gradient does not turn meanwhile.) The cosine of its direction
with the true gradient is then

    a  =  1 / sqrt(1 + rho / N)  =  sqrt(N c / (1 + (N - 1) c))

and the attack is believed where a >= `DIRECTION`. An attack that judges its steps too, by whether each raised the
loss, mistakes a lucky draw for a better image, and momentum does not help it: what counts is the mean of the m draws of
one step alone. Two such means have the cosine 1 / (1 + rho / m), and it is believed where that is >= `JUDGED`. With a
cosine of 0.98 APGD finds what PGD with momentum finds; with 0.33 on the digits' DC it left 40% of the images standing,
and PGD with momentum 18%.

Either rule asks for a least cosine of two single draws, which an attack states (`harness.attack.Attack.least_cosine`).
"""

from __future__ import annotations

import math

DIRECTION = 0.8
"""Cosine with the true gradient of a direction that a climb may trust."""

JUDGED = 0.9
"""Cosine of two gradients by which steps may be judged."""

IN_DOUBT = "in doubt: "
"""How a remark in a record begins that marks the number which it is about."""


def averaged_draws(momentum: float, steps: int) -> float:
    """N of the module's head for m = 1: how many gradients the last direction of a climb averages over, in effect.

    momentum: mu, from 0 on, below 1.

    Example:
        >>> averaged_draws(0.0, 50), round(averaged_draws(0.9, 1000), 6)
        (1.0, 19.0)
    """
    decay = momentum**steps
    return (1 + momentum) * (1 - decay) / ((1 - momentum) * (1 + decay))


def direction_cosine(cosine: float, draws: float) -> float:
    """a of the module's head: of the mean of so many draws with the true gradient. cosine: c, in [0, 1].

    Example:
        >>> round(direction_cosine(0.33, 1), 2), round(direction_cosine(0.33, 19), 2)
        (0.57, 0.95)
    """
    return math.sqrt(draws * cosine / (1 + (draws - 1) * cosine))


def least_cosine_averaging(draws: float) -> float:
    """The least c at which a direction that averages over so many draws is believed.

    Example:
        >>> round(least_cosine_averaging(1), 2), round(least_cosine_averaging(19), 3)
        (0.64, 0.086)
    """
    square = DIRECTION**2
    return square / (square + draws * (1 - square))


def least_cosine_judging(draws: float) -> float:
    """The least c at which an attack is believed that judges each step by so many draws.

    Example:
        >>> round(least_cosine_judging(1), 2), round(least_cosine_judging(20), 2)
        (0.9, 0.31)
    """
    return JUDGED / (JUDGED + draws * (1 - JUDGED))


def in_doubt(remark: str) -> str:
    """A remark that marks the number which it is about as one in doubt."""
    return remark if remark.startswith(IN_DOUBT) else IN_DOUBT + remark


def plain(remark: str) -> str:
    """A remark as a table shows it.

    Example:
        >>> plain(in_doubt("nothing was attacked")), plain("projected")
        ('nothing was attacked', 'projected')
    """
    return remark.removeprefix(IN_DOUBT)


def of_part(part: str, remark: str) -> str:
    """A remark on a part of an attack, as one on the whole.

    Example:
        >>> of_part("second stage", in_doubt("no gradient")) == in_doubt("second stage: no gradient")
        True
    """
    text = f"{part}: {plain(remark)}"
    return in_doubt(text) if remark.startswith(IN_DOUBT) else text
