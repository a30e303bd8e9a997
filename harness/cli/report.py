"""`harness report`: tables as text, one page as HTML, plots as files."""

from __future__ import annotations

import io
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harness.process.console import echo, new_console
from harness.process.signals import stoppable

if TYPE_CHECKING:
    from rich.console import Group

WIDTH = 120
"""Characters of a line of a table in a file."""


class Format(str, Enum):
    table = "table"
    md = "md"
    latex = "latex"
    csv = "csv"
    json = "json"
    html = "html"
    png = "png"
    pdf = "pdf"


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run, or a folder of runs.")] = Path("results"),
    format: Annotated[Format, typer.Option(help="Text, one HTML page with images, or plots.")] = Format.table,
    output: Annotated[
        Path | None,
        typer.Option("--output", "--out", help="A file, or a folder for plots; else inside DIR."),
    ] = None,
    images: Annotated[int | None, typer.Option(min=0, help="Images of each pairing in the HTML page.")] = None,
) -> None:
    """Tables, a page and plots of the runs in a folder.

    Examples:

        harness report results/quickstart --format md

        harness report results/quickstart --format html

        harness report results/quickstart --format pdf --output figures
    """
    if format in (Format.png, Format.pdf):
        _plots(directory, output or directory / "plots", "png" if format is Format.png else "pdf")
        return
    from harness.files import write_atomically
    from harness.reporting import report as render

    rendered = render(directory, format.value, images)
    target = output or (directory / "report.html" if format is Format.html else None)
    if target:
        with stoppable():
            write_atomically(target, _text(rendered).encode())
        echo(f"Wrote {target}")
    elif isinstance(rendered, str):
        echo(rendered)
    else:
        new_console().print(rendered)


def _plots(directory: Path, folder: Path, format: Literal["png", "pdf"]) -> None:
    from harness.reporting.render.plots import draw

    with stoppable():
        for path in draw(directory, folder, format):
            echo(f"Wrote {path}")


def _text(rendered: str | Group) -> str:
    if isinstance(rendered, str):
        return rendered
    sink = io.StringIO()
    new_console(file=sink, width=WIDTH).print(rendered)
    return sink.getvalue()
