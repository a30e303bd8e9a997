"""`harness compare`: compares two results directories cell by cell, or the defenses of one run with each other."""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from harness.errors import UserError
from harness.process.console import echo, new_console


class Format(str, Enum):
    table = "table"
    md = "md"
    json = "json"


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="The directory of a run.")],
    second: Annotated[
        Path | None, typer.Argument(metavar="[B]", help="Another run; by default, A's defenses are compared.")
    ] = None,
    format: Annotated[Format, typer.Option(help="Output format.")] = Format.table,
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
    if format is Format.json:
        echo(json.dumps(dataclasses.asdict(found), indent=1))
    elif format is Format.md:
        echo(markdown.render([lay_out(found)]), nl=False)
    else:
        new_console().print(terminal.render([lay_out(found)]))
