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
import pandas as pd

NOISE = 4.0
"""Standard deviations; chance alone exceeds them in 3 of 100,000 pairings."""

IMPOSSIBLE = "images that it misclassifies without an attack count as robust: it is not deterministic, as it declares"
UNLIKELY = "robust accuracy exceeds clean accuracy by more than chance explains: the attack is weaker than none"


def above_clean(records: pd.DataFrame, *, stochastic: bool) -> str | None:
    """A remark on a pairing whose records say that the attack made the defense more accurate, or None.

    Args:
        records: with the columns `label`, `verdict`, `clean_votes` and `adv_votes`; errors are left out.
    """
    counted = records[records["verdict"] != "error"]
    labels = counted["label"].tolist()
    clean, robust = (_right(counted[column].tolist(), labels) for column in ("clean_votes", "adv_votes"))
    if not stochastic:
        return IMPOSSIBLE if (robust > clean).any() else None
    draws = np.array([len(votes) for votes in counted["adv_votes"]], dtype=np.float64)
    rate = (clean + robust + 1) / (2 * draws + 2)
    spread = np.sqrt((2 * draws * rate * (1 - rate)).sum())
    if (robust - clean).sum() <= NOISE * spread:
        return None
    return UNLIKELY


def _right(votes: list[list[int]], labels: list[int]) -> np.ndarray:
    """How many draws are right, (N,)."""
    pairs = zip(votes, labels, strict=True)
    return np.array([sum(vote == label for vote in given) for given, label in pairs], dtype=np.float64)
