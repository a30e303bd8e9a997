"""The change of an accuracy on the same images, where successes may be fractions, as for stochastic defenses.

An image's success goes from s_i to s'_i, both in [0, 1]. With b the sum of the gains and c that of the losses over n
images, the change is D = (b - c) / n. Its 95% interval is Tango's (1998): all D' that a score test does not reject,

    (b - c - n D')² <= z² n (2 q + D'(1 - D')),
    q >= 0 the root of 2n q² + ((2n - b + c) D' - b - c) q - c D'(1 - D'), the likeliest share of losses if D' were true

It does not collapse where no image changed: with n images it then extends to z² / (n + z²). Fractional steps vary less
than whole ones: b, c and n are divided by r = sum (s' - s)² / sum |s' - s|, which is 1 for whole ones, so that the
interval's variance is that of the steps; and each side extends at least as far as for n images that did not change, for
the rare image that changes altogether.

p is that of the exact test in which each image's step might as well have had the other sign (Fisher, 1935): the chance
that the sum of the steps, with random signs, is as far from 0 as it is. Where all successes are 0 or 1, it is McNemar's
exact p.

The step of an image that ended in an error on either side is unknown: it is left out (`accuracy.both_known`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.fft import next_fast_len

from harness.reporting.stats.accuracy import Successes

HALVINGS = 60
"""Bisections that find an end of Tango's interval."""

FINEST = 1000
"""Steps count as multiples of 1/FINEST or of a larger unit; there are fewer draws than that."""


@dataclass(frozen=True)
class Change:
    """A difference of two accuracies with its 95% interval, in [-1, 1], its p-value, and the number of images."""

    value: float
    low: float
    high: float
    p: float
    n: int


def change(before: Successes, after: Successes) -> Change:
    """From one accuracy to another. before, after: known successes of the same images in their order, (n,), n >= 1."""
    steps = after - before
    n, gains, losses = len(steps), float(steps.clip(min=0).sum()), float((-steps).clip(min=0).sum())
    ratio = float((steps**2).sum()) / (gains + losses) if gains + losses else 1.0
    low, high = tango(gains / ratio, losses / ratio, n / ratio)
    value, room = (gains - losses) / n, tango(0, 0, n)[1]
    return Change(value, max(-1.0, min(low, value - room)), min(1.0, max(high, value + room)), sign_test(steps), n)


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided exact p-value from the numbers of discordant images; 1 where there are none."""
    n, tail, ways = lost + gained, 1, 1
    for k in range(min(lost, gained)):
        ways = ways * (n - k) // (k + 1)  # of choosing k + 1 of n, a hundred times as fast as by math.comb
        tail += ways
    return min(1.0, 2 * tail / 2**n)


def sign_test(steps: Successes) -> float:
    """Two-sided exact p-value of steps in [-1, 1], (n,), whose signs are random under the null hypothesis.

    The sum of the steps with random signs takes values on a lattice, and its characteristic function is the product of
    cos(angle * step), so that a discrete Fourier transform gives its distribution. It is as long as the lattice, or a
    little longer where that is faster, and its second half mirrors the first.
    """
    if np.isin(steps, (-1.0, 0.0, 1.0)).all():
        return mcnemar(int((steps < 0).sum()), int((steps > 0).sum()))
    sizes, counts = np.unique(np.abs(steps).round(9), return_counts=True)
    fractions = (Fraction(size).limit_denominator(FINEST) for size in sizes.tolist())
    finest = min(math.lcm(*(fraction.denominator for fraction in fractions)), FINEST)
    whole = np.rint(sizes * finest).astype(int)
    farthest, seen = int((whole * counts).sum()), abs(round(float(steps.sum()) * finest))
    if seen == 0:
        return 1.0
    length = next_fast_len(2 * farthest + 1, real=True)
    angles = 2 * np.pi * np.arange(length // 2 + 1) / length
    waves = np.ones(len(angles))
    for size, count in zip(whole.tolist(), counts.tolist(), strict=True):
        waves *= np.cos(angles * size) ** count
    chances = np.fft.hfft(waves, length) / length
    return float(min(1.0, max(0.0, 2 * chances[seen : farthest + 1].sum())))


def tango(gains: float, losses: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """Score interval of a paired difference.

    Args:
        gains, losses: b and c above, b + c <= n.
        z: normal quantile, 1.96 for 95%.
    """

    def inside(difference: float) -> bool:
        spread = 2 * _losses(gains, losses, n, difference) + difference * (1 - difference)
        return (gains - losses - n * difference) ** 2 <= z * z * n * spread

    def bound(outer: float) -> float:
        if inside(outer):
            return outer
        inner = (gains - losses) / n
        for _ in range(HALVINGS):
            middle = (inner + outer) / 2
            inner, outer = (middle, outer) if inside(middle) else (inner, middle)
        return inner

    return bound(-1.0), bound(1.0)


def _losses(gains: float, losses: float, n: float, difference: float) -> float:
    """q above."""
    half = (2 * n - gains + losses) * difference - gains - losses
    root = math.sqrt(max(0.0, half * half + 8 * n * losses * difference * (1 - difference)))
    return max(0.0, (root - half) / (4 * n))
