"""A table for the terminal: values above their intervals, footnotes below."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from harness.process.column_widths import fit_columns, longest_word
from harness.reporting.render.sheet import Grid, Sheet, Shown

GAP = 2
"""Spaces between two columns: the padding of one, and the divider of the box."""

LABELS = 1 / 3
"""The share of the line that the columns of labels may take before their texts are wrapped, between words only."""


def render(sheets: list[Sheet]) -> Group:
    """All sheets, one after the other. Texts are never read as markup."""
    return Group(*(part for sheet in sheets for part in _sheet(sheet)))


def _sheet(sheet: Sheet) -> list[RenderableType]:
    parts: list[RenderableType] = [Text(sheet.title, style="bold"), Text()]
    if sheet.main:
        parts += [_Stacks(sheet.main), Text()]
    for block in sheet.sweeps:
        if block.long:
            parts += [Text(f"{block.title.text}: in the formats md, html and json", style="dim"), Text()]
            continue
        title = Text(block.title.text, style="bold").append(f" {block.title.marks}".rstrip(), style="dim")
        parts += [title, Text(), _Stacks(block.grid), Text()]
        parts += [Text(block.remark), Text()] if block.remark else []
    if sheet.draws:
        title = Text("Stochastic defenses, by what counts as success over the draws", style="bold")
        parts += [title, Text(), _Stacks(sheet.draws), Text()]
    parts += [Text(f"{mark}: {text}", style="dim") for mark, text in sheet.footnotes]
    return [*parts, *(Text(note, style="dim") for note in sheet.notes), Text()]


class _Stacks:
    """Every number above its interval. Columns for which the terminal has no room go into further tables below."""

    def __init__(self, grid: Grid) -> None:
        marks = [max((len(line[at].marks) for line in grid.lines), default=0) for at in range(len(grid.head))]
        room = [0, *marks[1:]]
        self.labels, self.headings = grid.labels, grid.headings
        self.lines = [
            [_stacked(shown, width) for shown, width in zip(line, room, strict=True)]
            for line in (grid.head, *grid.lines)
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        full, least = self._full(), self._least()
        room = options.max_width + GAP  # every column has a gap behind it, and the last one needs none
        widths = fit_columns(full, least, room - GAP * len(full))
        if widths:
            yield self._table(list(self._columns), widths)
            return
        share = max(int(room * LABELS), sum(least[: self.labels]))
        labels = fit_columns(full[: self.labels], least[: self.labels], share) or least[: self.labels]
        left = room - sum(labels) - GAP * self.labels
        for number, group in enumerate(_groups(least[self.labels :], left)):
            if number:
                yield Text()
            columns = [at + self.labels for at in group]
            narrow = [least[at] for at in columns]
            fitted = fit_columns([full[at] for at in columns], narrow, left - GAP * len(group)) or narrow
            yield self._table([*range(self.labels), *columns], [*labels, *fitted])

    def _full(self) -> list[int]:
        """The width of each column where nothing is wrapped."""
        widths = [max(_widest(line[at].plain) for line in self.lines) for at in self._columns]
        return [max(widths[0], *map(cell_len, self.headings.values()), 0), *widths[1:]]

    def _least(self) -> list[int]:
        """The width of each column where labels and heads are wrapped between words, and numbers are not."""
        head, *body = self.lines
        labels = [longest_word([line[at].plain for line in self.lines]) for at in range(self.labels)]
        labels[0] = max(labels[0], longest_word(list(self.headings.values())))
        return labels + [
            max(longest_word([head[at].plain]), *(_widest(line[at].plain) for line in body), 0)
            for at in self._columns[self.labels :]
        ]

    @property
    def _columns(self) -> range:
        return range(len(self.lines[0]))

    def _table(self, columns: list[int], widths: Sequence[int]) -> RichTable:
        table = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for at, width in zip(columns, widths, strict=True):
            table.add_column(self.lines[0][at], width=width, justify="left" if at < self.labels else "right")
        for number, line in enumerate(self.lines[1:]):
            if number in self.headings:
                if number:
                    table.add_row()
                table.add_row(Text(self.headings[number], style="italic"))
            table.add_row(*(line[at] for at in columns))
        return table


def _widest(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def _groups(widths: list[int], room: int) -> list[list[int]]:
    """Columns of these widths, in order, in groups that fit into the room, with at least one column each."""
    groups: list[list[int]] = [[]]
    left = room
    for at, width in enumerate(widths):
        if groups[-1] and width + GAP > left:
            groups.append([])
            left = room
        groups[-1].append(at)
        left -= width + GAP
    return groups


def _stacked(shown: Shown, width: int) -> Text:
    """The value with its marks, above its interval and the published number; columns align at the value's end."""
    room = width + 1 if width else 0
    marks = (f" {shown.marks}" if shown.marks else "").ljust(room)
    text = Text(shown.text).append(marks, style="dim")
    for below in filter(None, (shown.detail, shown.published)):
        text.append(f"\n{below}{' ' * room}", style="dim")
    return text
