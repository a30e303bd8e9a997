"""Plots of the charts, a .pdf file each; see `harness.reporting.render.plots`."""

from __future__ import annotations

from harness.reporting.render.plots import plots
from harness.reporting.tables.table import Table

BESIDE = "plots"


def render(tables: list[Table], images: int | None = None) -> dict[str, bytes]:
    """The files by name. Raises UserError where there is nothing finished to plot."""
    return plots(tables, "pdf")
