"""Accuracies and how far they can be trusted.

An image's draws c_1 .. c_v (is the prediction the true class?) become one success s in [0, 1], by a rule:

    single     c_1                          one query
    mean       (c_1 + .. + c_v) / v         a query, in expectation
    majority   the most frequent class is the true one
    worst      min(c_1 .. c_v)              right in every one of v queries

The accuracy is the mean of s over all n images. An image that ended in an error has s = 0: leaving it out of the mean
would let a defense gain by crashing. Its interval is Wilson's (1927), for p = sum(s) / n:

    (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)

which, unlike p ± z sqrt(p(1-p)/n), does not collapse at 0% and 100%. For fractional s it is too wide rather than too
narrow, since var(s) <= p(1-p).

The average over m attacks is the mean of a_i = (s_i1 + .. + s_im) / m, whose variance is smaller than that of one
attack's successes unless the attacks fool the same images. Its interval is Wilson's at the effective sample size
n p(1-p) / var(a) (Korn and Graubard, 1998), held between n and m n. It never collapses either, as a bootstrap of a few
images does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from harness.records import vote

Rule = Literal["single", "mean", "majority", "worst"]
RULES: tuple[Rule, ...] = get_args(Rule)

Successes = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """An accuracy with its 95% interval, all in [0, 1], from n images."""

    value: float
    low: float
    high: float
    n: int


def success(votes: Sequence[int], label: int, rule: Rule) -> float:
    """How far an image's votes are right, in [0, 1]; 0 where there are none."""
    right = [guess == label for guess in votes]
    if not right:
        return 0.0
    if rule == "single":
        return float(right[0])
    if rule == "mean":
        return sum(right) / len(right)
    if rule == "majority":
        return float(vote(list(votes)) == label)
    return float(all(right))


def wilson(successes: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    Args:
        successes: their number (or sum, if fractional), in [0, n].
        n: trials; 0 gives (0, 1).
        z: normal quantile, 1.96 for 95%.

    Raises:
        ValueError: there are fewer than no successes, or more than trials.
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


def accuracy(successes: Successes) -> Estimate:
    """Mean of the images' successes, (n,), n >= 1."""
    return Estimate(float(successes.mean()), *wilson(float(successes.sum()), len(successes)), len(successes))


def worst_case(successes: Successes) -> Estimate:
    """Accuracy on images that count as far as they hold under every attack. successes: (attacks, n)."""
    return accuracy(successes.min(axis=0))


def average(successes: Successes) -> Estimate:
    """Mean of the attacks' accuracies on the same images. successes: (attacks, n)."""
    attacks, n = successes.shape
    mean = successes.mean(axis=0)
    p = float(mean.mean())
    spread, binomial = float(mean.var(ddof=1)) if n > 1 else 0.0, p * (1 - p)
    share = min(max(spread / binomial, 1 / attacks), 1.0) if binomial > 0 else 1.0
    return Estimate(p, *wilson(p * n / share, n / share), n)
