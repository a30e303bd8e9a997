"""Accuracies and how far they can be trusted.

An image's draws c_1 .. c_v (is the prediction the true class?) become one success s in [0, 1], by a rule:

    single     c_1                          one query
    mean       (c_1 + .. + c_v) / v         a query, in expectation
    majority   more draws predict the true class than any other; a tie for the lead counts as wrong
    worst      min(c_1 .. c_v)              right in every one of v queries

The accuracy is the mean of s over n images. Its interval is Wilson's (1927), for p = sum(s) / n:

    (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)

which, unlike p ± z sqrt(p(1-p)/n), does not collapse at 0% and 100%. For fractional s it is too wide rather than too
narrow, since var(s) <= p(1-p).

An image that ended in an error is neither right nor wrong: its s is NaN. The accuracy is the mean over the others, and
the interval leaves the errors open: it reaches from the lower end if all of them were misclassified (s = 0) to the
upper end if all of them were robust (s = 1). Where more than a few images ended in an error (`failed`), there is no
accuracy.

The average over m attacks is the mean of the attacks' accuracies. With a_i = (s_i1 + .. + s_im) / m, the variance of a
is smaller than that of one attack's successes unless the attacks succeed on the same images, by the share

    f = var(a) / p(1-p), held between 1/m and 1

Of n images about k = n min(p, 1-p) determine f; where they are few, f is shrunk towards 1, to (k f + 1) / (k + 1). The
interval is the exact one of Clopper and Pearson (1934) at the effective sample size n / f (Korn and Graubard, 1998).
Wilson's interval covers too little near 0% and 100%, and the more so the more attacks are averaged.

The worst case over attacks is in `harness.reporting.stats.worst`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

Successes = NDArray[np.float64]
"""Successes of images, in [0, 1]; NaN where an image ended in an error."""

FEW_ERRORS = 0.05
"""Largest share of images that may end in an error before there is no accuracy at all.

Up to this share the errors add no more uncertainty than the sampling of 400 images does (5 points at either end).
Beyond it, errors would decide the number: 64 errors on 64 images say nothing about robustness.
"""


@dataclass(frozen=True)
class Estimate:
    """An accuracy with its 95% interval, all in [0, 1], from n images."""

    value: float
    low: float
    high: float
    n: int


def failed(errors: int, images: int) -> bool:
    """Whether too many of the images ended in an error for there to be an accuracy."""
    return errors > FEW_ERRORS * images


def wilson(successes: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    Args:
        successes: their number (or sum, if fractional), in [0, n].
        n: trials; 0 gives (0, 1).
        z: normal quantile, 1.96 for 95%.

    Raises:
        ValueError: the number of successes is negative, or above n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials")
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def exact(successes: float, n: float, tail: float = 0.025) -> tuple[float, float]:
    """Clopper and Pearson's interval of a proportion, continued to fractional counts.

    Args:
        successes, n: as for `wilson`; n > 0.
        tail: the chance that the proportion lies beyond either end, 0.025 for a 95% interval.
    """
    low = float(betaincinv(successes, n - successes + 1, tail)) if successes > 0 else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return low, high


def accuracy(successes: Successes) -> Estimate:
    """Mean of the images' successes, (n,), of which at least one is known."""
    n = len(successes)
    wrong, right = if_wrong(successes), if_right(successes)
    return Estimate(known_mean(successes), wilson(float(wrong.sum()), n)[0], wilson(float(right.sum()), n)[1], n)


def average(successes: Successes) -> Estimate:
    """Mean of the attacks' accuracies on the same images. successes: (attacks, n)."""
    value = float(np.mean([known_mean(each) for each in successes]))
    low, high = _spread(if_wrong(successes))[0], _spread(if_right(successes))[1]
    return Estimate(value, low, high, successes.shape[1])


def known_mean(successes: Successes) -> float:
    """The mean over the images without an error."""
    return float(successes[~np.isnan(successes)].mean())


def both_known(first: Successes, second: Successes) -> tuple[Successes, Successes]:
    """Both successes, without the images that ended in an error on either side."""
    known = ~(np.isnan(first) | np.isnan(second))
    return first[known], second[known]


def if_wrong(successes: Successes) -> Successes:
    """The successes with every error counted as misclassified."""
    return np.nan_to_num(successes, nan=0.0)


def if_right(successes: Successes) -> Successes:
    """The successes with every error counted as robust."""
    return np.nan_to_num(successes, nan=1.0)


def _spread(successes: Successes) -> tuple[float, float]:
    """The interval of an average without errors. successes: (attacks, n)."""
    attacks, n = successes.shape
    mean = successes.mean(axis=0)
    p = float(mean.mean())
    variance, binomial, decisive = float(mean.var(ddof=1)) if n > 1 else 0.0, p * (1 - p), n * min(p, 1 - p)
    share = min(max(variance / binomial, 1 / attacks), 1.0) if binomial > 0 else 1.0
    share = (decisive * share + 1) / (decisive + 1)
    return exact(p * n / share, n / share)
