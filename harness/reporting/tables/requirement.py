"""What a table must reach to pass in continuous integration: `harness report --fail-under rdc/linf=40`.

    DEFENSE/COLUMN=PERCENT      column: an attack, or "clean", "average" or "worst"

A requirement is met if the number is final, not in doubt, and at least so large. Of the number, either the accuracy
itself is compared, or an end of its 95% interval: with "low", chance hardly lets a defense pass that is worse than
required; with "high", chance hardly lets one fail that is as good as required.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.errors import UserError, nearest
from harness.reporting.stats.accuracy import Estimate
from harness.reporting.tables.entries import Entry
from harness.reporting.tables.table import Table

Bound = Literal["value", "low", "high"]

COMPARED: dict[Bound, str] = {
    "value": "the accuracy itself is compared, neither end of its interval",
    "low": "the lower end of its interval is compared",
    "high": "the upper end of its interval is compared",
}

ROUNDING = 1e-9
"""The accuracy of 2 in 5 images is not below 40%, however floats round."""


@dataclass(frozen=True)
class Requirement:
    """The least accuracy of an entry of the table, in percent. column: an attack, "clean", "average", "worst", ..."""

    defense: str
    column: str
    percent: float
    bound: Bound = "value"

    @classmethod
    def parse(cls, text: str, bound: Bound = "value") -> Requirement:
        """Reads `DEFENSE/COLUMN=PERCENT`.

        Raises:
            UserError: it has another form, or the number is no percentage.

        Example:
            >>> Requirement.parse("rdc/linf=40").percent
            40.0
        """
        match = re.fullmatch(r"([^/=]+)/([^/=]+)=(\d+(?:\.\d*)?|\.\d+)%?", text)
        if not match or float(match[3]) > 100:
            raise UserError(
                f"'{text}' is no requirement of a table",
                remedy="Write DEFENSE/ATTACK=PERCENT, such as rdc/linf=40, with clean, average or worst as the attack",
            )
        return cls(match[1], match[2], float(match[3]), bound)

    @property
    def name(self) -> str:
        return f"{self.defense}/{self.column}"


@dataclass(frozen=True)
class Judgement:
    """Whether a table meets a requirement. text: a sentence that says so, with the number and what was compared."""

    requirement: Requirement
    table: Table
    met: bool
    text: str


def judge(tables: Sequence[Table], requirements: Sequence[Requirement]) -> list[Judgement]:
    """The judgement on every requirement, for every table that has its place.

    Raises:
        UserError: no table has the place that a requirement names.
    """
    found = []
    for requirement in requirements:
        places = [(table, entry) for table in tables if (entry := _entry(table, requirement)) is not None]
        if not places:
            names = {f"{row.name}/{column.name}" for table in tables for row in table.rows for column in table.columns}
            raise UserError(f"no table has {requirement.name}", remedy=nearest(requirement.name, names))
        for table, entry in places:
            reason = next(_reasons(requirement, entry), None)
            text = f"{table.run.manifest.suite}: {requirement.name} {reason or _told(requirement, entry.estimate)}"
            found.append(Judgement(requirement, table, reason is None, f"{text}."))
    return found


def _entry(table: Table, requirement: Requirement) -> Entry | None:
    for row in table.rows:
        for column, entry in zip(table.columns, row.entries, strict=True):
            if (row.name, column.name) == (requirement.defense, requirement.column) and entry.status != "absent":
                return entry
    return None


def _reasons(requirement: Requirement, entry: Entry) -> Iterator[str]:
    """Why a requirement is not met."""
    if entry.estimate is None:
        yield f"has no number ({entry.status}), and {requirement.percent:g}% is required"
    elif 100 * _compared(requirement, entry.estimate) < requirement.percent - ROUNDING:
        yield _told(requirement, entry.estimate)
    elif entry.doubts:
        yield f"{_told(requirement, entry.estimate)}; but it may be too high, {entry.doubts[0]}"


def _compared(requirement: Requirement, estimate: Estimate) -> float:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}[requirement.bound]


def _told(requirement: Requirement, estimate: Estimate | None) -> str:
    assert estimate is not None
    low = 100 * _compared(requirement, estimate) < requirement.percent - ROUNDING
    interval = f"95% interval {100 * estimate.low:.1f} to {100 * estimate.high:.1f}%, {estimate.n} images"
    word = "below" if low else "not below"
    return (
        f"is {100 * estimate.value:.1f}% ({interval}), {word} the required {requirement.percent:g}%: "
        f"{COMPARED[requirement.bound]}"
    )
