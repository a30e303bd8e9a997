"""`harness export` and `harness import`: a run as one file that someone else can check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.process.console import echo, new_console


def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory of a run.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The archive; by default NAME.zip, after the directory.")
    ] = None,
    suite: Annotated[
        Path | None, typer.Option(metavar="SUITE", help="The suite's file, to which relative paths refer.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Execute the code of a dataset that the results name.")
    ] = False,
) -> None:
    """Write a run as one file: records, adversarial and clean images, hashes, and a program that checks them.

    The program is check.py, 150 lines that need numpy and pyarrow, and nothing of this package. The same results give
    the same bytes.

    Examples:

        harness export results/quickstart --out quickstart.zip
    """
    from harness.archive.writing import export_run

    target = out or Path(f"{directory.absolute().name}.zip")
    done = export_run(directory, target, folder=suite.parent if suite else Path(), trust=trust)
    echo(f"Wrote {done.path}: {done.files} files, sha256 {done.sha256}")
    _print(done.remarks)


def import_(
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `harness export` wrote.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Results directory; by default results/SUITE.")
    ] = None,
) -> None:
    """Make a results directory of an exported run, after its hashes, images and table were found right.

    Nothing in the file is executed. To replay the results, use `harness verify` on the directory.

    Examples:

        harness import quickstart.zip --out results/theirs
    """
    from harness.archive.reading import import_run

    done = import_run(archive, out)
    _print(done.remarks)
    new_console().print(f"Wrote {done.path}. See the table with: harness report {done.path}", markup=False)


def _print(remarks: tuple[str, ...]) -> None:
    for remark in remarks:
        new_console().print(remark, markup=False, highlight=False, soft_wrap=True)
