"""`harness report`: writes tables as text, an HTML page, or plots."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.process.console import echo, new_console
from harness.process.signals import stoppable
from harness.reporting import formats

if TYPE_CHECKING:
    from rich.console import Group

WIDTH = 120
"""The number of characters per line of a table in a file."""


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run, or a folder of runs.")] = Path("results"),
    format: Annotated[
        str,
        typer.Option(
            metavar=f"[{'|'.join(formats.names())}]",
            autocompletion=formats.names,
            help="Text, one HTML page with images, or plots.",
        ),
    ] = "table",
    output: Annotated[
        Path | None,
        typer.Option("--output", "--out", help="A file, or a folder for plots; by default inside DIR."),
    ] = None,
    images: Annotated[int | None, typer.Option(min=0, help="Images per pairing in the HTML page.")] = None,
) -> None:
    """Make tables, an HTML page or plots of the runs in a folder.

    Examples:

        harness report results/quickstart --format md

        harness report results/quickstart --format html

        harness report results/quickstart --format pdf --output figures
    """
    from harness.files import write_atomically
    from harness.reporting import report as render

    rendered = render(directory, format, images)
    beside = getattr(formats.find(format), "BESIDE", None)
    target = output or (directory / beside if beside else None)
    if isinstance(rendered, Mapping):
        target = target or directory / format
        written = {target / name: content for name, content in rendered.items()}
    else:
        written = {target: _text(rendered).encode()} if target else {}
    with stoppable():
        for path, content in written.items():
            write_atomically(path, content)
            echo(f"Wrote {path}")
    if not written and not isinstance(rendered, Mapping):
        _print(rendered)


def _print(rendered: str | Group) -> None:
    if isinstance(rendered, str):
        echo(rendered, nl=False)
    else:
        new_console().print(rendered)


def _text(rendered: str | Group) -> str:
    if isinstance(rendered, str):
        return rendered
    sink = io.StringIO()
    new_console(file=sink, width=WIDTH).print(rendered)
    return sink.getvalue()
