"""Robust accuracy above clean accuracy on the same images, where unchanged images would have been a better attack.

A deterministic defense classifies an image in one way, and attacks do not change an image that it misclassifies: no
such image can be robust. For a stochastic defense, draws are compared. For image i let c_i and r_i of v draws be right
on the clean and on the adversarial image, and p_i = (c_i + r_i + 1) / (2 v + 2), their pooled and smoothed rate. If the
attack changed nothing, the sum of r_i - c_i would have mean 0 and variance sum_i 2 v p_i (1 - p_i), and

    z = sum_i (r_i - c_i) / sqrt(sum_i 2 v p_i (1 - p_i))

would be about standard normal: beyond `NOISE`, chance does not explain the difference.
"""

from __future__ import annotations

import numpy as np

from harness.results.columns import SIDES, Columns

NOISE = 4.0
"""Standard deviations; chance alone exceeds them in 3 of 100,000 pairings."""

IMPOSSIBLE = "images that it misclassifies without an attack count as robust: it is not deterministic, as it declares"
UNLIKELY = "robust accuracy exceeds clean accuracy by more than chance explains: the attack is weaker than none"


def above_clean(records: Columns, *, stochastic: bool) -> str | None:
    """A remark on a pairing whose records say that the attack made the defense more accurate, or None.

    Images that ended in an error are left out.
    """
    counted = ~records.failed
    labels = records.numbers("label")[:, None]
    clean, robust = ((records.votes(side) == labels).sum(axis=1)[counted] for side in SIDES)
    if not stochastic:
        return IMPOSSIBLE if (robust > clean).any() else None
    draws = records.draws("adv")[counted]
    rate = (clean + robust + 1) / (2 * draws + 2)
    spread = np.sqrt((2 * draws * rate * (1 - rate)).sum())
    if (robust - clean).sum() <= NOISE * spread:
        return None
    return UNLIKELY
