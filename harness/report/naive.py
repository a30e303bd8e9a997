"""Whether a naive evaluation was misleading: whether a better attack finds far less robustness on the same images.

The naive attacks of one budget count as one, worth the strongest of them on each image. What they are compared with is
the attack of the same budget that leaves the lowest accuracy. It was chosen among m, so McNemar's exact p is multiplied
by m (Bonferroni). It is not the worst case over all attacks, which on a stochastic defense is lower by luck alone.

Images that ended in an error, under a naive attack or under the other, prove nothing and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.report.change import change
from harness.report.paired import LEVEL
from harness.report.statistics import Successes


@dataclass(frozen=True)
class Comparison:
    """The naive attacks of a budget beside the strongest of the others, on one defense.

    Attributes:
        naive, strongest: their names.
        found, left: the accuracies that they leave, in [0, 1].
        p: as above.
    """

    naive: tuple[str, ...]
    strongest: str
    found: float
    left: float
    p: float

    @property
    def misleading(self) -> bool:
        return self.left < self.found and self.p < LEVEL

    def told(self, labels: Mapping[str, str]) -> str:
        """In words. labels: what the report calls the attacks."""
        names = ", ".join(labels.get(name, name) for name in self.naive)
        return (
            f"naive evaluation was misleading: {names} found {self.found:.1%} robust, "
            f"{labels.get(self.strongest, self.strongest)} {self.left:.1%} (McNemar, p = {self.p:.1g})"
        )


def compare(naive: Mapping[str, Successes], others: Mapping[str, Successes]) -> Comparison | None:
    """Attacks of one budget on one defense; None where there is nothing to compare.

    Args:
        naive, others: successes of the same images in the same order, (n,) in [0, 1], NaN where an image ended in an
            error, by the attack's name.
    """
    if not naive or not others:
        return None
    weakest = np.stack(list(naive.values())).min(axis=0)
    found = [one for name, successes in others.items() if (one := _against(weakest, successes, name, list(naive)))]
    if not found:
        return None
    lowest = min(found, key=lambda one: one.left - one.found)
    return Comparison(lowest.naive, lowest.strongest, lowest.found, lowest.left, min(1.0, lowest.p * len(found)))


def _against(naive: Successes, other: Successes, name: str, names: Sequence[str]) -> Comparison | None:
    valid = ~(np.isnan(naive) | np.isnan(other))
    if not valid.any():
        return None
    before, after = naive[valid], other[valid]
    return Comparison(tuple(names), name, float(before.mean()), float(after.mean()), change(before, after).p)
