"""The basis of all readable formats: a table as plain strings, with lettered footnotes and notes in sentences.

The renderers add escapes and typesetting only.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness.reporting.render.certified_layout import by_image, by_radius
from harness.reporting.render.sheet import FAILED, Block, Grid, Sheet, Shown, accuracy_shown
from harness.reporting.tables.curves import Curve, Point, curves, sweep_title
from harness.reporting.tables.diagnostics import answer, compressions, diagnostics, view
from harness.reporting.tables.distances import distances
from harness.reporting.tables.entries import Column, Entry
from harness.reporting.tables.notes import NOTHING, notes, one_line
from harness.reporting.tables.table import Row, Table, rule_name
from harness.reporting.tables.verdict import signed
from harness.results.facts import SweepFacts
from harness.results.record import RULES
from harness.suite.names import spelt


def lay_out(table: Table) -> Sheet:
    """The texts of a table."""
    footnotes = Footnotes()
    main, sweeps = _main(table, footnotes), list(_blocks(table, footnotes))
    diagnosed = list(_diagnosed(table, footnotes))
    manifest = table.run.manifest
    return Sheet(
        manifest.suite,
        one_line(manifest.title or manifest.suite),
        main,
        _draws(table),
        [(mark, text) for text, mark in footnotes.letters.items()],
        list(notes(table, changes=any(_has_changes(block) for block in sweeps))),
        [*sweeps, *_distances(table), *by_radius(table), *by_image(table), *diagnosed],
    )


class Footnotes:
    """Letters by text, in order of appearance; equal texts share one."""

    def __init__(self) -> None:
        self.letters: dict[str, str] = {}

    def marks(self, remarks: Sequence[str]) -> str:
        return ",".join(self.letters.setdefault(one_line(text), _letter(len(self.letters))) for text in remarks)


def _letter(number: int) -> str:
    """a .. z, aa, ab .."""
    lengths = (itertools.product(string.ascii_lowercase, repeat=length) for length in itertools.count(1))
    return "".join(next(itertools.islice(itertools.chain.from_iterable(lengths), number, None)))


def _main(table: Table, footnotes: Footnotes) -> Grid | None:
    """Rows and columns that are not swept."""
    sweeps = table.run.manifest.sweeps
    defenses, attacks = (
        {name for sweep in sweeps if sweep.kind == kind for name in sweep.variants} for kind in ("defenses", "attacks")
    )
    rows, headings = _grouped([row for row in table.rows if row.name not in defenses], table)
    kept = [at for at, column in enumerate(table.columns) if column.kind != "attack" or column.name not in attacks]
    if sweeps and (not rows or len(kept) == 1):
        return None
    lines = [[_label(row, row.label, table, footnotes), *_entries(row, kept, footnotes)] for row in rows]
    return Grid([Shown("Defense"), *_heads(table, kept)], lines, headings=headings)


def _grouped(rows: Sequence[Row], table: Table) -> tuple[list[Row], dict[int, str]]:
    """The rows group by group, those without a group first, and the headings by the number of a group's first row."""
    groups = table.run.manifest.report.groups
    group = {name: title for title, names in groups.items() for name in names}
    ordered = [row for row in rows if row.name not in group]
    headings = {}
    for title, names in groups.items():
        members = sorted((row for row in rows if row.name in names), key=lambda row: names.index(row.name))
        if members:
            headings[len(ordered)] = one_line(title)
            ordered += members
    return ordered, headings


def _blocks(table: Table, footnotes: Footnotes) -> Iterator[Block]:
    every = list(curves(table))
    for sweep in table.run.manifest.sweeps:
        if sweep.kind == "defenses":
            yield from _variants(table, sweep, footnotes)
        else:
            yield from (_curve(curve, table, footnotes) for curve in every if curve.sweep is sweep)


def _variants(table: Table, sweep: SweepFacts, footnotes: Footnotes) -> Iterator[Block]:
    """A swept defense, under all attacks that it meets."""
    rows = [row for row in table.rows if row.name in sweep.variants]
    kept = [at for at in range(len(table.columns)) if any(row.entries[at].status != "absent" for row in rows)]
    lines = []
    for row in rows:
        first, *others = map(spelt, sweep.variants[row.name])
        labels = [_label(row, first, table, footnotes), *(Shown(one_line(value)) for value in others)]
        lines.append([*labels, *_entries(row, kept, footnotes)])
    if rows:
        heads = [*(Shown(one_line(path)) for path in sweep.paths), *_heads(table, kept)]
        yield Block(
            Shown(one_line(f"{sweep_title(table, sweep)}, by {' and '.join(sweep.paths)}")),
            Grid(heads, lines, len(sweep.paths)),
        )


def _curve(curve: Curve, table: Table, footnotes: Footnotes) -> Block:
    """One defense under a swept attack."""
    paths, first = curve.sweep.paths, curve.points[0]
    threats = {point.column.threat or "" for point in curve.points}
    heads = [*map(Shown, map(one_line, paths)), Shown("Clean"), Shown("Robust", one_line(threats.pop()))]
    if threats:
        heads[-1] = Shown("Robust")
    changes = any(point.change for point in curve.points)
    heads += [Shown("Change"), Shown("p")] if changes else []
    lines = [_point(point, footnotes, changes) for point in curve.points]
    title = f"{curve.defense} under {curve.attack}, by {' and '.join(paths)}"
    remark = curve.verdict.text if curve.verdict else ""
    return Block(_label(first.row, title, table, footnotes), Grid(heads, lines, len(paths)), remark)


