"""A table as plain strings: what every readable format typesets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.reporting.stats.accuracy import Estimate
from harness.reporting.tables.notes import DOUBT

FAILED = "failed"
"""Shown in place of a number where too many images ended in an error."""
MANY_IMAGES = 100
"""From this number of images on, percentages have two decimals, as in the papers."""


@dataclass(frozen=True)
class Shown:
    """A text of the table.

    Attributes:
        detail: small print beside or under it.
        marks: letters of footnotes, such as "a,b".
        estimate: the accuracy that the text gives.
        images: defense and attack, where the number is of one pairing.
        published: the published number, and the difference of ours from it.
    """

    text: str
    detail: str = ""
    marks: str = ""
    estimate: Estimate | None = None
    images: tuple[str, str] | None = None
    published: str = ""


@dataclass(frozen=True)
class Grid:
    """Lines of equal length.

    Attributes:
        labels: the number of columns on the left that are text; the others are numbers.
        headings: by the number of the line below them.
    """

    head: list[Shown]
    lines: list[list[Shown]]
    labels: int = 1
    headings: Mapping[int, str] = field(default_factory=dict)

    @property
    def groups(self) -> list[tuple[str, list[list[Shown]]]]:
        """Lines by heading; those above the first heading have an empty one."""
        starts = sorted({0, *self.headings})
        ends = [*starts[1:], len(self.lines)]
        return [(self.headings.get(start, ""), self.lines[start:end]) for start, end in zip(starts, ends, strict=True)]


@dataclass(frozen=True)
class Block:
    """A sweep: a grid whose first columns are the parameters; or another grid of its own.

    Attributes:
        remark: a sentence below it, or nothing.
        long: whether it has a line per image, for which a terminal has no room; the page folds it.
    """

    title: Shown
    grid: Grid
    remark: str = ""
    long: bool = False


@dataclass(frozen=True)
class Sheet:
    """A run's table, ready to be typeset.

    Attributes:
        name: the suite's name.
        main: the defenses and attacks that are not swept; None where there are none.
        draws: stochastic defenses under every rule over draws; None where there is nothing to compare.
        footnotes: pairs of mark and text.
        notes: sentences.
        sweeps: a block per sweep of a defense, and per defense under a sweep of an attack; then certificates, and
            gradient diagnostics.
    """

    name: str
    title: str
    main: Grid | None
    draws: Grid | None
    footnotes: list[tuple[str, str]]
    notes: list[str]
    sweeps: Sequence[Block] = ()


def accuracy_shown(estimate: Estimate, marks: str = "", doubted: bool = False) -> Shown:
    """An accuracy in percent, with its interval."""
    digits = 2 if estimate.n >= MANY_IMAGES else 1
    low, high = (f"{100 * bound:.1f}" for bound in (estimate.low, estimate.high))
    interval = f"{low}–{'100' if high == '100.0' else high}"
    return Shown(f"{100 * estimate.value:.{digits}f}{DOUBT if doubted else ''}", interval, marks, estimate)
