"""`harness site`: writes a leaderboard over many runs, and a page for each, as plain files to publish."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import say_reading
from harness.process.console import echo
from harness.process.signals import stoppable


def site(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of runs.")] = Path("results"),
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the site.")] = Path("site"),
    images: Annotated[int | None, typer.Option(min=0, metavar="N", help="Images per pairing in a run's page.")] = None,
) -> None:
    """Write an index page over many runs, with a leaderboard sorted by worst case, and one page a run.

    The files need no server and no network. Files of an earlier site with the same names are replaced.

    Examples:

        harness site results --out site

        harness site results/digits --out site --images 16
    """
    say_reading(directory)
    from harness.files import write_atomically
    from harness.reporting.page.site import INDEX
    from harness.reporting.page.site import site as pages_of
    from harness.reporting.tables.table import summarise
    from harness.results.load import find_runs, read_run

    with stoppable():
        tables = [summarise(read_run(path)) for path in find_runs(directory)]
        for name, content in pages_of(tables, directory, images):
            write_atomically(out / name, content)
            echo(f"Wrote {out / name}")
    echo(f"Open {out / INDEX} in a browser.")
