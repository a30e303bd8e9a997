"""A table for the terminal: values above their intervals, footnotes below."""

from __future__ import annotations

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from harness.process.column_widths import fit_columns, longest_word
from harness.reporting.render.sheet import Grid, Sheet, Shown

LABELS = 0.5
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
        widths = [max(cell_len(part.plain) for line in self.lines for part in line[at].split()) for at in self._columns]
        widths = [*self._labels(widths, options.max_width), *widths[self.labels :]]
        taken = sum(width + 1 for width in widths[: self.labels])
        for number, group in enumerate(_groups(widths[self.labels :], options.max_width - taken)):
            if number:
                yield Text()
            yield self._table([*range(self.labels), *(at + self.labels for at in group)], widths)

    def _labels(self, widths: list[int], room: int) -> list[int]:
        """The widths of the columns of labels: in full where all columns fit then, and else less."""
        full = widths[: self.labels]
        full[0] = max(full[0], *map(cell_len, self.headings.values()), 0)
        least = [longest_word([line[at].plain for line in self.lines]) for at in range(self.labels)]
        least[0] = max(least[0], longest_word(list(self.headings.values())))
        others, gaps = sum(width + 1 for width in widths[self.labels :]), len(full)
        allowed = max(room - others, int(room * LABELS), sum(least) + gaps) - gaps
        return fit_columns(full, least, allowed) or least

    @property
    def _columns(self) -> range:
        return range(len(self.lines[0]))

    def _table(self, columns: list[int], widths: list[int]) -> RichTable:
        table = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for at in columns:
            label = at < self.labels
            head = self.lines[0][at]
            table.add_column(head, width=widths[at], justify="left" if label else "right", no_wrap=not label)
        for number, line in enumerate(self.lines[1:]):
            if number in self.headings:
                if number:
                    table.add_row()
                table.add_row(Text(self.headings[number], style="italic"))
            table.add_row(*(line[at] for at in columns))
        return table


def _groups(widths: list[int], room: int) -> list[list[int]]:
    """Columns of these widths, in order, in groups that fit into the room, with at least one column each."""
    groups: list[list[int]] = [[]]
    left = room
    for at, width in enumerate(widths):
        if groups[-1] and width + 1 > left:
            groups.append([])
            left = room
        groups[-1].append(at)
        left -= width + 1
    return groups


def _stacked(shown: Shown, width: int) -> Text:
    """The value with its marks, above its interval and the published number; columns align at the value's end."""
    room = width + 1 if width else 0
    marks = (f" {shown.marks}" if shown.marks else "").ljust(room)
    text = Text(shown.text).append(marks, style="dim")
    for below in filter(None, (shown.detail, shown.published)):
        text.append(f"\n{below}{' ' * room}", style="dim")
    return text
