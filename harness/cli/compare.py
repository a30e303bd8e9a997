"""`harness compare`: compares two results directories cell by cell, or the defenses of one run with each other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.mistakes import one_of
from harness.errors import UserError
from harness.process.console import echo, new_console

FORMATS = ("table", "md", "json")


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="The directory of a run.")],
    second: Annotated[
        Path | None, typer.Argument(metavar="[B]", help="Another run; by default, A's defenses are compared.")
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            metavar="|".join(FORMATS), help="Output format.", **one_of("format of comparisons", lambda: FORMATS)
        ),
    ] = "table",
) -> None:
    """Compare two runs cell by cell, or the defenses of one run with each other, with significance.

    Examples:

        harness compare results/quickstart results/quickstart-again

        harness compare results/quickstart
    """
    from harness.reporting.render import markdown, terminal
    from harness.reporting.render.comparison_layout import lay_out
    from harness.reporting.tables.comparison import compare as compare_runs
    from harness.reporting.tables.comparison import contrast
    from harness.results.load import read_run

    one = read_run(first)
    found = compare_runs(one, read_run(second)) if second else contrast(one)
    if not found.matches:
        raise UserError(f"{first} has no attack that ran on two defenses", remedy="Give a second directory")
    if format == "json":
        echo(json.dumps(dataclasses.asdict(found), indent=1))
    elif format == "md":
        echo(markdown.render([lay_out(found)]), nl=False)
    else:
        new_console().print(terminal.render([lay_out(found)]))
