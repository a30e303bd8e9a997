"""JUnit's XML for continuous integration: a test suite for each run.

A pairing is a test case that fails if it failed, and is skipped if it is unfinished. A requirement of `--fail-under` is
a test case that fails if it is not met.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.etree import ElementTree as xml

from harness.process.visible_text import visible
from harness.reporting.tables.entries import Entry
from harness.reporting.tables.requirement import Judgement
from harness.reporting.tables.table import Table

JUDGES = True

Outcome = tuple[str, str] | None
"""The element inside a test case, and its message; None for a test that passes."""


def render(tables: list[Table], images: int | None = None, judgements: Sequence[Judgement] = ()) -> str:
    """XML with a declaration."""
    root = xml.Element("testsuites", name="harness report")
    for table in tables:
        suite = table.run.manifest.suite
        cases = [*_pairings(table), *_requirements(table, judgements)]
        counts = {kind: sum(outcome is not None and outcome[0] == kind for *_, outcome in cases) for kind in KINDS}
        node = xml.SubElement(root, "testsuite", name=visible(suite), tests=str(len(cases)))
        node.attrib |= {attribute: str(counts[kind]) for kind, attribute in KINDS.items()}
        properties = xml.SubElement(node, "properties")
        for key, value in {"run": str(table.run.path), "title": table.run.manifest.title or ""}.items():
            xml.SubElement(properties, "property", name=key, value=visible(value))
        for group, name, text, outcome in cases:
            case = xml.SubElement(node, "testcase", classname=visible(f"{suite}.{group}"), name=visible(name))
            if outcome:
                xml.SubElement(case, outcome[0], message=visible(outcome[1]))
            if text:
                xml.SubElement(case, "system-out").text = visible(text)
    xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + xml.tostring(root, encoding="unicode") + "\n"


KINDS = {"failure": "failures", "error": "errors", "skipped": "skipped"}
"""The elements for tests that did not pass, and the attributes that count them."""


def _pairings(table: Table) -> Iterator[tuple[str, str, str, Outcome]]:
    for row in table.rows:
        for entry in row.entries:
            if entry.pairing:
                text = "\n".join([told, *row.remarks]) if (told := _told(entry)) else ""
                yield "pairing", entry.pairing.facts.name, text, _outcome(entry)


def _outcome(entry: Entry) -> Outcome:
    if entry.status == "unfinished":
        return "skipped", f"{entry.done} of {entry.total} images are done"
    if entry.status == "failed":
        return "error", "; ".join(entry.remarks)
    return None


def _told(entry: Entry) -> str:
    if entry.estimate is None:
        return ""
    value, low, high = (100 * share for share in (entry.estimate.value, entry.estimate.low, entry.estimate.high))
    doubt = "".join(f"\nin doubt: {doubt}" for doubt in entry.doubts)
    return f"robust accuracy {value:.1f}% (95% interval {low:.1f} to {high:.1f}%, {entry.estimate.n} images){doubt}"


def _requirements(table: Table, judgements: Sequence[Judgement]) -> Iterator[tuple[str, str, str, Outcome]]:
    for judgement in judgements:
        if judgement.table is table:
            name = f"{judgement.requirement.name} at least {judgement.requirement.percent:g}%"
            text = judgement.text if judgement.met else ""
            yield "fail-under", name, text, None if judgement.met else ("failure", judgement.text)
