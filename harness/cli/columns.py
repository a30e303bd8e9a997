"""A table for the terminal that wraps between words only.

Where the line is too narrow for the longest words of all columns, the first line of a row's first cell, a name, stands
above the row. Where even that leaves too little room, or no column is one of numbers, each row becomes a few lines: its
first cell, and below it the others behind their headings.
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
        if widths := self._widths(self.rows, options.max_width):
            yield self._table(widths, self.rows, heads=any(column.head for column in self.columns))
        elif widths := self._widths([[_below(row[0]), *row[1:]] for row in self.rows], options.max_width):
            yield from self._named_above(widths, options.max_width)
        else:
            yield from self._stacked(options.max_width)

    def _widths(self, rows: Sequence[Sequence[Text]], room: int) -> list[int] | None:
        """The widths of the columns with these rows; None where they do not fit."""
        if rows is not self.rows and not any(column.right for column in self.columns):
            return None
        lines = [[Text(column.head) for column in self.columns], *rows]
        full = [max(_widest(line[at].plain.split("\n")) for line in lines) for at in range(len(self.columns))]
        least = [max(_widest(line[at].plain.split()) for line in lines) for at in range(len(self.columns))]
        return fit_columns(full, least, room - GAP * (len(full) - 1))

    def _table(self, widths: Sequence[int], rows: Sequence[Sequence[Text]], heads: bool) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=heads)
        for column, width in zip(self.columns, widths, strict=True):
            table.add_column(Text(column.head), width=width, justify="right" if column.right else "left")
        for row in rows:
            table.add_row(*row)
        return table

    def _named_above(self, widths: Sequence[int], room: int) -> Iterator[Text | Table]:
        """The table, with the first line of each first cell above its row, if the column is too narrow for it."""
        yield self._table(widths, [], heads=True)
        for row in self.rows:
            if _widest(row[0].plain.split()) <= widths[0]:
                yield self._table(widths, [row], heads=False)
                continue
            for line in _lines(row[0].split("\n")[0], room):
                line.no_wrap, line.overflow = True, "ignore"
                yield line
            yield self._table(widths, [[_below(row[0]), *row[1:]]], heads=False)

    def _stacked(self, width: int) -> Iterator[Text]:
        for row in self.rows:
            named = [(column.head, cell) for column, cell in zip(self.columns, row, strict=True) if cell]
            for number, (head, cell) in enumerate(named):
                label = Text(f"{head}: ".replace("\n", " ") if head and number else "", style="dim")
                indent = BELOW if number else 0
                for line in _lines(label + cell, width - indent):
                    yield Text(" " * indent, no_wrap=True, overflow="ignore") + line


def _below(cell: Text) -> Text:
    """A cell without its first line."""
    return Text("\n").join(cell.split("\n")[1:])


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
