"""A table in GitHub's Markdown."""

from __future__ import annotations

import re

from harness.reporting.render.sheet import Grid, Sheet, Shown

_SPECIAL = re.compile(r"([\\`*_\[\]#|~$]|^[-+])")


def render(sheets: list[Sheet]) -> str:
    """All sheets, one after the other."""
    return "\n".join(_sheet(sheet) for sheet in sheets)


def escape(text: str) -> str:
    """Text in which Markdown, and the HTML inside it, sees no commands."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _SPECIAL.sub(r"\\\1", text)
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", text)  # "1." would start a list


def _sheet(sheet: Sheet) -> str:
    lines = [f"**{escape(sheet.title)}**", ""]
    if sheet.main:
        lines += [*_grid(sheet.main), ""]
    for block in sheet.sweeps:
        lines += [f"{_shown(block.title)}:", "", *_grid(block.grid), ""]
        lines += [escape(block.remark), ""] if block.remark else []
    if sheet.draws:
        lines += ["Stochastic defenses, by what counts as success over the draws:", "", *_grid(sheet.draws), ""]
    lines += [f"- <sup>{mark}</sup> {escape(text)}" for mark, text in sheet.footnotes]
    lines += [f"- {escape(note)}" for note in sheet.notes]
    return "\n".join(lines) + "\n"


def _grid(grid: Grid) -> list[str]:
    rule = [":--"] * grid.labels + ["--:"] * (len(grid.head) - grid.labels)
    lines = [_row([_heading(head) for head in grid.head]), _row(rule)]
    for heading, group in grid.groups:
        lines += [_row([f"**{escape(heading)}**", *[""] * (len(grid.head) - 1)])] if heading else []
        lines += [_row([_shown(shown) for shown in line]) for line in group]
    return lines


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _heading(head: Shown) -> str:
    return escape(head.text) + (f"<br>{escape(head.detail)}" if head.detail else "")


def _shown(shown: Shown) -> str:
    detail = f" <sub>{shown.detail}</sub>" if shown.detail else ""
    published = f"<br><sub>{shown.published}</sub>" if shown.published else ""
    return escape(shown.text) + (f"<sup>{shown.marks}</sup>" if shown.marks else "") + detail + published
