"""The curves of a sweep: accuracy by the value of a parameter, and its change from each value to the next.

A curve belongs to one sweep and to one pairing of it: variants of a defense under one attack, or one defense under
variants of an attack. Changes are measured on the same images, and only where one parameter was swept.

A curve over `eot` against a stochastic defense ends in a verdict, see `harness.reporting.tables.verdict`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from harness.reporting.stats.accuracy import both_known
from harness.reporting.stats.change import Change, change
from harness.reporting.tables.entries import Column, Entry
from harness.reporting.tables.outcomes import robust_successes
from harness.reporting.tables.table import Row, Table
from harness.reporting.tables.verdict import Verdict, judged
from harness.results.facts import NOISE_KNOWN, SweepFacts
from harness.suite.names import spelt


@dataclass(frozen=True)
class Point:
    """One setting of the swept parameters.

    Attributes:
        values: the values of the parameters.
        change: the change of robust accuracy from the point before, on images without an error at either; None at the
            first point, where either is not final, or where several parameters were swept.
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
class Curve:
    """A sweep in one pairing.

    Attributes:
        defense, attack: their labels; the swept one's is without its values.
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
        title = sweep_title(table, sweep)
        if sweep.kind == "defenses":
            for at, column in attacks:
                points = [_point(sweep, row, column, at) for row in table.rows if row.name in sweep.variants]
                yield from _curve(table, sweep, title, column.label, points)
        else:
            swept = [(at, column) for at, column in attacks if column.name in sweep.variants]
            for row in table.rows:
                points = [_point(sweep, row, column, at) for at, column in swept]
                yield from _curve(table, sweep, row.label, title, points)


def sweep_title(table: Table, sweep: SweepFacts) -> str:
    """What reports call a swept component, without its values."""
    known = table.run.manifest.defenses if sweep.kind == "defenses" else {}
    fixed = any(facts.noise_seed is not None for name, facts in known.items() if name in sweep.variants)
    return f"{sweep.label}{NOISE_KNOWN if fixed else ''}"


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
    known = [robust_successes(pair.columns, table.rule) for pair in pairs if pair]
    step = change(*both_known(*known)) if len(known) == 2 else None
    return Point(point.values, point.row, point.column, point.clean, point.robust, step)


def _verdict(sweep: SweepFacts, points: Sequence[Point]) -> Verdict | None:
    draws = [point.values[0] for point in points]
    if sweep.kind != "attacks" or len(sweep.paths) > 1 or sweep.paths[0].rpartition(".")[2] != "eot":
        return None
    if not points[0].row.stochastic or points[-1].change is None or draws != sorted(draws):
        return None
    errors = sum(point.robust.errors for point in points[-2:])
    return judged(points[-1].change, f"from EOT {draws[-2]} to {draws[-1]}", errors)
