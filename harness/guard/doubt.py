"""Tells when a robust accuracy may be too high because the gradients were too noisy for the attack.

Let one draw of a stochastic defense's gradient be g + n, with n independent and of mean 0, in many dimensions, and
rho = E||n||² / ||g||². Two draws have the cosine

    c  =  1 / (1 + rho)

which `harness diagnose` measures. An attack whose direction is the mean of several draws with weights w_i has the same
noise as one that averages over

    N  =  (sum w_i)² / sum w_i²  =  m (1 + mu)(1 - mu^T) / ((1 - mu)(1 + mu^T))

draws with equal weights. The second form holds for m draws per step and T steps with momentum mu. The noise of such a
mean is rho / N. (This treats the gradients of several steps as draws at one point, which is right as long as the true
gradient keeps its direction.) The cosine of the attack's direction with the true gradient is then

    a  =  1 / sqrt(1 + rho / N)  =  sqrt(N c / (1 + (N - 1) c))

and the result of the attack is trusted if a >= `DIRECTION`. Some attacks, such as APGD, also compare the loss before
and after each step. They mistake a lucky draw for a better image, and momentum does not help them: only the m draws of
a single step are averaged. Two such means have the cosine 1 / (1 + rho / m), and the result is trusted if this is >=
`JUDGED`. In our measurements with a cosine of 0.98, APGD was as strong as PGD with momentum. With 0.33, on the defense
DC for the digits, APGD left 40% of the images correctly classified, and PGD with momentum 18%.

Both rules give a least cosine of two single draws. An attack states it in `harness.attack.Attack.least_cosine`.
"""

from __future__ import annotations

import math

DIRECTION = 0.8
"""The least cosine between the direction of an attack and the true gradient at which its result is trusted."""

JUDGED = 0.9
"""The least cosine of two gradients of one step at which an attack that compares losses is trusted."""

IN_DOUBT = "in doubt: "
"""The beginning of a remark in a record that marks its number as one in doubt."""


def averaged_draws(momentum: float, steps: int) -> float:
    """Returns N of the module's head for m = 1, the effective number of gradients in the last direction of an attack.

    Args:
        momentum: mu, in [0, 1).
        steps: T, the number of steps.

    Example:
        >>> averaged_draws(0.0, 50), round(averaged_draws(0.9, 1000), 6)
        (1.0, 19.0)
    """
    decay = momentum**steps
    return (1 + momentum) * (1 - decay) / ((1 - momentum) * (1 + decay))


def direction_cosine(cosine: float, draws: float) -> float:
    """Returns a of the module's head, the cosine between the mean of several draws and the true gradient.

    Args:
        cosine: c, the cosine of two single draws, in [0, 1].
        draws: N, the effective number of draws.

    Example:
        >>> round(direction_cosine(0.33, 1), 2), round(direction_cosine(0.33, 19), 2)
        (0.57, 0.95)
    """
    return math.sqrt(draws * cosine / (1 + (draws - 1) * cosine))


def least_cosine_averaging(draws: float) -> float:
    """Returns the least c at which an attack is trusted whose direction averages over `draws` gradients.

    Example:
        >>> round(least_cosine_averaging(1), 2), round(least_cosine_averaging(19), 3)
        (0.64, 0.086)
    """
    square = DIRECTION**2
    return square / (square + draws * (1 - square))


def least_cosine_judging(draws: float) -> float:
    """Returns the least c at which an attack is trusted that compares losses and averages `draws` gradients a step.

    Example:
        >>> round(least_cosine_judging(1), 2), round(least_cosine_judging(20), 2)
        (0.9, 0.31)
    """
    return JUDGED / (JUDGED + draws * (1 - JUDGED))


def cosine_of_means(cosine: float, draws: int) -> float:
    """Returns the cosine of two means of m draws each, 1 / (1 + rho / m), from that of two single draws.

    Example:
        >>> round(cosine_of_means(0.33, 10), 2)
        0.83
    """
    return draws * cosine / (1 + (draws - 1) * cosine)


def cosine_of_single_draws(cosine: float, draws: int) -> float:
    """Returns c of the module's head, in [0, 1], from the cosine of two means of m draws each; 0 where these disagree.

    Args:
        cosine: as it was computed, which rounding may have brought above 1.

    Example:
        >>> round(cosine_of_single_draws(cosine_of_means(0.33, 10), 10), 2), cosine_of_single_draws(-0.1, 10)
        (0.33, 0.0)
        >>> cosine_of_single_draws(1.0000000000000002, 10)
        1.0
    """
    cosine = min(cosine, 1.0)
    return cosine / (cosine + draws * (1 - cosine)) if cosine > 0 else 0.0


def too_noisy(cosine: float, needed: float, images: int) -> str:
    """The reason for a doubt. cosine: c, measured on so many images; needed: the least one that the attack needs."""
    measured = "1 image" if images == 1 else f"{images} images"
    return (
        f"gradients too noisy for this attack: two draws have a cosine of {cosine:.2f} ({measured}), "
        f"and it needs {needed:.2f}"
    )


def in_doubt(remark: str) -> str:
    """Returns the remark with the beginning that marks its number as one in doubt."""
    return remark if remark.startswith(IN_DOUBT) else IN_DOUBT + remark


def plain(remark: str) -> str:
    """Returns a remark as a table shows it, without the mark of doubt.

    Example:
        >>> plain(in_doubt("nothing was attacked")), plain("projected")
        ('nothing was attacked', 'projected')
    """
    return remark.removeprefix(IN_DOUBT)


def of_part(part: str, remark: str) -> str:
    """Turns a remark on a part of an attack into a remark on the whole attack, which names the part.

    Example:
        >>> of_part("second stage", in_doubt("no gradient")) == in_doubt("second stage: no gradient")
        True
    """
    text = f"{part}: {plain(remark)}"
    return in_doubt(text) if remark.startswith(IN_DOUBT) else text
