"""Tables in GitHub's Markdown."""

from __future__ import annotations

from harness.reporting.render import markdown
from harness.reporting.render.layout import lay_out
from harness.reporting.tables.table import Table


def render(tables: list[Table], images: int | None = None) -> str:
    """All tables, one after the other."""
    return markdown.render([lay_out(table) for table in tables])
