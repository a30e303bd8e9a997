"""A table for the terminal that wraps between words only.

Where the line is too narrow for the longest words of all columns, each row becomes a few lines: its first cell, and
below it the others behind their headings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from harness.process.column_widths import fit_columns

GAP = 2
"""Spaces between two columns."""

BELOW = 4
"""Spaces before the cells that stand below the first one of their row."""


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
            yield from self._stacked(options.max_width)
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

    def _stacked(self, width: int) -> Iterator[Text]:
        for row in self.rows:
            named = [(column.head, cell) for column, cell in zip(self.columns, row, strict=True) if cell]
            for number, (head, cell) in enumerate(named):
                label = Text(f"{head}: " if head and number else "", style="dim")
                indent = BELOW if number else 0
                for line in _lines(label + cell, width - indent):
                    yield Text(" " * indent, no_wrap=True, overflow="ignore") + line


def _lines(text: Text, width: int) -> Iterator[Text]:
    """A text in lines of this width. A word longer than that has a line of its own, which a terminal does not cut."""
    starts, begun = [], 0
    for word in re.finditer(r"\S+", text.plain):
        if cell_len(text.plain[begun : word.end()]) > width or "\n" in text.plain[begun : word.start()]:
            starts += [word.start()] if word.start() else []
            begun = word.start()
    for line in text.divide(starts):
        line.rstrip()
        yield line


def _widest(parts: Sequence[str]) -> int:
    return max(map(cell_len, parts), default=0)
