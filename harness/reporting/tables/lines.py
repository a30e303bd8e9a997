"""A table as data: one line per number, for CSV, JSON and pandas. Accuracies are fractions in [0, 1], never rounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.reporting.stats.accuracy import Estimate
from harness.reporting.tables.certified import attacked_accuracy, certified_accuracy, radii
from harness.reporting.tables.entries import Column, Entry
from harness.reporting.tables.table import Row, Table
from harness.results.bounds import Bounds
from harness.results.record import Rule
from harness.suite.names import spelt


@dataclass(frozen=True)
class Line:
    """One number.

    Attributes:
        run: the results directory.
        parameters: the swept parameters and their values, as "defense.rdc.eta=2/255; attack.linf.steps=10".
        kind: the kind of its column: "clean", "attack", "average" or "worst"; "cr-average" or "cr-worst", see
            `harness.reporting.tables.ratio`; or "certified" and "attacked", of a smoothed defense at the radius in
            `threat`, see `harness.reporting.tables.certified`.
        attack: the attack's name, or the certificate's; of an average or a worst case, the names of its attacks, joined
            by spaces.
        rule: what counts as success over the draws of a stochastic defense.
        headline: whether the number is the one in the table; False for the other rules.
        status: "final", "failed" (too many images ended in errors), "unfinished" or "absent"; the accuracies are empty
            unless it is "final".
        accuracy, low, high: robust accuracy with its 95% interval; clean accuracy on a line of kind "clean".
        benign, benign_low, benign_high: accuracy of the same rule on the same images before the attack.
        n, total: images with a record, and all images.
        published, difference: the published accuracy, and ours minus it; published_in: its source.
        errors, violations: how many images ended in an error, for which the interval allows; how many are outside the
            budget.
        threat, method, key: the budget, the attack, and the cell's key.
        misleading: whether a better attack shows the naive evaluation of this defense misleading; None where the suite
            says of none that it is naive, or it is unfinished.
        doubt: why the accuracy may be too high, with "; " between; empty where nothing is known to say so.
        flags: all remarks, with "; " between.
    """

    run: str
    suite: str
    defense: str
    defense_label: str
    stochastic: bool
    parameters: str
    kind: str
    attack: str
    column_label: str
    rule: Rule
    headline: bool
    status: str
    accuracy: float | None
    low: float | None
    high: float | None
    benign: float | None
    benign_low: float | None
    benign_high: float | None
    published: float | None
    difference: float | None
    published_in: str
    n: int
    total: int
    errors: int
    violations: int
    threat: str
    method: str
    key: str
    misleading: bool | None
    doubt: str
    flags: str


def lines(table: Table) -> Iterator[Line]:
    """All numbers of a table: the headline ones first, row by row, then the other rules of stochastic defenses."""
    for row in table.rows:
        for column, entry in zip(table.columns, row.entries, strict=True):
            yield _line(table, row, column, entry, table.rule)
    for row in table.rows:
        for rule, entries in row.by_rule.items():
            if rule != table.rule:
                for column, entry in zip(table.columns, entries, strict=True):
                    yield _line(table, row, column, entry, rule)
    for known in table.certified:
        for radius in radii(table.certified, table.run):
            yield _bound(table, known, "certified", radius, certified_accuracy(known, radius))
            yield _bound(table, known, "attacked", radius, attacked_accuracy(known, radius))


def _bound(table: Table, known: Bounds, kind: str, radius: float, estimate: Estimate) -> Line:
    cell = table.run.certificates[known.defense, known.certificate]
    label = table.run.manifest.certificates.get(known.certificate)
    return Line(
        run=str(table.run.path),
        suite=table.run.manifest.suite,
        defense=known.defense,
        defense_label=known.label,
        stochastic=True,
        parameters="",
        kind=kind,
        attack=known.certificate,
        column_label=(label.label if label else None) or known.certificate,
        rule="majority",
        headline=True,
        status="final",
        accuracy=estimate.value,
        low=estimate.low,
        high=estimate.high,
        benign=None,
        benign_low=None,
        benign_high=None,
        published=None,
        difference=None,
        published_in="",
        n=cell.done,
        total=cell.total,
        errors=known.failed,
        violations=0,
        threat=f"L2 {radius:g}",
        method=cell.facts.method,
        key=cell.facts.key,
        misleading=None,
        doubt="; ".join(f"FAULT: {fault.describe()}" for fault in known.faults),
        flags=f"sigma {known.sigma:g}",
    )


def _line(table: Table, row: Row, column: Column, entry: Entry, rule: Rule) -> Line:
    facts = entry.pairing.facts if entry.pairing else None
    accuracy, low, high = _numbers(entry.estimate)
    known = entry.published if rule == table.rule else None
    benign, benign_low, benign_high = _numbers(entry.benign)
    return Line(
        run=str(table.run.path),
        suite=table.run.manifest.suite,
        defense=row.name,
        defense_label=row.label,
        stochastic=row.stochastic,
        parameters="; ".join(_parameters(table, row, column)),
        kind=column.kind,
        attack="" if column.kind == "clean" else " ".join(column.members),
        column_label=column.label,
        rule=rule,
        headline=rule == table.rule,
        status=entry.status,
        accuracy=accuracy,
        low=low,
        high=high,
        benign=benign,
        benign_low=benign_low,
        benign_high=benign_high,
        published=known.value if known else None,
        difference=accuracy - known.value if known and accuracy is not None else None,
        published_in=known.source if known else "",
        n=entry.done,
        total=entry.total,
        errors=entry.errors,
        violations=entry.violations,
        threat=facts.threat if facts else "",
        method=facts.method if facts else "",
        key=facts.key if facts else "",
        misleading=any(comparison.misleading for comparison in row.naive) if row.naive else None,
        doubt="; ".join(entry.doubts),
        flags="; ".join((*row.remarks, *entry.remarks)),
    )


def _parameters(table: Table, row: Row, column: Column) -> Iterator[str]:
    places = {"defenses": row.name, "attacks": column.name if column.kind == "attack" else None}
    for sweep in table.run.manifest.sweeps:
        values = sweep.variants.get(places[sweep.kind] or "", ())
        for path, value in zip(sweep.paths, values, strict=False):
            yield f"{sweep.kind[:-1]}.{sweep.name}.{path}={spelt(value)}"


def _numbers(estimate: Estimate | None) -> tuple[float | None, float | None, float | None]:
    return (estimate.value, estimate.low, estimate.high) if estimate else (None, None, None)
