"""The charts of a report as numbers: the plots of `harness.reporting.render.plots` and the curves of the HTML page.

    bars       accuracy of every defense, column by column
    budget     robust accuracy by eps, where attacks of one threat and method have several; at eps = 0, clean accuracy
    sweep      accuracy by a swept parameter, see `harness.reporting.tables.curves`
    queries    accuracy by the forward passes that an attack spends on an image, see `harness.reporting.tables.passes`
    certified  certified accuracy of smoothed defenses by radius, see `harness.reporting.tables.certified`
    draws      stochastic defenses: accuracy where an image counts only if it is right in each of k draws
    distance   accuracy by radius from one run of a minimum-norm attack, see `harness.reporting.tables.distances`
    compression  how much purification shortens distances, that `harness diagnose` measured, by the perturbation's size
    cosine     the randomness of gradients that `harness diagnose` measured, by draws per gradient (the paper's Fig. 2c)

For "draws", with r of an image's v draws right, its success is the chance C(r, k) / C(v, k) that k of them are all
right: unbiased for every k, the mean over draws at k = 1, and the worst of all at k = v.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harness.quantity import Quantity
from harness.reporting.stats.accuracy import Estimate, accuracy
from harness.reporting.stats.worst import Draws
from harness.reporting.tables.certified import certified_accuracy, radii
from harness.reporting.tables.curves import Curve, curves, sweep_title
from harness.reporting.tables.diagnostics import compressions, diagnostics
from harness.reporting.tables.distances import distances
from harness.reporting.tables.entries import Column, Entry
from harness.reporting.tables.outcomes import clean_draws, robust_draws
from harness.reporting.tables.passes import accuracy_by_passes, stops_early
from harness.reporting.tables.table import Row, Table
from harness.suite.names import spelt

Kind = Literal["bars", "budget", "sweep", "queries", "certified", "draws", "cosine", "compression", "distance"]

WIDE = 16
"""An axis is logarithmic if the ratio of its largest to its smallest value is at least this."""

BUDGETS = ("eps", "bound")


@dataclass(frozen=True)
class Dot:
    """A value with its interval at x; tick: how x is written. remarks, doubted: as in the table, see `Entry`."""

    x: float
    tick: str
    estimate: Estimate
    remarks: tuple[str, ...] = ()
    doubted: bool = False


@dataclass(frozen=True)
class Line:
    """Dots from left to right.

    Attributes:
        baseline: whether the line is for comparison only.
        failed: x and its text, where there is no dot because the number failed.
    """

    label: str
    dots: tuple[Dot, ...]
    baseline: bool = False
    failed: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Chart:
    """Lines over one axis; for the kind "bars", a panel per line over the defenses.

    Attributes:
        axis: the meaning of x.
        measure: the meaning of the values, which are shown multiplied by `scale`.
    """

    kind: Kind
    title: str
    axis: str
    lines: tuple[Line, ...]
    measure: str = "accuracy, %"
    scale: float = 100.0

    @property
    def diagnosed(self) -> bool:
        """Whether `harness diagnose` measured the values, on images of its own number."""
        return self.kind in ("cosine", "compression")

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Every x once, in order, with its text."""
        dots = {dot.x: dot.tick for line in self.lines for dot in line.dots}
        return sorted({**dots, **dict(place for line in self.lines for place in line.failed)}.items())

    @property
    def top(self) -> float:
        """The end of the axis of values: 1 for shares, and what is there for ratios."""
        return max(1.0, *(dot.estimate.high for line in self.lines for dot in line.dots), 0.0)

    @property
    def logarithmic(self) -> bool:
        low, high = self.ticks[0][0], self.ticks[-1][0]
        return self.kind != "bars" and low > 0 and high / low >= (2 if self.kind == "cosine" else WIDE)


def charts(table: Table) -> list[Chart]:
    """All charts of a run that are not empty. Numbers that are unfinished or failed are left out."""
    drawn = [*_bars(table), *_budgets(table), *_sweeps(table), *_certified(table)]
    drawn += [*_draws(table), *_cosines(table), *_compressions(table), *_distances(table), *_queries(table)]
    return [chart for chart in drawn if chart.lines]


def _bars(table: Table) -> Iterator[Chart]:
    swept = {name for sweep in table.run.manifest.sweeps for name in sweep.variants}
    rows = [row for row in table.rows if row.name not in swept]
    lines = []
    for at, column in enumerate(table.columns):
        entries = [(place, row, row.entries[at]) for place, row in enumerate(rows)]
        dots = tuple(_dot(place, row.label, entry) for place, row, entry in entries if entry.estimate)
        failed = tuple((float(place), row.label) for place, row, entry in entries if entry.status == "failed")
        if dots and column.name not in swept:
            lines.append(Line(_heading(column), dots, failed=failed))
    yield Chart("bars", "Accuracy by attack", "defense", tuple(lines))


