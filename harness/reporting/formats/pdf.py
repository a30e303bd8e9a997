"""Plots of the charts, one .pdf file for each; see `harness.reporting.render.plots`."""

from __future__ import annotations

from harness.reporting.render.plots import plots
from harness.reporting.tables.table import Table

BESIDE = "plots"


def render(tables: list[Table], images: int | None = None) -> dict[str, bytes]:
    """The files by name. Raises UserError if no number is finished."""
    return plots(tables, "pdf")
