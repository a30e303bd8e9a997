"""Whether a naive evaluation was misleading: whether a better attack finds far less robustness on the same images.

The naive attacks of one budget count as one: the worst case over them (see `harness.reporting.stats.worst`). What
they are compared with is the attack of the same budget that leaves the lowest accuracy. It was chosen among m, so
its exact p (see `harness.reporting.stats.change`) is multiplied by m (Bonferroni).

Images that ended in an error, under a naive attack or under the other, prove nothing and are left out. So are attacks
that failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.reporting.stats.accuracy import Successes, both_known
from harness.reporting.stats.change import change
from harness.reporting.stats.paired import LEVEL


@dataclass(frozen=True)
class NaiveComparison:
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
            f"{labels.get(self.strongest, self.strongest)} {self.left:.1%} (exact paired test, p = {self.p:.1g})"
        )


def compare(names: Sequence[str], naive: Successes, others: Mapping[str, Successes]) -> NaiveComparison | None:
    """Attacks of one budget on one defense; None where there is nothing to compare.

    Args:
        names: of the naive attacks.
        naive: successes under the worst of them, (n,) in [0, 1], NaN where an image ended in an error.
        others: the same of each other attack, on the same images in the same order, by its name.
    """
    found = [one for name, successes in others.items() if (one := _against(naive, successes, name, names))]
    if not found:
        return None
    lowest = min(found, key=lambda one: one.left - one.found)
    return NaiveComparison(lowest.naive, lowest.strongest, lowest.found, lowest.left, min(1.0, lowest.p * len(found)))


def _against(naive: Successes, other: Successes, name: str, names: Sequence[str]) -> NaiveComparison | None:
    before, after = both_known(naive, other)
    if not len(before):
        return None
    return NaiveComparison(tuple(names), name, float(before.mean()), float(after.mean()), change(before, after).p)
