"""`harness merge`: several results directories of one suite become one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.process.console import new_console


def merge(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Directories of runs of the same suite, finished or not.")
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="The results directory: a new one, or one to which the others are added."),
    ],
) -> None:
    """Make one results directory of several, such as those of machines that share no file system.

    The directories must be of the same suite, code, weights and images. What only one of them has is copied as it is,
    with its hashes; what several have must be the same in all, but for errors, instead of which a result is taken.
    Nothing is written where they contradict each other. If the command is killed, run it again: it goes on.

    Examples:

        harness merge results/here results/there --out results/both

        harness merge results/there --out results/here
    """
    from harness.joining.run import join

    done, console = join(directories, out), new_console()
    for remark in done.remarks:
        console.print(remark, markup=False, highlight=False, soft_wrap=True)
    words = [f"{done.copied} shards copied"]
    words += [f"{done.missing} missing"] if done.missing else []
    words += [f"{done.errors} images ended in errors"] if done.errors else []
    console.print(f"Wrote {done.path}: {', '.join(words)}.", markup=False, highlight=False, soft_wrap=True)
    if done.missing or done.errors:
        console.print(f"To compute the rest: harness run SUITE --out {done.path}", markup=False, soft_wrap=True)
    else:
        console.print(f"See the table with: harness report {done.path}", markup=False, soft_wrap=True)
