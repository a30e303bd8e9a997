"""Many runs as one ranking: a standing per defense, run and threat model, the highest worst case first.

Only numbers under one threat model, on one dataset, can be ranked against each other, so standings come in divisions of
these two. The worst case is over all attacks that a run made under that threat model, image by image: a defense that
met few attacks stands higher than it would under more, which is why the attacks are part of a standing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.reporting.tables.doubts import doubts
from harness.reporting.tables.entries import Column, Entry, entry
from harness.reporting.tables.table import Row, Table, subject_of

NO_BUDGET = "0"
"""The size of a budget within which nothing can be attacked, as that of the attack `clean`."""


@dataclass(frozen=True)
class RankedDefense:
    """A defense of a run under one threat model.

    Attributes:
        table: of the run; row: that of the defense.
        threat: the threat model, such as "Linf 8/255".
        attacks: the labels of the attacks that the worst case is over.
        worst: accuracy under the worst of them, image by image.
    """

    table: Table
    row: Row
    threat: str
    attacks: tuple[str, ...]
    worst: Entry

    @property
    def clean(self) -> Entry:
        return self.row.entries[0]

    @property
    def division(self) -> tuple[str, str]:
        """The dataset and the threat model, within which standings are ranked."""
        dataset = self.table.run.manifest.dataset
        return f"{dataset.name} ({dataset.split})", self.threat


def ranking(tables: Sequence[Table]) -> dict[tuple[str, str], list[RankedDefense]]:
    """The standings of each division: the highest worst case first, and last those without a number.

    Divisions with more standings come first.

    Example:
        >>> ranking([])
        {}
    """
    found: dict[tuple[str, str], list[RankedDefense]] = {}
    for table in tables:
        for standing in _standings(table):
            found.setdefault(standing.division, []).append(standing)
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return {division: sorted(standings, key=_rank) for division, standings in ordered}


def _rank(standing: RankedDefense) -> tuple[float, float, str]:
    values = (entry.estimate.value if entry.estimate else -1.0 for entry in (standing.worst, standing.clean))
    worst, clean = values
    return -worst, -clean, standing.row.label


def _standings(table: Table) -> Iterator[RankedDefense]:
    run, manifest = table.run, table.run.manifest
    doubted = doubts(run)
    for row in table.rows:
        subject = subject_of(run, row.name, doubted)
        threats: dict[str, list[str]] = {}
        for attack, pairing in subject.pairings.items():
            if pairing.facts.threat.partition(" ")[2] != NO_BUDGET:
                threats.setdefault(pairing.facts.threat, []).append(attack)
        for threat, attacks in threats.items():
            kind, names = ("attack", tuple(attacks)) if len(attacks) == 1 else ("worst", tuple(attacks))
            column = Column(kind, names[0], "Worst", names, threat)  # type: ignore[arg-type]
            labels = tuple(subject.labels.get(name, name) for name in names)
            yield RankedDefense(table, row, threat, labels, entry(column, subject, manifest.report.vote))
