"""Randomized smoothing in numbers: from counts of classes under Gaussian noise to certified radii (Cohen et al., 2019).

A base classifier f gives the smoothed classifier g, which returns the class that f gives most often under noise:

    p_c(x) = P(f(x + sigma e) = c),  e ~ N(0, I)          g(x) = argmax_c p_c(x)

f may be random itself: its own draws belong to the probability.

CERTIFY     n0 draws select a class A. Of n further draws, k give A. With confidence 1 - alpha

                p_A(x) >= p_low = the alpha quantile of Beta(k, n - k + 1)            (Clopper and Pearson, 1934)

            If p_low > 1/2, then g(x') = A for every x' closer to x than R = sigma Phi^-1(p_low) in L2 (Theorem 1);
            otherwise it abstains.
PREDICT     the class with the most draws, if a two-sided binomial test at level alpha rejects that it and the next are
            equally likely; otherwise it abstains.
at a distance d from x, the same p_low gives p_A(x') >= Phi(Phi^-1(p_low) - d / sigma)    (the proof of Theorem 1)

The last line makes a certificate testable: votes on an image that an attack has found must not contradict it.

Everything is in float64, on the CPU, and without torch: verification and reports compute radii from stored counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # whose part `special` is imported where it is first used: that takes half a second
from numpy.typing import NDArray

ABSTAINS = -1
"""In the place of a class: the statistics do not settle one."""

Counts = NDArray[np.int64]
"""How often each class was given, (..., K). Draws without finite logits are in none of them."""

Numbers = NDArray[np.float64]

MOST_DRAWS = 10_000_000
"""The largest n0 and n. Counts are stored as float32, which is exact up to 2^24."""


@dataclass(frozen=True)
class Certified:
    """What `certify` says of N images.

    Attributes:
        classes: the certified class, (N,) int64; `ABSTAINS` where it abstains.
        p_low: the lower bound on that class's probability, (N,).
        radii: in L2, on the [0, 1] scale of images, (N,); 0 where it abstains.
    """

    classes: NDArray[np.int64]
    p_low: Numbers
    radii: Numbers


def lower_bound(successes: Counts, draws: int, alpha: float) -> Numbers:
    """Clopper and Pearson's one-sided lower bound on a probability, with confidence 1 - alpha.

    Args:
        successes: in 0..draws, of any shape.

    Example:
        >>> round(float(lower_bound(np.array(1000), 1000, 0.001)), 6)  # 0.001 ** (1 / 1000)
        0.993116
    """
    k = np.asarray(successes, dtype=np.float64)
    bound: Numbers = np.where(k > 0, scipy.special.betaincinv(np.maximum(k, 1), draws - k + 1, alpha), 0.0)
    return bound


def certify(counts: Counts, draws: int, *, sigma: float, alpha: float) -> Certified:
    """CERTIFY of Cohen et al. (2019).

    Args:
        counts: (N, 2, K): of the n0 draws that select a class, and of the n draws that estimate its probability.
        draws: n.
        sigma: the standard deviation of the noise, on the [0, 1] scale.
        alpha: the probability, for each image, that its radius is too large.

    Example:
        >>> found = certify(np.array([[[9, 1], [990, 10]], [[6, 4], [520, 480]]]), 1000, sigma=0.25, alpha=0.001)
        >>> found.classes.tolist(), found.radii.round(3).tolist()
        ([0, -1], [0.495, 0.0])
    """
    selected = counts[:, 0].argmax(1)
    known = counts[:, 0].sum(1) > 0
    k = np.take_along_axis(counts[:, 1], selected[:, None], axis=1)[:, 0]
    p_low = lower_bound(k, draws, alpha)
    certain = known & (p_low > 0.5)
    radii = np.where(certain, sigma * scipy.special.ndtri(np.maximum(p_low, 0.5)), 0.0)
    return Certified(np.where(certain, selected, ABSTAINS), p_low, radii)


def predict(counts: Counts, alpha: float) -> NDArray[np.int64]:
    """PREDICT of Cohen et al. (2019): the class of each image, (N,), or `ABSTAINS` where it abstains.

    Args:
        counts: (N, K), K at least 2.

    Example:
        >>> predict(np.array([[60, 40], [80, 20]]), 0.001).tolist()
        [-1, 0]
    """
    two = np.sort(counts, axis=1)[:, -2:]
    # Under a fair coin, twice the probability that the rarer class has at most as many draws as it had.
    p_value = np.minimum(1.0, 2 * scipy.special.bdtr(two[:, 0], two.sum(1), 0.5))
    return np.where(p_value <= alpha, counts.argmax(1), ABSTAINS)


def p_of_certificate(p_low: float, distance: float, right: int, votes: int, sigma: float) -> float:
    """The probability, at most, of so few right votes on an image, if the certificate of another one holds.

    Args:
        p_low: of the certificate, above 1/2.
        distance: between the two images in L2.
        right: how many of the votes are for the certified class.

    Example:
        >>> p_of_certificate(0.99, 0.1, 30, 100, 0.25) < 1e-9, p_of_certificate(0.99, 0.8, 30, 100, 0.25) > 0.5
        (True, True)
    """
    return float(scipy.special.bdtr(right, votes, scipy.special.ndtr(scipy.special.ndtri(p_low) - distance / sigma)))


def fault_of(counts: NDArray[np.float32], selection: int, draws: int) -> str | None:
    """The reason why an array cannot be the counts of certificates, or None.

    Args:
        counts: (N, 2, K), as stored.
        selection, draws: n0 and n.
    """
    if not np.isfinite(counts).all() or (counts < 0).any() or (counts != np.round(counts)).any():
        return "a count of draws is no whole number"
    for part, most in enumerate((selection, draws)):
        if (total := counts[:, part].sum(1)).size and total.max() > most:
            return f"an image has counts of {total.max():.0f} draws, of {most}"
    return None
