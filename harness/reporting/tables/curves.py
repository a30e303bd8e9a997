"""What a sweep says: accuracy by the value of a parameter, and how far it changes from each value to the next.

A curve belongs to one sweep and to one pairing of it: variants of a defense under one attack, or one defense under
variants of an attack. Changes are measured on the same images, and exist where one parameter was swept.

A curve over `eot` against a stochastic defense ends in a verdict on its last step, from E to E' draws. Let the drop be
robust accuracy at E minus that at E', with its paired interval and test (see `harness.reporting.stats.change`):

    still falling    the interval lies above 0, and p < 0.05
    converged        not so, the drop is at most 1 point, and the interval leaves no room for more than 2
    cannot tell      anything else: the images are too few
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from harness.reporting.stats.accuracy import both_known
from harness.reporting.stats.change import Change, change
from harness.reporting.tables.entries import Column, Entry
from harness.reporting.tables.outcomes import robust_successes
from harness.reporting.tables.table import Row, Table
from harness.results.manifest import SweepFacts
from harness.suite.sweep import spelt

LEVEL = 0.05
"""Of the test that makes a drop visible."""

SMALL = 0.01
"""A drop that may be called none."""

ROOM = 0.02
"""The largest drop that a converged curve may hide."""

VERDICTS = {"falling": "Still falling", "converged": "Converged", "open": "Cannot tell"}


@dataclass(frozen=True)
class Point:
    """One setting of the swept parameters.

    Attributes:
        values: of the parameters.
        change: of robust accuracy, from the point before, on the images without an error at either; None at the first,
            where either is not final, or where several parameters were swept.
    """

    values: tuple[Any, ...]
    row: Row
    column: Column
    clean: Entry
    robust: Entry
    change: Change | None = None

    @property
    def shown(self) -> tuple[str, ...]:
        return tuple(map(spelt, self.values))


@dataclass(frozen=True)
class Verdict:
    """On the last step of a curve over `eot`. kind: a key of `VERDICTS`."""

    kind: Literal["falling", "converged", "open"]
    text: str


@dataclass(frozen=True)
class Curve:
    """A sweep in one pairing.

    Attributes:
        defense, attack: labels, that of the swept one without its values.
    """

    sweep: SweepFacts
    defense: str
    attack: str
    points: tuple[Point, ...]
    verdict: Verdict | None


def curves(table: Table) -> Iterator[Curve]:
    """All curves of a run, sweep by sweep. Pairings that the run does not have are left out."""
    for sweep in table.run.manifest.sweeps:
        attacks = [(at, column) for at, column in enumerate(table.columns) if column.kind == "attack"]
        if sweep.kind == "defenses":
            for at, column in attacks:
                points = [_point(sweep, row, column, at) for row in table.rows if row.name in sweep.variants]
                yield from _curve(table, sweep, sweep.label, column.label, points)
        else:
            swept = [(at, column) for at, column in attacks if column.name in sweep.variants]
            for row in table.rows:
                points = [_point(sweep, row, column, at) for at, column in swept]
                yield from _curve(table, sweep, row.label, sweep.label, points)


def _point(sweep: SweepFacts, row: Row, column: Column, at: int) -> Point:
    name = row.name if sweep.kind == "defenses" else column.name
    return Point(sweep.variants[name], row, column, row.entries[0], row.entries[at])


def _curve(table: Table, sweep: SweepFacts, defense: str, attack: str, points: list[Point]) -> Iterator[Curve]:
    points = [point for point in points if point.robust.status != "absent"]
    if not points:
        return
    if len(sweep.paths) == 1:
        points = [points[0], *(_after(table, *pair) for pair in pairwise(points))]
    yield Curve(sweep, defense, attack, tuple(points), _verdict(sweep, points))


def _after(table: Table, before: Point, point: Point) -> Point:
    pairs = [each.robust.pairing for each in (before, point) if each.robust.status == "final"]
    known = [robust_successes(pair.records, table.rule) for pair in pairs if pair]
    found = change(*both_known(*known)) if len(known) == 2 else None
    return Point(point.values, point.row, point.column, point.clean, point.robust, found)


def _verdict(sweep: SweepFacts, points: Sequence[Point]) -> Verdict | None:
    draws = [point.values[0] for point in points]
    if sweep.kind != "attacks" or len(sweep.paths) > 1 or sweep.paths[0].rpartition(".")[2] != "eot":
        return None
    if not points[0].row.stochastic or points[-1].change is None or draws != sorted(draws):
        return None
    errors = sum(point.robust.errors for point in points[-2:])
    return judged(points[-1].change, f"from EOT {draws[-2]} to {draws[-1]}", errors)


def judged(step: Change, where: str, errors: int = 0) -> Verdict:
    """The verdict on a step. where: names it. errors: images that ended in one at either end, and are left out."""
    drop, low, high = -step.value, -step.high, -step.low
    verb = "rose" if drop < 0 else "fell"
    said = f"{where}, robust accuracy {verb} by {100 * abs(drop):.1f} points"
    told = f"{said} (95% interval of the drop {signed(low)} to {signed(high)} points, {step.n} images)"
    if errors:
        plural = "1 error leaves" if errors == 1 else f"{errors} errors leave"
        return _said("open", f"{said} on the images without an error, but {plural} others open")
    if low > 0 and step.p < LEVEL:
        return _said("falling", told)
    if drop <= SMALL and high <= ROOM:
        return _said("converged", told)
    return _said("open", f"{said}, and {step.n} images leave room for a drop of up to {100 * high:.1f} points")


def signed(share: float) -> str:
    """Percentage points with their sign, for differences."""
    text = f"{100 * share:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def _said(kind: Literal["falling", "converged", "open"], text: str) -> Verdict:
    return Verdict(kind, f"{VERDICTS[kind]}: {text}.")
