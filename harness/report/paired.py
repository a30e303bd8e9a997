"""Whether two accuracies differ: on the same images (McNemar) or on different ones (Newcombe).

On the same n images, with n10 that only the first gets right, n01 that only the second does, n11 and n00:

    McNemar's exact test    n10 ~ Binomial(n10 + n01, 1/2) if the two are equally accurate; p is two-sided
    interval of p1 - p2     Newcombe's hybrid of the Wilson intervals (l1, u1), (l2, u2) (1998b, method 10):
                            low  = d - sqrt((p1 - l1)² - 2 phi (p1 - l1)(u2 - p2) + (u2 - p2)²)
                            high = d + sqrt((u1 - p1)² - 2 phi (u1 - p1)(p2 - l2) + (p2 - l2)²)

phi is the correlation of the two, corrected for continuity where it is positive; on different images it is 0 (1998a,
method 10). Where many differences are tested at once, Holm's step-down (1979) keeps the chance of any false alarm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.report.statistics import Estimate, accuracy

LEVEL = 0.05
"""Chance of one false alarm or more among the differences that are called significant together."""

Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Difference:
    """First accuracy minus second.

    Attributes:
        first, second: the accuracies with their own intervals.
        value, low, high: the difference with its 95% interval, in [-1, 1].
        lost, gained: same images that only the first, only the second gets right; None on different images.
        p: of McNemar's exact test; None on different images.
    """

    first: Estimate
    second: Estimate
    value: float
    low: float
    high: float
    lost: int | None = None
    gained: int | None = None
    p: float | None = None


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided exact p-value from the numbers of discordant images; 1 where there are none."""
    n = lost + gained
    tail = sum(math.comb(n, k) for k in range(min(lost, gained) + 1))
    return min(1.0, 2 * tail / 2**n)


def paired(first: Right, second: Right) -> Difference:
    """On the same n >= 1 images in the same order. first, second: right or wrong, (n,)."""
    n11, n00 = int((first & second).sum()), int((~first & ~second).sum())
    lost, gained = int((first & ~second).sum()), int((second & ~first).sum())
    phi = _correlation(n11, lost, gained, n00)
    return _difference(_estimate(first), _estimate(second), phi, lost, gained, mcnemar(lost, gained))


def unpaired(first: Right, second: Right) -> Difference:
    """On different images. first, second: right or wrong, (n,) and (m,), both at least 1."""
    return _difference(_estimate(first), _estimate(second), 0.0)


def holm(p_values: Sequence[float | None], level: float = LEVEL) -> list[bool]:
    """Which differences are significant together; None, a difference that was not tested, never is."""
    order = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    significant = [False] * len(p_values)
    for rank, (p, at) in enumerate(order):
        if p > level / (len(order) - rank):
            break
        significant[at] = True
    return significant


def _estimate(right: Right) -> Estimate:
    return accuracy(right.astype(np.float64))


def _correlation(n11: int, n10: int, n01: int, n00: int) -> float:
    scale = math.sqrt((n11 + n10) * (n01 + n00) * (n11 + n01) * (n10 + n00))
    product = float(n11 * n00 - n10 * n01)
    if product > 0:
        product = max(product - (n11 + n10 + n01 + n00) / 2, 0.0)
    return product / scale if scale else 0.0


def _difference(
    a: Estimate, b: Estimate, phi: float, lost: int | None = None, gained: int | None = None, p: float | None = None
) -> Difference:
    value = a.value - b.value
    low = value - _hypotenuse(a.value - a.low, b.high - b.value, phi)
    high = value + _hypotenuse(a.high - a.value, b.value - b.low, phi)
    return Difference(a, b, value, max(-1.0, low), min(1.0, high), lost, gained, p)


def _hypotenuse(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))
