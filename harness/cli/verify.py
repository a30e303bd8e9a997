"""`harness verify`: re-checks stored results and replays them against the defenses."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.text import Text

from harness.cli.columns import Column, Columns
from harness.cli.options import Device, Only, say_reading
from harness.process.console import new_console, plain_column
from harness.process.signals import status_of, stoppable
from harness.settings import device_of

if TYPE_CHECKING:
    from harness.verification import CellReport

COLOURS = {"holds": "green", "fails": "red"}
"""The colours of outcomes; all others are yellow."""

CONTRADICTED, UNVERIFIED = 1, 3
BUDGET_COLUMNS = ("images", "in budget", "robust")
REPLAY_COLUMNS = ("votes equal", "within rounding", "votes differ", "replayed")

SHOWN = 5
"""The largest number of problems, and of gaps, that are printed for one pairing."""

LIMITS = (
    "What holds is an upper bound on robust accuracy. Hashes detect damage and edits, but not a forger who recomputes "
    "all of them. No image shows that the attack was as strong as it could be, or that no other run was discarded."
)


def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory of a run.")],
    only: Only = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Use only the first N images of each pairing, rounded up to whole shards."
        ),
    ] = None,
    device: Device = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Images classified at once; left out, as many as in the run. Only then does a defense that draws from "
            "torch's global generator repeat its draws.",
        ),
    ] = None,
    no_replay: Annotated[bool, typer.Option("--no-replay", help="Check budgets only; needs no checkpoints.")] = False,
    suite: Annotated[
        Path | None, typer.Option(metavar="SUITE", help="The suite's file, to which relative paths refer.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Execute the code that the results name, such as ./mine.py:Mine.")
    ] = False,
) -> None:
    """Re-check the budget of every stored adversarial image, and replay it against the defense.

    The exit status is 0 if everything holds, 1 if something is contradicted, and 3 if something could not be verified.
    Only defenses and attacks of this package are replayed; --trust imports others, which executes their code.

    Examples:

        harness verify results/quickstart

        harness verify results/quickstart --no-replay

        harness verify results/mine --suite suites/mine.yaml --trust --only rdc/linf --limit 32
    """
    say_reading(directory)
    from harness.results.manifest import Contradiction
    from harness.verification import verify as verify_run

    console = new_console()
    reports: dict[str, CellReport] = {}
    where = device_of(device)
    found = verify_run(
        directory,
        where,
        suite=suite,
        only=only or None,
        limit=limit,
        batch_size=batch_size,
        replay=not no_replay,
        trust=trust,
    )
    try:
        with stoppable():
            _follow(found, reports, console)
    except KeyboardInterrupt as stop:
        _show(reports, console)
        console.print("\nStopped. The table shows what was verified so far.")
        raise typer.Exit(status_of(stop)) from None
    except Contradiction as error:
        console.print(f"{error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(CONTRADICTED) from error
    _show(reports, console)
    outcomes = {report.outcome for report in reports.values()}
    if "fails" in outcomes:
        raise typer.Exit(CONTRADICTED)
    if outcomes != {"holds"}:
        raise typer.Exit(UNVERIFIED)


def _follow(found: Iterable[CellReport], reports: dict[str, CellReport], console: Console) -> None:
    """Keeps the latest report of each cell, and shows the progress of the current one."""
    columns = (plain_column(), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bars: dict[str, Any] = {}
        for report in found:
            if report.name not in bars:
                bars[report.name] = progress.add_task(report.name, total=report.total)
            reports[report.name] = report
            progress.update(bars[report.name], completed=report.images)


def _show(reports: dict[str, CellReport], console: Console) -> None:
    replayed = any(report.answered for report in reports.values())
    numbers = [Column(head, right=True) for head in BUDGET_COLUMNS + (REPLAY_COLUMNS if replayed else ())]
    rows = [
        [report.name, *_budget(report), *(_replay(report) if replayed else ()), _result(report)]
        for report in reports.values()
    ]
    console.print(Columns(["pairing", *numbers, "result"], rows), "")
    for report in reports.values():
        for line in _remarks(report):
            console.print(f"{report.name}: {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(LIMITS, style="dim", highlight=False)
    if replayed:
        moved = max(report.moved for report in reports.values())
        console.print(f"Margins moved by at most {moved:.1g} of the logits' size.", style="dim", highlight=False)
    for line in dict.fromkeys(line for report in reports.values() for line in report.environment):
        console.print(line, style="dim", markup=False, highlight=False)


def _budget(report: CellReport) -> list[str]:
    if not report.total:
        return ["–"] * len(BUDGET_COLUMNS)
    recorded = f"{report.recorded / report.images:.1%}" if report.images else "–"
    return [f"{report.images}/{report.total}", str(report.within), recorded]


def _replay(report: CellReport) -> list[str]:
    if not report.answered:
        return ["–"] * len(REPLAY_COLUMNS)
    counts = (report.equal, report.borderline, report.contradictions)
    return [*map(str, counts), f"{report.replayed / (report.answered + report.errors):.1%}"]


def _result(report: CellReport) -> Text:
    colour, outcome = COLOURS.get(report.outcome, "yellow"), report.outcome
    only_budgets = outcome == "holds" and report.total and not report.answered
    return Text("budgets hold" if only_budgets else outcome, style=colour)


def _remarks(report: CellReport) -> list[str]:
    lines = [*_some(report.problems), *_some([f"could not be verified: {gap}" for gap in report.gaps])]
    lines += _some(report.remarks)
    if report.unchecked and not report.problems:
        lines.append(f"not checked: {report.unchecked}")
    if report.unreplayed:
        lines.append(f"not replayed: {report.unreplayed}")
    if report.errors:
        lines.append(f"could not be verified: {report.errors} images ended in errors, which prove nothing")
    return lines


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - SHOWN
    return lines[:SHOWN] + ([f"{more} more of this kind"] if more > 0 else [])
