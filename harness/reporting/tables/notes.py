"""The sentences below a table: what its numbers mean, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator

from harness.reporting.stats.accuracy import FEW_ERRORS
from harness.reporting.tables.certified import faults_told
from harness.reporting.tables.entries import Column, has_failed
from harness.reporting.tables.reference import FOLDER
from harness.reporting.tables.table import Table

NOTHING = "–"
DOUBT = "?"
"""Behind a number that is in doubt."""


def one_line(text: str) -> str:
    """Text without line breaks or runs of spaces."""
    return " ".join(text.split())


def notes(table: Table, *, changes: bool) -> Iterator[str]:
    """All notes of a table. changes: whether steps along a sweep are shown."""
    manifest = table.run.manifest
    data = manifest.dataset
    yield f"Accuracy in % on {data.count} images {data.origin}, with 95% Wilson intervals."
    if changes:
        yield (
            "Change: in points, on the same images, with 95% score intervals (Tango); p: exact test of its sign, "
            "McNemar's where each image is right or wrong."
        )
    yield from _references(table)
    yield from _methods(table)
    labels = {column.name: column.label for column in table.columns if column.kind == "attack"}
    for column in table.columns:
        names = _joined([labels.get(name, name) for name in column.members])
        if column.kind == "average":
            yield (
                f"{column.label}: mean over {names}; its interval (Clopper-Pearson, at the effective number of images) "
                "allows for attacks that succeed on the same images."
            )
        elif column.kind == "worst":
            yield f"{column.label}: images that withstand each of {names}."
        elif column.kind == "cr-average":
            yield (
                f"CR-avg, CR-worst: competitiveness ratios (Dai et al., 2023), mean and least of accuracy / best known "
                f"accuracy in % over clean images, {names}; best known: {_best(table)}. An attack that nothing "
                "withstands is left out."
            )
    if any(entry.doubts for row in table.rows for entry in row.entries):
        yield f"{DOUBT}: in doubt, for the reason in its footnote: robust accuracy may be lower than that."
    yield from (f"{fault}." for found in table.certified if (fault := faults_told(found)))
    yield from _unfinished(table)
    yield from _failed(table)
    votes = f", {table.votes} votes on stochastic defenses" if any(row.stochastic for row in table.rows) else ""
    changed = f" with {' and '.join(map(one_line, manifest.settings))}" if manifest.settings else ""
    yield f"Suite {manifest.suite}{changed}, seed {manifest.protocol.seed}{votes}, harness {manifest.harness}."
    if manifest.edited:
        yield "run.json was tampered with: do not rely on these numbers unless `harness verify` confirms them."


def _best(table: Table) -> str:
    given = table.run.manifest.report.competitiveness or {}
    told = ", ".join(f"{one_line(name)} {value:g}" for name, value in given.items())
    return f"{told}, else the highest here" if told else "the highest here"


def _references(table: Table) -> Iterator[str]:
    name = table.run.manifest.report.reference
    sources = dict.fromkeys(e.published.source for row in table.rows for e in row.entries if e.published)
    if sources:
        yield f"pub.: the published number ({name}: {'; '.join(sources)}), and ours minus it in points."
    elif name:
        yield f"The published numbers '{name}' are missing: there is no {FOLDER / name}.csv."


def _methods(table: Table) -> Iterator[str]:
    groups: dict[str, list[Column]] = {}
    for column in table.columns:
        if column.method:
            groups.setdefault(column.method, []).append(column)
    for method, columns in groups.items():
        pairs = (
            (column, p) for column in columns for p in table.run.pairings.values() if p.facts.attack == column.name
        )
        exceptions = (
            "" if all(column.usual(pairing) for column, pairing in pairs) else ", unless a footnote says otherwise"
        )
        yield one_line(f"{_joined([column.label for column in columns])}: {method}{exceptions}.")


def _joined(labels: list[str]) -> str:
    return ("; " if any("," in label for label in labels) else ", ").join(labels)


def _unfinished(table: Table) -> Iterator[str]:
    missing = sum(not pairing.finished for pairing in table.run.cells.values())
    if missing:
        shown = f"shown as images done / all, or {NOTHING} for none"
        yield f"Unfinished: {missing} of {len(table.run.cells)} pairings ({shown}); run the suite again."


def _failed(table: Table) -> Iterator[str]:
    count = sum(has_failed(pairing) for pairing in table.run.pairings.values())
    if count:
        yield (
            f"Failed: {count} of {len(table.run.pairings)} pairings, where more than {FEW_ERRORS:.0%} of the images "
            "ended in errors. They and the averages and worst cases over them have no number; run the suite again to "
            "retry them."
        )
