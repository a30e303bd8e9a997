"""What several commands take or do: their common options, the device, and a run that may be stopped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from harness.errors import UserError

if TYPE_CHECKING:
    import torch

    from harness.suite import Plan

INTERRUPTED = 130
SuitePath = Annotated[Path, typer.Argument(metavar="SUITE", help="A suite file, such as suites/quickstart.yaml.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto takes a GPU where there is one.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N of the suite's images.")]
Only = Annotated[str | None, typer.Option(metavar="DEFENSE[/ATTACK]", help="Only these pairings.")]
Out = Annotated[Path | None, typer.Option(help="Results directory; results/SUITE if left out.")]


def device_of(name: str) -> torch.device:
    """The device that an option names.

    Raises:
        UserError: this machine does not have it.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device '{name}' cannot be used ({reason})", remedy="Try --device cpu") from error
    return device


def finish(plan: Plan, device: str, limit: int | None, out: Path | None) -> tuple[Path, int]:
    """Runs what is left of a suite. Returns the results directory and the number of shards computed.

    Raises:
        typer.Exit: it was interrupted.
    """
    from harness.progress import Display
    from harness.run import run

    folder = out or Path("results") / (plan.suite.suite + (f"-first{limit}" if limit else ""))
    console = Console()
    try:
        return folder, run(plan, folder, device_of(device), Display(console))
    except KeyboardInterrupt:
        console.print(
            f"\nStopped. Finished shards are kept in {folder}; the same command goes on from there.", markup=False
        )
        raise typer.Exit(INTERRUPTED) from None
