"""The numbers that the leaderboards of AutoAttack and RobustBench take: AutoAttack's on deterministic defenses.

Both leaderboards rank by AutoAttack's standard version, and take no defense that is random. RobustBench evaluates on
all 10,000 test images of CIFAR, or 5,000 of ImageNet; an accuracy on fewer says so, with its interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.errors import UserError
from harness.reporting.stats.accuracy import Estimate
from harness.reporting.tables.entries import Entry
from harness.reporting.tables.table import Row, Table

EVALUATION = {"type": "autoattack", "version": "standard"}
"""The attack that counts: its type, and its argument."""


@dataclass(frozen=True)
class Standing:
    """A defense's result under AutoAttack.

    Attributes:
        norm, eps: the budget, as the suite writes it.
        clean, robust: the accuracies.
        least: the lowest accuracy under any attack of the same budget, AutoAttack included.
        published: the published number for it, in percent, or "".
        doubts: why the number may be too high.
    """

    table: Table
    row: Row
    norm: str
    eps: str
    clean: Estimate
    robust: Estimate
    least: Estimate
    published: str
    doubts: tuple[str, ...]

    @property
    def sample(self) -> str:
        """On which images the numbers rest, with the interval of the robust accuracy."""
        low, high, facts = 100 * self.robust.low, 100 * self.robust.high, self.table.run.manifest.dataset
        return f"{self.robust.n} images of {facts.name} ({facts.split}), 95% interval {low:.2f} to {high:.2f}"


def standings(tables: Sequence[Table]) -> list[Standing]:
    """All results under AutoAttack, in the order of the tables.

    Raises:
        UserError: there is none.
    """
    found = [standing for table in tables for row in table.rows for standing in _standings(table, row)]
    if not found:
        raise UserError(
            "these results hold no finished run of AutoAttack's standard version on a deterministic defense, and the "
            "leaderboards take nothing else",
            remedy="Add `{type: autoattack, norm: Linf, eps: 8/255}` to the suite's attacks, or choose another format",
        )
    return found


def _standings(table: Table, row: Row) -> Iterator[Standing]:
    if table.run.manifest.defenses[row.name].noise_seed is not None:
        return  # a number of the derandomised defense would pass for one of a deterministic defense
    clean = next(entry.estimate for entry, column in _entries(table, row) if column == "clean")
    for entry, _ in _entries(table, row):
        if row.stochastic or clean is None or entry.estimate is None or not _counts(table, entry):
            continue
        threat = _threat(entry)
        same = [e.estimate for e, _ in _entries(table, row) if e.estimate and e.pairing and _threat(e) == threat]
        norm, _, eps = threat.partition(" ")
        least = min(same, key=lambda estimate: estimate.value)
        published = entry.published.text if entry.published else ""
        yield Standing(table, row, norm, eps, clean, entry.estimate, least, published, entry.doubts)


def _entries(table: Table, row: Row) -> Iterator[tuple[Entry, str]]:
    return ((entry, column.name) for entry, column in zip(row.entries, table.columns, strict=True))


def _counts(table: Table, entry: Entry) -> bool:
    """Whether an entry is that of AutoAttack's standard version."""
    part = table.run.manifest.resolved.cells.get(entry.pairing.facts.name) if entry.pairing else None
    return part is not None and {"type": part.type, "version": part.arguments.get("version")} == EVALUATION


def _threat(entry: Entry) -> str:
    return entry.pairing.facts.threat if entry.pairing else ""