def _dot(x: float, tick: str, entry: Entry) -> Dot:
    assert entry.estimate
    return Dot(x, tick, entry.estimate, entry.remarks, bool(entry.doubts))


def _heading(column: Column) -> str:
    """Label and threat; the threat alone where it begins with the label, as in "Linf 8/255"."""
    if not column.threat:
        return column.label
    return column.threat if column.threat.startswith(f"{column.label} ") else f"{column.label}, {column.threat}"


def _budgets(table: Table) -> Iterator[Chart]:
    """A chart per norm; a line per defense and method, which starts at its clean accuracy."""
    norms: dict[str, list[Line]] = {}
    for row in table.rows:
        found: dict[tuple[str, str], list[Dot]] = {}
        for column, entry in zip(table.columns, row.entries, strict=True):
            if column.kind == "attack" and entry.pairing and entry.estimate:
                norm, _, eps = entry.pairing.facts.threat.partition(" ")
                if (size := _size(eps)) is not None:
                    dots = found.setdefault((norm, entry.pairing.facts.method), [])
                    dots.append(_dot(size, eps, entry))
        several = {key: dots for key, dots in found.items() if len({dot.x for dot in dots}) > 1}
        for (norm, method), dots in several.items():
            twice = sum(other == norm for other, _ in several) > 1
            line = Line(f"{row.label}, {method}" if twice else row.label, _from_clean(row, dots))
            norms.setdefault(norm, []).append(line)
    for norm, lines in norms.items():
        yield Chart("budget", f"Robust accuracy by {norm} budget", f"{norm} budget (0: no attack)", tuple(lines))


def _size(eps: str) -> float | None:
    """The size of a budget; None where it is not a number, as in a threat model of the user's own."""
    try:
        return float(Quantity(eps))
    except ValueError:
        return None


def _from_clean(row: Row, dots: list[Dot]) -> tuple[Dot, ...]:
    clean = row.entries[0].estimate
    start = [Dot(0.0, "0", clean)] if clean and all(dot.x > 0 for dot in dots) else []
    return tuple(start + sorted(dots, key=lambda dot: dot.x))


def _sweeps(table: Table) -> Iterator[Chart]:
    """A chart per sweep; a line per curve and, of several parameters, per value of all but the last."""
    families: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves(table):
        if curve.sweep.kind == "defenses" or curve.sweep.paths not in [(name,) for name in BUDGETS]:
            families.setdefault((curve.sweep.kind, curve.sweep.name), []).append(curve)
    for found in families.values():
        sweep = found[0].sweep
        axis = _axis([values[-1] for values in sweep.variants.values()])
        lines = [line for curve in found for line in _lines(curve, axis)]
        if sweep.kind == "defenses":
            lines += [line for line in _lines(found[0], axis, clean=True)]
        title = sweep_title(table, sweep)
        yield Chart("sweep", f"{title}: accuracy by {sweep.paths[-1]}", sweep.paths[-1], tuple(lines))


def _axis(values: list[Any]) -> dict[str, float]:
    """The position of each value: the value itself if all are numbers, else its place in the list."""
    written = list(dict.fromkeys(spelt(value) for value in values))
    try:
        return {text: float(Quantity(text)) for text in written}
    except ValueError:
        return {text: float(place) for place, text in enumerate(written)}


def _lines(curve: Curve, axis: dict[str, float], clean: bool = False) -> Iterator[Line]:
    still = curve.attack if curve.sweep.kind == "defenses" else curve.defense
    groups: dict[str, list[Dot]] = {}
    for point in curve.points:
        *others, last = point.shown
        pairs = zip(curve.sweep.paths, others, strict=False)
        label = ", ".join(["Clean" if clean else still, *(f"{path} {value}" for path, value in pairs)])
        if (entry := point.clean if clean else point.robust).estimate:
            groups.setdefault(label, []).append(_dot(axis[last], last, entry))
    for label, dots in groups.items():
        yield Line(label, tuple(sorted(dots, key=lambda dot: dot.x)), baseline=clean)


