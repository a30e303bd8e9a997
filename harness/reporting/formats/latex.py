"""A LaTeX table for a paper. It needs the package booktabs and no other."""

from __future__ import annotations

import itertools
import re

from harness.reporting.render.layout import lay_out
from harness.reporting.render.sheet import Grid, Sheet, Shown
from harness.reporting.tables.table import Table

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': "{''}",
    "[": "{[}",  # at the start of a line, LaTeX would read [, ] and * as arguments of the \\ above
    "]": "{]}",
    "*": "{*}",
    **{symbol: f"\\{symbol}" for symbol in "&%$#_{}"},
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
    **{
        symbol: f"${command}$"
        for symbol, command in {
            "ℓ": r"\ell",
            "∞": r"\infty",
            "ε": r"\varepsilon",
            "η": r"\eta",
            "σ": r"\sigma",
            "±": r"\pm",
            "−": "-",
            "×": r"\times",
            "≤": r"\le",
            "≥": r"\ge",
            "→": r"\to",
        }.items()
    },
}


def render(tables: list[Table], images: int | None = None) -> str:
    """A `table` environment per run."""
    return "\n".join(_sheet(lay_out(table)) for table in tables)


def escape(text: str) -> str:
    """Text in which LaTeX sees no commands."""
    pairs = itertools.zip_longest(text, text[1:])
    return "".join("-{}" if this == after == "-" else _ESCAPES.get(this, this) for this, after in pairs)


def _sheet(sheet: Sheet) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", sheet.name.lower()).strip("-")
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering",
        f"  \\caption{{{escape(sheet.title)}}}",
        f"  \\label{{tab:{name}}}",
        *(_grid(sheet.main) if sheet.main else []),
    ]
    for block in sheet.sweeps:
        lines += ["", "  \\medskip", f"  {_shown(block.title)}", "", "  \\smallskip", *_grid(block.grid)]
        lines += ["", "  \\smallskip", f"  {escape(block.remark)}"] if block.remark else []
    if sheet.draws:
        lines += ["", "  \\medskip", "  Stochastic defenses, by what counts as success over the draws", ""]
        lines += ["  \\smallskip", *_grid(sheet.draws)]
    notes = [f"\\textsuperscript{{{mark}}}~{escape(text)}." for mark, text in sheet.footnotes]
    notes += [escape(note) for note in sheet.notes]
    lines += ["", "  \\smallskip", "  \\begin{minipage}{\\linewidth}\\footnotesize"]
    lines += [f"    {note}" for note in notes]
    return "\n".join([*lines, "  \\end{minipage}", "\\end{table}"]) + "\n"


def _grid(grid: Grid) -> list[str]:
    form = "l" * grid.labels + "r" * (len(grid.head) - grid.labels)
    details = [f"{{\\scriptsize {escape(head.detail)}}}" if head.detail else "" for head in grid.head]
    return [
        f"  \\begin{{tabular}}{{{form}}}",
        "    \\toprule",
        _row([escape(head.text) for head in grid.head]),
        *([_row(details)] if any(details) else []),
        *(line for heading, lines in grid.groups for line in _group(heading, lines, len(grid.head))),
        "    \\bottomrule",
        "  \\end{tabular}",
    ]


def _group(heading: str, lines: list[list[Shown]], width: int) -> list[str]:
    across = f"    \\multicolumn{{{width}}}{{l}}{{\\emph{{{escape(heading)}}}}} \\\\"
    return [
        "    \\midrule",
        *([across] if heading else []),
        *(_row([_shown(shown) for shown in line]) for line in lines),
    ]


def _row(cells: list[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def _shown(shown: Shown) -> str:
    marks = f"\\textsuperscript{{{shown.marks}}}" if shown.marks else ""
    details = [f" {{\\scriptsize {escape(text)}}}" for text in (shown.detail, shown.published) if text]
    return escape(shown.text) + marks + "".join(details)
