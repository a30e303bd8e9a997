"""SARIF 2.1.0, which code hosts show beside a change: what is wrong with the runs, and with which numbers.

Results that are as they should be are not listed. The place of a result is the run's `run.json`, and the pairing in it.

Source: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from harness import __version__
from harness.process.visible_text import visible
from harness.reporting.tables.entries import Entry
from harness.reporting.tables.requirement import Judgement
from harness.reporting.tables.table import Table
from harness.results.store import MANIFEST

JUDGES = True

RULES = {
    "below-requirement": ("error", "A number is below what --fail-under requires, is in doubt, or is not there."),
    "failed-pairing": ("error", "Too many images of a pairing ended in errors, so that it has no number."),
    "unfinished-pairing": ("warning", "A pairing is not finished, so that it has no number."),
    "number-in-doubt": ("warning", "A robust accuracy may be too high: something says that the attack was too weak."),
    "remark": ("note", "A reader of the numbers should know this."),
}
"""By name, the level of a rule's results, and what it says."""


def render(tables: list[Table], images: int | None = None, judgements: Sequence[Judgement] = ()) -> str:
    """JSON, indented."""
    rules = [
        {"id": name, "shortDescription": {"text": text}, "defaultConfiguration": {"level": level}}
        for name, (level, text) in RULES.items()
    ]
    found = [result for table in tables for result in (*_judged(table, judgements), *_numbers(table))]
    run = {
        "tool": {"driver": {"name": "adversarial-harness", "version": __version__, "rules": rules}},
        "results": found,
    }
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _judged(table: Table, judgements: Sequence[Judgement]) -> Iterator[dict[str, Any]]:
    for judgement in judgements:
        if judgement.table is table and not judgement.met:
            yield _result(table, "below-requirement", judgement.requirement.name, judgement.text)


def _numbers(table: Table) -> Iterator[dict[str, Any]]:
    for row in table.rows:
        for remark in row.remarks:
            yield _result(table, "remark", row.name, f"{row.name}: {remark}.")
        for entry in row.entries:
            if entry.pairing:
                for rule, text in _remarks(entry):
                    yield _result(table, rule, entry.pairing.facts.name, f"{entry.pairing.facts.name}: {text}.")


def _remarks(entry: Entry) -> Iterator[tuple[str, str]]:
    if entry.status == "unfinished":
        yield "unfinished-pairing", f"{entry.done} of {entry.total} images are done"
    if entry.status == "failed":
        yield "failed-pairing", "; ".join(entry.remarks)
        return
    for remark in entry.remarks:
        yield "number-in-doubt" if remark in entry.doubts else "remark", remark


def _result(table: Table, rule: str, name: str, text: str) -> dict[str, Any]:
    place = quote((table.run.path / MANIFEST).as_posix())
    physical = {"artifactLocation": {"uri": place}, "region": {"startLine": 1}}
    logical = {"fullyQualifiedName": f"{table.run.manifest.suite}/{name}"}
    return {
        "ruleId": rule,
        "level": RULES[rule][0],
        "message": {"text": visible(text)},
        "locations": [{"physicalLocation": physical, "logicalLocations": [logical]}],
    }