def _queries(table: Table) -> Iterator[Chart]:
    """A chart per attack, with a line per deterministic defense."""
    for at, column in enumerate(table.columns):
        entries = [(row.label, row.entries[at]) for row in table.rows if column.kind == "attack" and not row.stochastic]
        known = [(label, e.pairing.columns) for label, e in entries if e.pairing and e.status == "final"]
        if not any(stops_early(records, table.rule) for _, records in known):
            continue
        most = max(int(records.numbers("forwards").max()) for _, records in known)
        points = [(label, accuracy_by_passes(records, table.rule, most)) for label, records in known]
        lines = [Line(label, tuple(Dot(float(k), _short(k), value) for k, value in found)) for label, found in points]
        title = f"{_heading(column)}: accuracy by forward passes"
        yield Chart("queries", title, "forward passes spent on an image", tuple(lines))


def _short(count: int) -> str:
    """A number for an axis, such as 7.9k."""
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.2g}{unit}" if count < 100 * size else f"{count / size:.0f}{unit}"
    return str(count)


def _certified(table: Table) -> Iterator[Chart]:
    """A chart per certificate, with a line per defense."""
    ticks = [(radius, f"{radius:g}") for radius in radii(table.certified, table.run)]
    for name in dict.fromkeys(known.certificate for known in table.certified):
        lines = [
            Line(known.label, tuple(Dot(radius, text, certified_accuracy(known, radius)) for radius, text in ticks))
            for known in table.certified
            if known.certificate == name
        ]
        yield Chart("certified", f"Certified accuracy by L2 radius ({name})", "radius in L2", tuple(lines))


def _draws(table: Table) -> Iterator[Chart]:
    swept = {name for sweep in table.run.manifest.sweeps for name in sweep.variants}
    rows = [row for row in table.rows if row.stochastic and row.name not in swept]
    for row in rows if table.votes > 1 else ():
        found = [
            (column, entry.pairing.columns)
            for column, entry in zip(table.columns, row.entries, strict=True)
            if column.kind == "attack" and column.name not in swept
            if entry.status == "final" and entry.pairing
        ]
        lines = [_draw_line(column.label, robust_draws(records)) for column, records in found]
        if lines:
            lines.append(_draw_line("Clean", clean_draws(found[0][1]), baseline=True))
        yield Chart("draws", f"{row.label}: right in each of k draws", "k, draws that must all be right", tuple(lines))


def _draw_line(label: str, draws: Draws, baseline: bool = False) -> Line:
    """draws: (n, v)."""
    most, sums = draws.shape[1], draws.sum(axis=1)
    known = ~np.isnan(sums)
    dots = []
    for k in range(1, most + 1):
        chance = np.array([math.comb(right, k) / math.comb(most, k) for right in range(most + 1)])
        chances = np.where(known, chance[np.where(known, sums, 0).astype(int)], np.nan)
        dots.append(Dot(float(k), str(k), accuracy(chances)))
    return Line(label, tuple(dots), baseline)


def _cosines(table: Table) -> Iterator[Chart]:
    lines = []
    for found in diagnostics(table.run).current:
        data = next((each.data for each in found.findings if "cosine" in each.data), None)
        if data:
            count = data["images"] - data["undefined"]
            spans = [(k, value, *data["interval"][k]) for k, value in data["cosine"].items()]
            dots = tuple(Dot(float(k), k, Estimate(value, low, high, count)) for k, value, low, high in spans)
            lines.append(Line(found.label or found.defense, dots))
    title, axis = "Randomness: mean cosine of two gradients", "draws per gradient (EOT)"
    yield Chart("cosine", title, axis, tuple(lines), "cosine", 1.0)


def _compressions(table: Table) -> Iterator[Chart]:
    """A line per defense that purifies, along the gradient; under one draw of its noise."""
    lines = []
    for label, found in compressions(table.run):
        spans = zip(found.shares, found.compression["gradient"], strict=True)
        lines.append(
            Line(label, tuple(Dot(share, f"{share:g}", Estimate(*span, found.images)) for share, span in spans))
        )
    title, axis = "Compression: distance of two images after purification", "size of the perturbation, in units of eps"
    yield Chart("compression", title, axis, tuple(lines), "distance after / before", 1.0)


def _distances(table: Table) -> Iterator[Chart]:
    """A chart per norm, with a line per defense and minimum-norm attack."""
    norms: dict[str, list[Line]] = {}
    for found in distances(table):
        dots = tuple(Dot(radius, f"{radius:.3g}", estimate) for radius, estimate in found.points)
        norms.setdefault(found.norm, []).append(Line(f"{found.defense}, {found.attack}", dots))
    for norm, lines in norms.items():
        yield Chart("distance", f"Accuracy by {norm} distance, from one run", f"eps, {norm}", tuple(lines))
