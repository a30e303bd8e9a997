"""Whether two accuracies differ: on the same images or on different ones.

    same images         interval and p of `harness.reporting.stats.change`: Tango's interval; McNemar's exact test where
                        every success is 0 or 1, and the exact sign test where draws make successes fractional
    different images    Newcombe's hybrid of the Wilson intervals (l1, u1), (l2, u2) of p1, p2 (1998a, method 10), for
                        d = p1 - p2; no p:
                        low  = d - sqrt((p1 - l1)² + (u2 - p2)²)
                        high = d + sqrt((u1 - p1)² + (p2 - l2)²)

Where many differences are tested at once, Holm's step-down method (1979) bounds the chance of any false alarm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.reporting.stats.accuracy import Estimate, Successes, accuracy
from harness.reporting.stats.change import change

LEVEL = 0.05
"""Chance of one false alarm or more among the differences that are called significant together."""


@dataclass(frozen=True)
class Difference:
    """First accuracy minus second.

    Attributes:
        first, second: the accuracies with their own intervals.
        value, low, high: the difference with its 95% interval, in [-1, 1].
        lost, gained: on how many images the first is right more often than the second, and less often; None on
            different images.
        p: the p-value of the test above; None on different images.
    """

    first: Estimate
    second: Estimate
    value: float
    low: float
    high: float
    lost: int | None = None
    gained: int | None = None
    p: float | None = None


def paired(first: Successes, second: Successes) -> Difference:
    """The difference on the same n >= 1 images, in the same order, all known on both sides: (n,) each."""
    step = change(second, first)
    lost, gained = int((first > second).sum()), int((second > first).sum())
    return Difference(accuracy(first), accuracy(second), step.value, step.low, step.high, lost, gained, step.p)


def unpaired(first: Successes, second: Successes) -> Difference:
    """The difference on different images, all of which are known: (n,) and (m,), both at least 1."""
    a, b = accuracy(first), accuracy(second)
    value = a.value - b.value
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    high = value + math.hypot(a.high - a.value, b.value - b.low)
    return Difference(a, b, value, max(-1.0, low), min(1.0, high))


def holm(p_values: Sequence[float | None], level: float = LEVEL) -> list[bool]:
    """Which differences are significant together; None, a difference that was not tested, never is."""
    order = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    significant = [False] * len(p_values)
    for rank, (p, at) in enumerate(order):
        if p > level / (len(order) - rank):
            break
        significant[at] = True
    return significant
