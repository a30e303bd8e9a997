"""A table for the terminal that wraps between words only.

Where the line is too narrow for the longest words of all columns, each row becomes a few lines: its first cell, and
below it the others behind their headings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.process.column_widths import fit_columns

GAP = 2
"""Spaces between two columns."""


@dataclass(frozen=True)
class Column:
    """A heading. right: whether its cells end at the same place, as numbers do."""

    head: str
    right: bool = False


class Columns:
    """A table.

    Args:
        heads: the columns; a text is the heading of a column of text. Those of a table without headings are empty.
        rows: cells by column; a text is taken as it is, without markup.
        title: a line above it.
    """

    def __init__(
        self, heads: Sequence[str | Column], rows: Iterable[Sequence[str | Text]], title: str | Text = ""
    ) -> None:
        self.columns = [head if isinstance(head, Column) else Column(head) for head in heads]
        self.rows = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
        self.title = title if isinstance(title, Text) else Text(title, style="italic")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield self.title
        lines = [[Text(column.head) for column in self.columns], *self.rows]
        full = [max(_widest(line[at].plain.split("\n")) for line in lines) for at in range(len(self.columns))]
        least = [max(_widest(line[at].plain.split()) for line in lines) for at in range(len(self.columns))]
        widths = fit_columns(full, least, options.max_width - GAP * (len(full) - 1))
        if widths is None:
            yield from self._stacked()
        else:
            yield self._table(widths)

    def _table(self, widths: Sequence[int]) -> Table:
        heads = any(column.head for column in self.columns)
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=heads)
        for column, width in zip(self.columns, widths, strict=True):
            table.add_column(Text(column.head), width=width, justify="right" if column.right else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def _stacked(self) -> Iterator[RenderableType]:
        for row in self.rows:
            named = [(column.head, cell) for column, cell in zip(self.columns, row, strict=True) if cell]
            for number, (head, cell) in enumerate(named):
                cell.overflow = "ignore"  # a word longer than the line is left to the terminal, which does not cut it
                if not number:
                    yield cell
                    continue
                below = Text(overflow="ignore").append(f"{head}: " if head else "", style="dim").append_text(cell)
                yield Padding(below, (0, 0, 0, 4))


def _widest(parts: Sequence[str]) -> int:
    return max(map(cell_len, parts), default=0)
