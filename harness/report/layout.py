"""What all readable formats share: a table as plain strings, its footnotes lettered, its notes written.

The renderers add nothing but escapes and typesetting.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.report.statistics import RULES, Estimate
from harness.report.table import Column, Entry, Row, Table, rule_name, usual

NOTHING = "–"
MANY_IMAGES = 100
"""From here on, percentages have two decimals, as in the papers."""


@dataclass(frozen=True)
class Shown:
    """A text of the table. detail: small print beside or under it. marks: letters of footnotes, such as "a,b"."""

    text: str
    detail: str = ""
    marks: str = ""


@dataclass(frozen=True)
class Grid:
    """Lines of equal length. labels: how many columns on the left are text; the others are numbers."""

    head: list[Shown]
    lines: list[list[Shown]]
    labels: int = 1


@dataclass(frozen=True)
class Sheet:
    """A run's table, ready to be typeset.

    Attributes:
        name: the suite's.
        draws: stochastic defenses under every rule over draws; None where there is nothing to compare.
        footnotes: mark and text.
        notes: sentences.
    """

    name: str
    title: str
    main: Grid
    draws: Grid | None
    footnotes: list[tuple[str, str]]
    notes: list[str]


def lay_out(table: Table) -> Sheet:
    """The texts of a table."""
    footnotes = _Footnotes()
    head = [Shown("Defense"), *(Shown(_line(c.label), _line(c.threat or "")) for c in table.columns)]
    lines = [
        [_label(row, table, footnotes), *(_entry(entry, footnotes) for entry in row.entries)] for row in table.rows
    ]
    manifest = table.run.manifest
    return Sheet(
        manifest.suite,
        _line(manifest.title or manifest.suite),
        Grid(head, lines),
        _draws(table),
        [(mark, text) for text, mark in footnotes.letters.items()],
        list(_notes(table)),
    )


class _Footnotes:
    """Letters by text, in order of appearance; equal texts share one."""

    def __init__(self) -> None:
        self.letters: dict[str, str] = {}

    def marks(self, remarks: Sequence[str]) -> str:
        return ",".join(self.letters.setdefault(_line(text), _letter(len(self.letters))) for text in remarks)


def _letter(number: int) -> str:
    """a .. z, aa, ab .."""
    lengths = (itertools.product(string.ascii_lowercase, repeat=length) for length in itertools.count(1))
    return "".join(next(itertools.islice(itertools.chain.from_iterable(lengths), number, None)))


def _label(row: Row, table: Table, footnotes: _Footnotes) -> Shown:
    stochastic = (f"stochastic: {rule_name(table.rule, table.votes)}",) if row.stochastic else ()
    return Shown(_line(row.label), marks=footnotes.marks((*stochastic, *row.remarks)))


def _entry(entry: Entry, footnotes: _Footnotes) -> Shown:
    if entry.estimate:
        return _accuracy(entry.estimate, footnotes.marks(entry.remarks))
    text = f"{entry.done}/{entry.total}" if entry.done else NOTHING
    return Shown(text, marks=footnotes.marks(entry.remarks))


def _accuracy(estimate: Estimate, marks: str = "") -> Shown:
    digits = 2 if estimate.n >= MANY_IMAGES else 1
    low, high = (f"{100 * bound:.1f}" for bound in (estimate.low, estimate.high))
    return Shown(f"{100 * estimate.value:.{digits}f}", f"{low}–{'100' if high == '100.0' else high}", marks)


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
    robust = [_accuracy(entry.estimate) for entry in entries if entry.estimate]
    benign = [_accuracy(entry.benign) for entry in entries if entry.benign]
    yield [Shown(_line(row.label)), Shown(_line(column.label)), Shown("robust"), *robust]
    yield [Shown(""), Shown(""), Shown("benign"), *benign]


def _notes(table: Table) -> Iterator[str]:
    manifest = table.run.manifest
    data = manifest.dataset
    yield f"Accuracy in % on {data.count} images of {data.name} ({data.split}), with 95% Wilson intervals."
    yield from _methods(table)
    labels = {column.name: column.label for column in table.columns if column.kind == "attack"}
    for column in table.columns:
        names = ", ".join(labels.get(name, name) for name in column.members)
        if column.kind == "average":
            yield f"{column.label}: mean over {names}; its interval allows for attacks that fool the same images."
        elif column.kind == "worst":
            yield f"{column.label}: images that withstand each of {names}."
    yield from _unfinished(table)
    votes = f", {table.votes} votes on stochastic defenses" if any(row.stochastic for row in table.rows) else ""
    yield f"Suite {manifest.suite}, seed {manifest.protocol.seed}{votes}, harness {manifest.harness}."


def _methods(table: Table) -> Iterator[str]:
    groups: dict[str, list[Column]] = {}
    for column in table.columns:
        if column.method:
            groups.setdefault(column.method, []).append(column)
    for method, columns in groups.items():
        pairs = (
            (column, p) for column in columns for p in table.run.pairings.values() if p.facts.attack == column.name
        )
        exceptions = "" if all(usual(*pair) for pair in pairs) else ", unless a footnote says otherwise"
        yield _line(f"{', '.join(column.label for column in columns)}: {method}{exceptions}.")


def _unfinished(table: Table) -> Iterator[str]:
    missing = sum(not pairing.finished for pairing in table.run.pairings.values())
    if missing:
        shown = f"shown as images done / all, or {NOTHING} for none"
        yield f"Unfinished: {missing} of {len(table.run.pairings)} pairings ({shown}); run the suite again."


def _line(text: str) -> str:
    return " ".join(text.split())
