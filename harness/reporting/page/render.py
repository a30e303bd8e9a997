"""Tables, curves and images as one HTML file that needs no network.

The file holds its style, its script, and every picture as a data URI; its content policy forbids anything else. The
template escapes all text. Everything but the explorer of images can be read without the script.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from harness.process.visible_text import all_visible
from harness.reporting.page.gallery import gallery
from harness.reporting.page.matrix import matrices
from harness.reporting.page.svg import drawing
from harness.reporting.render.layout import lay_out
from harness.reporting.render.sheet import FAILED, Block, Grid, Shown
from harness.reporting.tables.certified import faults_told
from harness.reporting.tables.charts import charts
from harness.reporting.tables.comparison import contrast
from harness.reporting.tables.table import Table, rule_name

MANY_COLUMNS = 7
"""From this number of columns of numbers on, a table is set closely, so that it fits a page of 1,200 pixels."""

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)


def render(tables: list[Table], images: int | None = None, home: str | None = None, folder: Path | None = None) -> str:
    """The page.

    Args:
        images: how many images of each pairing the explorer shows; left out, `harness.reporting.page.gallery` chooses.
        home: the address of the index page of a site that this page is a part of.
        folder: where the page will lie. Records of runs in it or below it are linked.
    """
    galleries = [gallery(table.run, images, folder) for table in tables]
    sections = [_section(number, table) for number, table in enumerate(tables)]
    page = template("template.html").render(
        policy=POLICY,
        style=read_asset("style.css"),
        script=read_asset("sort.js") + "\n" + read_asset("script.js"),
        sections=sections,
        galleries=galleries,
        home=home,
    )
    return page.rstrip() + "\n"


@cache
def template(name: str) -> jinja2.Template:
    """A template of this package, which escapes all text."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(read_asset(name))


def read_asset(name: str) -> str:
    """A style sheet, script or template of this package."""
    return (resources.files("harness.reporting.page") / name).read_text(encoding="utf-8")


def _section(number: int, table: Table) -> dict[str, Any]:
    sheet, manifest, drawn = lay_out(table), table.run.manifest, charts(table)
    blocks, footnotes = [Block(Shown("Results"), sheet.main)] if sheet.main else [], dict(sheet.footnotes)
    return {
        "id": f"run{number}",
        "number": number,
        "sheet": sheet,
        "facts": _summary(table),
        "warnings": list(_warnings(table)),
        "blocks": [
            {"title": block.title, "grid": _cells(block.grid, footnotes), "remark": block.remark, "long": block.long}
            for block in (*blocks, *sheet.sweeps)
        ],
        "draws": _cells(sheet.draws, footnotes, bars=False) if sheet.draws else None,
        "drawings": [drawing(chart) for chart in drawn if chart.kind not in ("bars", "queries")],
        "queries": [drawing(chart) for chart in drawn if chart.kind == "queries"],
        "rule": rule_name(table.rule, table.votes),
        "matrices": matrices(contrast(table.run).matches, manifest),
        "metadata": _metadata(manifest.document()),
    }


def _summary(table: Table) -> list[tuple[str, str]]:
    manifest = table.run.manifest
    facts = [
        (str(len(manifest.defenses)), "defense" if len(manifest.defenses) == 1 else "defenses"),
        (str(len(manifest.attacks)), "attack" if len(manifest.attacks) == 1 else "attacks"),
        (f"{manifest.dataset.count:,}", f"images {manifest.dataset.origin}"),
    ]
    if manifest.sessions and (started := manifest.sessions[-1].started):
        facts.append((started[:10], f"harness {manifest.harness}"))
    return facts


def _warnings(table: Table) -> Iterator[tuple[str, str]]:
    """The warnings that must not be missed: misleading naive evaluations, and faults of certificates."""
    labels = {name: facts.label or name for name, facts in table.run.manifest.attacks.items()}
    for row in table.rows:
        for comparison in row.naive:
            if comparison.misleading:
                yield row.label, comparison.describe(labels)
    yield from ((found.label, fault) for found in table.certified if (fault := faults_told(found)))


def _cells(grid: Grid, footnotes: Mapping[str, str], bars: bool = True) -> dict[str, Any]:
    """A grid as data for the template. bars: whether intervals are drawn as well as written."""
    return {
        "bars": bars,
        "labels": grid.labels,
        "dense": len(grid.head) - grid.labels >= MANY_COLUMNS,
        "head": grid.head,
        "sortable": len(grid.lines) > 1 and all(line[0].text for line in grid.lines),
        "groups": [
            (heading, [[_cell(shown, footnotes) for shown in line] for line in lines]) for heading, lines in grid.groups
        ],
    }


def _cell(shown: Shown, footnotes: Mapping[str, str]) -> dict[str, Any]:
    """A cell of a table. sort: the value to sort by, a number where there is one; reason: why there is no number."""
    estimate, failed = shown.estimate, shown.text == FAILED
    sort = estimate.value if estimate else shown.text
    reason = "; ".join(footnotes[mark] for mark in shown.marks.split(",") if mark in footnotes) if failed else ""
    return {"shown": shown, "sort": sort, "estimate": estimate, "failed": failed, "reason": reason}


def _metadata(raw: dict[str, Any]) -> list[tuple[str, str]]:
    """The manifest in chapters, without the list of image indices."""
    dataset = {key: value for key, value in raw["dataset"].items() if key != "indices"}
    chapters = {"dataset": dataset, **{key: raw.get(key) for key in ("protocol", "resolved", "cells", "sessions")}}
    texts = {name: json.dumps(all_visible(content), indent=1, ensure_ascii=False) for name, content in chapters.items()}
    return [(name, text) for name, text in texts.items() if chapters[name]]
