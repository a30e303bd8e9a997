"""`harness report`: writes tables as text, an HTML page, or plots."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from harness.cli.mistakes import one_of
from harness.process.console import echo, new_console
from harness.process.signals import stoppable
from harness.reporting import formats

if TYPE_CHECKING:
    from rich.console import Group

BELOW = 1
"""The exit status if a requirement is not met."""

WIDTH = 120
"""The number of characters per line of a table in a file."""


BOUNDS = ("value", "low", "high")


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run, or a folder of runs.")] = Path("results"),
    format: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help=f"Text, one HTML page with images, plots, or files for other programs: {', '.join(formats.names())}.",
            **one_of("report format", formats.names),
        ),
    ] = "table",
    output: Annotated[
        Path | None,
        typer.Option("--output", "--out", metavar="PATH", help="A file, or a folder for plots; by default inside DIR."),
    ] = None,
    images: Annotated[int | None, typer.Option(min=0, metavar="N", help="Images per pairing in the HTML page.")] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(metavar="DEFENSE/ATTACK=PERCENT", help="End with status 1 below this accuracy; may be repeated."),
    ] = None,
    bound: Annotated[
        str,
        typer.Option(
            metavar="|".join(BOUNDS),
            help="What --fail-under compares: the accuracy, or an end of its 95% interval.",
            **one_of("bound", lambda: BOUNDS),
        ),
    ] = "value",
) -> None:
    """Make tables, an HTML page, plots, or files for other programs of the runs in a folder.

    With --fail-under, the exit status is 1 if a number is smaller, has a question mark, or does not exist. In place of
    an attack it takes clean, average and worst.

    Examples:

        harness report results/quickstart --format md

        harness report results/quickstart --format html

        harness report results/quickstart --format pdf --output figures

        harness report results/quickstart --format junit --out report.xml --fail-under rdc/linf=40 --bound low
    """
    from harness.files import write_atomically
    from harness.reporting.output import judged_report
    from harness.reporting.tables.requirement import Bound, Requirement

    required = [Requirement.parse(text, cast(Bound, bound)) for text in fail_under or ()]
    beside = getattr(formats.find(format), "BESIDE", None)
    target = output or (directory / beside if beside else None)
    folder = target.parent if target else None
    rendered, judgements = judged_report(directory, format, images, required, folder)
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
    for judgement in judgements:
        echo(f"{'passed' if judgement.met else 'failed'}: {judgement.text}", err=True)
    if not all(judgement.met for judgement in judgements):
        raise typer.Exit(BELOW)


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
