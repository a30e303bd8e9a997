"""A table as a fragment of HTML, for notebooks. The page with images is `harness.reporting.page`."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from harness.reporting.render.sheet import Grid, Sheet, Shown


def render(sheets: list[Sheet]) -> str:
    """All sheets, one after the other. Texts are escaped; there is neither script nor style sheet."""
    return "\n".join(line for sheet in sheets for line in _sheet(sheet))


def _sheet(sheet: Sheet) -> Iterator[str]:
    yield f"<h4>{escape(sheet.title)}</h4>"
    if sheet.main:
        yield _table(sheet.main)
    for block in sheet.sweeps:
        yield f"<p>{_shown(block.title)}</p>{_table(block.grid)}"
        if block.remark:
            yield f"<p>{escape(block.remark)}</p>"
    if sheet.draws:
        yield f"<p>Stochastic defenses, by what counts as success over the draws:</p>{_table(sheet.draws)}"
    footnotes = (f"<sup>{escape(mark)}</sup> {escape(text)}" for mark, text in sheet.footnotes)
    yield f"<small>{'<br>'.join([*footnotes, *map(escape, sheet.notes)])}</small>"


def _table(grid: Grid) -> str:
    head = "".join(f"<th>{_shown(shown)}</th>" for shown in grid.head)
    body = []
    for heading, lines in grid.groups:
        if heading:
            body.append(f'<tr><th colspan="{len(grid.head)}">{escape(heading)}</th></tr>')
        for line in lines:
            cells = (_cell(shown, "left" if at < grid.labels else "right") for at, shown in enumerate(line))
            body.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _cell(shown: Shown, side: str) -> str:
    return f'<td style="text-align: {side}">{_shown(shown)}</td>'


def _shown(shown: Shown) -> str:
    marks = f"<sup>{escape(shown.marks)}</sup>" if shown.marks else ""
    below = "".join(f"<br><small>{escape(text)}</small>" for text in (shown.detail, shown.published) if text)
    return escape(shown.text) + marks + below
