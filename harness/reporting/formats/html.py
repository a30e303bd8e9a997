"""One HTML page with tables, curves and images; see `harness.reporting.page`."""

from __future__ import annotations

from pathlib import Path

from harness.reporting.page import render as page
from harness.reporting.tables.table import Table

BESIDE = "report.html"
LINKS = True


def render(tables: list[Table], images: int | None = None, folder: Path | None = None) -> str:
    """The page.

    Args:
        images: how many of each pairing; left out, `harness.reporting.page.gallery` chooses.
        folder: where the page will lie, so that it can link the records below it.
    """
    return page.render(tables, images, folder=folder)
