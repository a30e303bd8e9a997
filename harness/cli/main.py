"""The command line: parsing and printing. Each command imports the module that does its work.

Slow modules are imported inside the commands, so that `harness --help` and `harness list` start at once.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from harness import __version__
from harness.cli import (
    archive,
    check,
    compare,
    completion,
    diagnose,
    eot,
    hub,
    listing,
    merge,
    report,
    run,
    show,
    site,
    verify,
    weights,
)
from harness.cli.check import table_of
from harness.cli.mistakes import SETTINGS, Command, Group, one_of
from harness.cli.options import Device, say_reading
from harness.errors import UserError, one_line
from harness.process import foreign_code, signals
from harness.process.console import echo, new_console
from harness.settings import device_of

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
    help="Measure the robust accuracy of defended image classifiers, and store the adversarial images as evidence.",
)

MISTAKE, BUG, BROKEN_PIPE = 2, 70, 128 + signal.SIGPIPE
"""Exit statuses: a mistake of the user, an error in this program, and a closed output pipe."""

KINDS = ("defense", "attack", "certificate")


def main(arguments: list[str] | None = None) -> None:
    """The entry point; `arguments` default to the process's own. A user's mistake ends in a paragraph and status 2."""
    completion.prepare()
    with signals.handled():
        try:
            app(arguments, prog_name=completion.PROGRAM)
        except SystemExit as end:
            _examine(end)
            raise
        except Exception as error:
            if (number := signals.arrived()) is not None:  # code in between may have replaced the exception
                _leave(128 + number, "Stopped.")
            if isinstance(error, UserError):
                _complain(str(error))
            if foreign_code.is_theirs(error):
                _complain(f"{one_line(error)}. Correct that line.")
            traceback.print_exc()
            sys.exit(BUG)


def _examine(end: SystemExit) -> None:
    """Handles an exit by its cause: a command, a signal, a closed output pipe, or code that a suite names."""
    before = end.__context__  # the exception that typer or rich converted to an exit
    cause = before and before.__cause__
    if foreign_code.is_theirs(end) or (isinstance(cause, KeyboardInterrupt) and not signals.from_outside(cause)):
        _complain(f"{one_line(cause or end)} would end the whole program. Let it raise an exception that says why.")
    if isinstance(cause, KeyboardInterrupt):
        _leave(signals.status_of(cause), "Stopped.")
    if isinstance(before, BrokenPipeError):
        _leave(BROKEN_PIPE)


def _complain(text: str) -> NoReturn:
    new_console(stderr=True, soft_wrap=True).print(f"[red]error:[/] {escape(text)}", highlight=False)
    sys.exit(MISTAKE)


def _leave(status: int, last: str = "") -> NoReturn:
    """Ends the program even if its output is closed, which would otherwise make Python print an error at exit."""
    with suppress(OSError):
        print(last, end="\n" if last else "", file=sys.stderr, flush=True)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    sys.exit(status)


@app.callback(invoke_without_command=True)
def _settings(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not use the network.")] = False,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of downloaded checkpoints and datasets.")
    ] = None,
) -> None:
    """Settings of all commands. Each option sets an environment variable for this process."""
    if version:
        echo(__version__)
        raise typer.Exit
    if offline:
        os.environ["HARNESS_OFFLINE"] = "1"
    if cache:
        os.environ["HARNESS_WEIGHTS"] = str(cache / "weights")
        os.environ["HARNESS_DATA"] = str(cache / "data")


def new(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="defense|attack|certificate", help="What to write.", **one_of("kind of skeleton", lambda: KINDS)
        ),
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower case, such as `mine`; the file becomes mine.py.")],
) -> None:
    """Write a skeleton of a defense, attack or certificate into the current folder.

    Examples:

        harness new defense mine

        harness new attack my_attack
    """
    from harness.cli.scaffold import write

    path, cls = write(kind, name, Path.cwd())
    echo(f"Wrote {path.name}. Check it with: harness check {path.name}:{cls}")
    echo(f"Name it in a suite as: type: ./{path.name}:{cls}")


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as suites/train/digits-cnn.yaml.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the weights and their card.")] = None,
    device: Device = "cpu",
    processes: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Divide each batch among N processes, on a GPU each; needs the extra [train]."
        ),
    ] = 1,
) -> None:
    """Train a network by a recipe, or continue a training that was interrupted.

    Examples:

        harness train suites/train/digits-cnn.yaml --out weights

        harness train suites/train/cifar10-edm.yaml --device cuda --processes 4

        accelerate launch --multi_gpu --num_processes 4 -m harness train suites/train/cifar10-edm.yaml --device cuda
    """
    launched = "RANK" in os.environ  # of several processes, the first one speaks
    if launched:
        from harness.training.launch import end_with_launcher

        end_with_launcher()
    else:
        say_reading(recipe)
    from harness.cli.train_progress import Display
    from harness.training import train as train_recipe
    from harness.training.processes import leave

    if processes > 1:
        from harness.training.launch import launch
        from harness.training.recipe import read

        read(recipe)  # so that a mistake in it is told once
        words = ["train", str(recipe), "--device", device, *(["--out", str(out)] if out else [])]
        raise typer.Exit(launch(words, processes, device_of(device)))
    console = new_console(quiet=launched and os.environ["RANK"] != "0")
    try:
        with signals.stoppable():
            path = train_recipe(recipe, out=out, device=device_of(device), callback=Display(console))
    except KeyboardInterrupt as stop:
        console.print("\nStopped. The last checkpoint is kept; the same command continues from there.")
        raise typer.Exit(signals.status_of(stop)) from None
    finally:
        leave()
    console.print(f"Wrote {path} and its card.", markup=False, highlight=False)


def doctor() -> None:
    """Examine the installation: versions, devices, caches, and known faults.

    Below each fault stands the command that repairs it. The exit status is 1 if something is broken.
    """
    from harness.cli.doctor import examine

    findings = examine()
    console = new_console()
    console.print(table_of(findings, "part"))
    for finding in (finding for finding in findings if finding.remedy):
        console.print(f"\n{finding.name}, {finding.status}. To repair it:", markup=False, highlight=False)
        console.print(f"    {finding.remedy}", markup=False, highlight=False, soft_wrap=True)
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(1)


for _command in (
    *(run.run, report.report, site.site, show.show),
    *(check.check, new, doctor),
    *(verify.verify, compare.compare, eot.eot, diagnose.diagnose),
    *(merge.merge, archive.export, hub.push, hub.pull, train),
):
    app.command(cls=Command)(_command)
app.command(name="list", cls=Command)(listing.list_)
app.command(name="import", cls=Command)(archive.import_)
app.command(cls=Command)(completion.completion)
app.add_typer(weights.app, name="weights")
