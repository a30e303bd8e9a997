"""Whether a naive evaluation was misleading: whether a better attack leaves far less accuracy on the same images.

The naive attacks of one budget count as one: the worst case over them (see `harness.reporting.stats.worst`). They
are compared with the attack of the same budget that leaves the lowest accuracy. It was chosen among m attacks, so its
exact p (see `harness.reporting.stats.change`) is multiplied by m (Bonferroni).

Images that ended in an error under a naive attack or under the other one prove nothing and are left out, and so are
attacks that failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.reporting.stats.accuracy import Successes, both_known
from harness.reporting.stats.change import change
from harness.reporting.stats.paired import LEVEL


@dataclass(frozen=True)
class NaiveComparison:
    """The naive attacks of a budget beside the strongest of the others, on one defense.

    Attributes:
        naive, strongest: their names.
        naive_accuracy, strongest_accuracy: the accuracies that they leave, in [0, 1].
        p: the p-value, as above.
    """

    naive: tuple[str, ...]
    strongest: str
    naive_accuracy: float
    strongest_accuracy: float
    p: float

    @property
    def misleading(self) -> bool:
        return self.strongest_accuracy < self.naive_accuracy and self.p < LEVEL

    def describe(self, labels: Mapping[str, str]) -> str:
        """A remark for the table. labels: the names of the attacks in the report."""
        names = ", ".join(labels.get(name, name) for name in self.naive)
        return (
            f"naive evaluation was misleading: accuracy is {self.naive_accuracy:.1%} under {names}, and "
            f"{self.strongest_accuracy:.1%} under {labels.get(self.strongest, self.strongest)} (exact paired test, "
            f"p = {self.p:.1g})"
        )


def compare(names: Sequence[str], naive: Successes, others: Mapping[str, Successes]) -> NaiveComparison | None:
    """Compares the attacks of one budget on one defense; None where there is nothing to compare.

    Args:
        names: the names of the naive attacks.
        naive: successes under the worst of them, (n,) in [0, 1], NaN where an image ended in an error.
        others: the successes under each other attack, on the same images in the same order, by its name.
    """
    tested = [one for name, successes in others.items() if (one := _against(naive, successes, name, names))]
    if not tested:
        return None
    lowest = min(tested, key=lambda one: one.strongest_accuracy - one.naive_accuracy)
    return replace(lowest, p=min(1.0, lowest.p * len(tested)))


def _against(naive: Successes, other: Successes, name: str, names: Sequence[str]) -> NaiveComparison | None:
    before, after = both_known(naive, other)
    if not len(before):
        return None
    return NaiveComparison(tuple(names), name, float(before.mean()), float(after.mean()), change(before, after).p)
