"""One HTML page with tables, curves and images; see `harness.reporting.page`."""

from __future__ import annotations

from harness.reporting.page import render as page
from harness.reporting.tables.table import Table

BESIDE = "report.html"


def render(tables: list[Table], images: int | None = None) -> str:
    """The page. images: how many of each pairing; left out, `harness.reporting.page.gallery` chooses."""
    return page.render(tables, images)