def _point(point: Point, footnotes: Footnotes, changes: bool) -> list[Shown]:
    line = [Shown(one_line(spelt(value))) for value in point.values]
    line += [_entry(point.clean, footnotes), _entry(point.robust, footnotes)]
    if not changes:
        return line
    if point.change is None:
        return [*line, Shown(""), Shown("")]
    step = point.change
    interval = f"{signed(step.low)} to {signed(step.high)}"
    return [*line, Shown(signed(step.value), interval), Shown("<0.001" if step.p < 0.001 else f"{step.p:.3f}")]


def _diagnosed(table: Table, footnotes: Footnotes) -> Iterator[Block]:
    known = diagnostics(table.run)
    head = [
        Shown("Check"),
        *(Shown(one_line(each.label or each.defense), one_line(view(each))) for each in known.current),
    ]
    lines = [[Shown(name)] for name in known.checks]
    for line in lines:
        for status, remarks in (answer(each, line[0].text) for each in known.current):
            line.append(Shown(status, marks=footnotes.marks(remarks)))
    if known.remark:
        yield Block(Shown("Gradient diagnostics"), Grid(head, lines), one_line(known.remark))
    yield from _compressed(table)


def _distances(table: Table) -> Iterator[Block]:
    """A grid per norm and eps: accuracy by distance, from one run of each minimum-norm attack."""
    grids: dict[tuple[str, tuple[float, ...]], list[list[Shown]]] = {}
    for found in distances(table):
        shown = [accuracy_shown(estimate) for _, estimate in found.points]
        at = found.norm, tuple(radius for radius, _ in found.points)
        grids.setdefault(at, []).append([Shown(one_line(found.defense)), Shown(one_line(found.attack)), *shown])
    for (norm, radii), lines in grids.items():
        head = [Shown("Defense"), Shown("Attack"), *(Shown(f"{radius:.3g}") for radius in radii)]
        remark = "Images with no misclassified image within the distance, among those that one run of the attack found."
        yield Block(Shown(f"Accuracy by {norm} distance"), Grid(head, lines, 2), remark)


def _compressed(table: Table) -> Iterator[Block]:
    head = [
        Shown("Defense"),
        *(Shown(text, "one draw") for text in ("Random", "Gradient")),
        Shown("Random", "two draws"),
    ]
    lines = []
    for label, found in compressions(table.run):
        spans = [found.compression.get(name, ())[-1:] for name in ("random", "gradient", "other_noise")]
        shown = [Shown(f"{s[0][0]:.3g}", f"{s[0][1]:.2f}–{s[0][2]:.2f}") if s else Shown(NOTHING) for s in spans]
        lines.append([Shown(one_line(label)), *shown])
    if lines:
        remark = (
            "The L2 distance of two purified images, divided by that of the images, which are an eps apart along a "
            "random direction or along the gradient; under one draw of the noise for both, or a draw for each."
        )
        yield Block(Shown("Compression by purification"), Grid(head, lines), remark)


def _heads(table: Table, kept: Sequence[int]) -> list[Shown]:
    columns = [table.columns[at] for at in kept]
    return [Shown(one_line(column.label), one_line(column.threat or "")) for column in columns]


def _entries(row: Row, kept: Sequence[int], footnotes: Footnotes) -> list[Shown]:
    return [_entry(row.entries[at], footnotes) for at in kept]


def _label(row: Row, text: str, table: Table, footnotes: Footnotes) -> Shown:
    stochastic = (f"stochastic: {rule_name(table.rule, table.votes)}",) if row.stochastic else ()
    return Shown(one_line(text), marks=footnotes.marks((*stochastic, *row.remarks)))


def _entry(entry: Entry, footnotes: Footnotes) -> Shown:
    return entry_shown(entry, footnotes.marks(entry.remarks))


def entry_shown(entry: Entry, marks: str = "") -> Shown:
    """The texts of one entry. marks: letters of its footnotes."""
    pair = (entry.pairing.facts.defense, entry.pairing.facts.attack) if entry.pairing else None
    if entry.estimate:
        return replace(
            accuracy_shown(entry.estimate, marks, bool(entry.doubts)), images=pair, published=_published(entry)
        )
    if entry.status == "failed":
        return Shown(FAILED, marks=marks, images=pair, published=_published(entry))
    text = f"{entry.done}/{entry.total}" if entry.done else NOTHING
    return Shown(text, marks=marks, published=_published(entry))


def _published(entry: Entry) -> str:
    if entry.published is None:
        return ""
    difference = f", {signed(entry.estimate.value - entry.published.value)}" if entry.estimate else ""
    return f"pub. {entry.published.text}{difference}"


def _draws(table: Table) -> Grid | None:
    """Robust accuracy, and that of the same images before the attack, under every rule."""
    if table.votes == 1:
        return None
    head = [Shown("Defense"), Shown("Attack"), Shown("")]
    head += [Shown(rule_name(rule, table.votes).removesuffix(" draws").capitalize()) for rule in RULES]
    lines = [
        line for row in table.rows for at, column in enumerate(table.columns) for line in _draw_lines(row, column, at)
    ]
    return Grid(head, lines, labels=3) if lines else None


def _draw_lines(row: Row, column: Column, at: int) -> Iterator[list[Shown]]:
    if not row.stochastic or column.kind not in ("attack", "worst") or row.entries[at].status != "final":
        return
    entries = [row.by_rule[rule][at] for rule in RULES]
    robust = [accuracy_shown(entry.estimate, doubted=bool(entry.doubts)) for entry in entries if entry.estimate]
    benign = [accuracy_shown(entry.benign) if entry.benign else Shown(NOTHING) for entry in entries]
    yield [Shown(one_line(row.label)), Shown(one_line(column.label)), Shown("robust"), *robust]
    yield [Shown(""), Shown(""), Shown("benign"), *benign]


def _has_changes(block: Block) -> bool:
    return any(head.text == "Change" for head in block.grid.head)
