"""Options that several commands share, and a run that can be interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from harness.callback import Callback, Callbacks
from harness.cli.named import pairings
from harness.process.console import new_console
from harness.process.signals import status_of, stoppable
from harness.settings import device_of

if TYPE_CHECKING:
    from harness.evaluation.crew import Part
    from harness.evaluation.engines.engine import Engine
    from harness.evaluation.pending import Failure
    from harness.evaluation.run import Finished
    from harness.suite.plan import Plan

FAILED = 1
"""The exit status of a run that ended, but with errors for some images."""

SuitePath = Annotated[Path, typer.Argument(metavar="SUITE", help="A suite file, such as suites/quickstart.yaml.")]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="cpu, cuda, cuda:1, mps; auto uses a GPU if there is one.")]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="Use only the first N of the suite's images.")]
Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DEFENSE[/ATTACK]", autocompletion=pairings, help="Use only these pairings; may be given several times."
    ),
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Results directory; by default results/SUITE.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Set a value of the suite, such as defenses.rdc.eta=4/255; may be given several times.",
    ),
]


def say_reading(path: Path) -> None:
    """Prints that a command has begun, before the slow imports."""
    new_console().print(f"Reading {path} …", markup=False, highlight=False, style="dim", soft_wrap=True)


def finish(
    plan: Plan,
    device: str,
    limit: int | None,
    out: Path | None,
    *,
    retry_errors: bool = True,
    engine: Engine | None = None,
    timeout: float | None = None,
    log: Sequence[str] = (),
    part: Part | None = None,
) -> tuple[Path, Finished]:
    """Runs the unfinished part of a suite, and prints failures. Returns the results directory and what was done.

    Args:
        engine: computes the shards; by default this process does.
        timeout: seconds for an image, see `harness.evaluation.time_limits`.
        log: experiment trackers, see `harness.tracking.run_tracker`.
        part: which of several workers this process is that share the directory.

    Raises:
        typer.Exit: the run was interrupted.
    """
    import torch

    from harness.evaluation.run import run

    folder = out or Path("results") / (plan.suite.suite + (f"-first{limit}" if limit else ""))
    console = new_console()
    try:
        with stoppable():
            options = {"retry_errors": retry_errors, "engine": engine, "timeout": timeout, "part": part}
            where = device_of(device)
            cores = torch.get_num_threads() if engine is None and part is None and where.type == "cpu" else 1
            done = run(plan, folder, where, _callback(console, log, cores), **options)  # type: ignore[arg-type]
    except KeyboardInterrupt as stop:
        console.print(
            f"\nStopped. Finished shards are kept in {folder}; the same command continues from there.", markup=False
        )
        raise typer.Exit(status_of(stop)) from None
    for failure in done.failures:
        _print_failure(failure, console)
    return folder, done


def _callback(console: Console, log: Sequence[str], cores: int) -> Callback:
    """The display, and after it the experiment trackers. cores: see `Display`."""
    from harness.cli.run_progress import Display

    display = Display(console, cores=cores)
    if not log:
        return display
    from harness.tracking import tracker

    return Callbacks([display, *(tracker(where, display.note) for where in log)])


def _print_failure(failure: Failure, console: Console) -> None:
    """Prints how many images of a pairing failed, and the first reason."""
    first, *others = failure.reasons
    more = f" ({failure.reasons[first]} times, and {len(others)} other reasons)" if others else ""
    what = f"{failure.name}: {failure.errors} of {failure.images} images ended in errors{more}:"
    console.print(f"[red]failed:[/] {escape(what)}", highlight=False)
    console.print(f"    {first}", markup=False, highlight=False, soft_wrap=True)
