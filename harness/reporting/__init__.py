"""From results on disk to tables.

    find_runs, load      results directories -> `Run`: records by pairing          (load, facts)
    summarise            `Run` -> `Table`: accuracies, intervals, remarks          (table, statistics)
    report               `Table` -> text: terminal, Markdown, LaTeX, CSV, JSON     (layout and a file per format)
                         or a page of HTML with the images                         (html, gallery, charts)
    draw                 `Table` -> plots, in `harness.reporting.render.plots`               (charts)

A report reads and never writes. It believes a shard only if the store does, shows an unfinished number as unfinished,
and never mixes records of two claims.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from rich.console import Group

from harness.errors import UserError, nearest
from harness.reporting.render import csv, json, latex, markdown, terminal
from harness.reporting.render.layout import lay_out
from harness.reporting.tables.table import Table, summarise
from harness.results.load import CellResults, Run, find_runs, read_run

__all__ = ["FORMATS", "CellResults", "Format", "Run", "Table", "find_runs", "report", "summarise"]

Format = Literal["table", "md", "latex", "csv", "json", "html"]
FORMATS: tuple[Format, ...] = get_args(Format)


def report(root: Path, format: Format = "table", images: int | None = None) -> str | Group:
    """All runs at or below `root`, by path, in one format.

    Args:
        images: of each pairing in the HTML page; see `harness.reporting.page.gallery` for what is chosen if not.

    Returns:
        A rich renderable for "table", text that ends in a newline for every other format.

    Raises:
        UserError: there is no run, one cannot be read, or there is no such format.
    """
    if format not in FORMATS:
        raise UserError(f"there is no report format '{format}'", remedy=nearest(format, FORMATS))
    tables = [summarise(read_run(path)) for path in find_runs(root)]
    if format == "csv":
        return csv.render(tables)
    if format == "json":
        return json.render(tables)
    if format == "html":
        from harness.reporting.page import render

        return render.render(tables, images)
    sheets = [lay_out(table) for table in tables]
    if format == "md":
        return markdown.render(sheets)
    if format == "latex":
        return latex.render(sheets)
    return terminal.render(sheets)
