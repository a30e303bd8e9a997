"""Accuracy by what an attack has spent: how many images are still right after k forward passes for each.

On a deterministic defense an attack stops working on an image once it is misclassified, so that the forward passes of
its record say when that was. An image that was wrong before the attack is wrong at every k. On a stochastic defense
every image takes all passes, and the record does not say when it was first misclassified.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.reporting.stats.accuracy import Estimate, accuracy
from harness.reporting.tables.outcomes import clean_successes, robust_successes
from harness.results.columns import Columns
from harness.results.record import Rule

CLOSE = 1.5
"""Numbers of passes of a smaller ratio would stand too close to each other on an axis."""


def accuracy_by_passes(records: Columns, rule: Rule, most: int | None = None) -> list[tuple[int, Estimate]]:
    """Numbers of forward passes k, from 1 on, and the accuracy after k of them.

    Args:
        records: of all images of a pairing with a deterministic defense.
        rule: over draws, which are equal here.
        most: the last k; by default the largest number of passes among the records.
    """
    passes, robust, clean = records.numbers("forwards"), robust_successes(records, rule), clean_successes(records, rule)
    points = []
    for k in _round_numbers(most or int(passes.max())):
        still = np.where((robust == 0) & (clean == 1) & (passes > k), 1.0, robust)
        points.append((k, accuracy(still)))
    return points


def stops_early(records: Columns, rule: Rule) -> bool:
    """Whether images were misclassified after different numbers of passes. Arguments as for `accuracy_by_passes`."""
    found = (robust_successes(records, rule) == 0) & (clean_successes(records, rule) == 1)
    return len(np.unique(records.numbers("forwards")[found])) > 1


def _round_numbers(most: int) -> Iterator[int]:
    """1, 3, 10, 30, ... and `most`, in place of the round number before it where that is close."""
    k = 1
    while CLOSE * k <= most:
        yield k
        k = k * 3 if str(k)[0] == "1" else k // 3 * 10
    yield most
