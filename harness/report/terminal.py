"""A table for the terminal: values above their intervals, footnotes below."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from harness.report.layout import Grid, Sheet, Shown


def render(sheets: list[Sheet]) -> Group:
    """All sheets, one below the other. Texts are never read as markup."""
    return Group(*(part for sheet in sheets for part in _sheet(sheet)))


def _sheet(sheet: Sheet) -> list[RichTable | Text]:
    parts: list[RichTable | Text] = [Text(sheet.title, style="bold"), Text()]
    if sheet.main:
        parts += [_stacks(sheet.main), Text()]
    for block in sheet.sweeps:
        title = Text(block.title.text, style="bold").append(f" {block.title.marks}".rstrip(), style="dim")
        parts += [title, Text(), _stacks(block.grid), Text()]
        parts += [Text(block.remark), Text()] if block.remark else []
    if sheet.draws:
        title = Text("Stochastic defenses, by what counts as success over the draws", style="bold")
        parts += [title, Text(), _stacks(sheet.draws), Text()]
    parts += [Text(f"{mark}: {text}", style="dim") for mark, text in sheet.footnotes]
    return [*parts, *(Text(note, style="dim") for note in sheet.notes), Text()]


def _stacks(grid: Grid) -> RichTable:
    """Every number above its interval."""
    widths = [0, *(max((len(line[at].marks) for line in grid.lines), default=0) for at in range(1, len(grid.head)))]
    table = _frame([_stacked(head, width) for head, width in zip(grid.head, widths, strict=True)], grid.labels)
    for line in grid.lines:
        table.add_row(*(_stacked(shown, width) for shown, width in zip(line, widths, strict=True)))
    return table


def _frame(heads: list[Text], labels: int) -> RichTable:
    """Only labels wrap where the terminal is narrow."""
    table = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for head in heads[:labels]:
        table.add_column(head, overflow="fold")
    for head in heads[labels:]:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _stacked(shown: Shown, width: int) -> Text:
    """The value with its marks, above its interval and what was published; columns align at the value's end."""
    room = width + 1 if width else 0
    marks = (f" {shown.marks}" if shown.marks else "").ljust(room)
    text = Text(shown.text).append(marks, style="dim")
    for below in filter(None, (shown.detail, shown.published)):
        text.append(f"\n{below}{' ' * room}", style="dim")
    return text
