"""Tables for the terminal, as `rich` renders them."""

from __future__ import annotations

from rich.console import Group

from harness.reporting.render import terminal
from harness.reporting.render.layout import lay_out
from harness.reporting.tables.table import Table


def render(tables: list[Table], images: int | None = None) -> Group:
    """All tables, one after the other."""
    return terminal.render([lay_out(table) for table in tables])
