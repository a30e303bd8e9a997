"""Tables as CSV, with a line per number; see `harness.reporting.tables.lines`."""

from __future__ import annotations

import csv
import io
from dataclasses import fields
from typing import Any

from harness.reporting.tables.lines import Line, lines
from harness.reporting.tables.table import Table

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""The first characters of a cell that a spreadsheet takes for a formula."""


def render(tables: list[Table], images: int | None = None) -> str:
    """CSV with a header. A float is written so that it reads back as the same float.

    Text that a spreadsheet would take for a formula gets an apostrophe before it, as in spreadsheets.
    """
    sink = io.StringIO()
    writer = csv.DictWriter(sink, [field.name for field in fields(Line)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_harmless(vars(line)) for table in tables for line in lines(table))
    return sink.getvalue()


def _harmless(line: dict[str, Any]) -> dict[str, Any]:
    return {
        name: f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
        for name, value in line.items()
    }
