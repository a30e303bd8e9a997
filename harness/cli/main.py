"""The command line: parsing and printing. Each command imports the module that does its work.

Slow modules are imported inside the commands, so that `harness --help` and `harness list` start at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.markup import escape
from rich.table import Table

from harness import __version__
from harness.checks.finding import COLOURS, Finding
from harness.cli import archive, compare, diagnose, eot, report, show, verify, weights
from harness.cli.options import FAILED, Device, Limit, Only, Out, SuitePath, finish
from harness.errors import UserError, one_line
from harness.process import foreign_code, signals
from harness.process.console import echo, new_console
from harness.settings import device_of

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measure the robust accuracy of defended image classifiers, and store the adversarial images as evidence.",
)

MISTAKE, BUG, BROKEN_PIPE = 2, 70, 128 + signal.SIGPIPE
"""Exit statuses: a mistake of the user, an error in this program, and a closed output pipe."""


class Listed(str, Enum):
    defenses = "defenses"
    attacks = "attacks"
    datasets = "datasets"
    suites = "suites"


class EngineName(str, Enum):
    local = "local"
    ray = "ray"


class Kind(str, Enum):
    defense = "defense"
    attack = "attack"


def main(arguments: list[str] | None = None) -> None:
    """The entry point; `arguments` default to the process's own. A user's mistake ends in a paragraph and status 2."""
    with signals.handled():
        try:
            app(arguments)
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
    cache: Annotated[Path | None, typer.Option(help="Folder of downloaded checkpoints and datasets.")] = None,
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


def run(
    suite: SuitePath,
    only: Only = None,
    device: Device = "auto",
    limit: Limit = None,
    out: Out = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Two images, few steps, random weights for missing checkpoints.")
    ] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors/--no-retry-errors", help="Repeat attacks that ended in errors earlier.")
    ] = True,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Compute in N processes, among which the cores are divided.")
    ] = None,
    devices: Annotated[
        str | None, typer.Option(metavar="cuda:0,cuda:1", help="Compute in a process on each of these devices.")
    ] = None,
    engine: Annotated[
        EngineName, typer.Option(help="local: on this machine; ray: on a Ray cluster. Results are the same.")
    ] = EngineName.local,
    address: Annotated[
        str | None, typer.Option(help="With --engine ray: the cluster; by default a running one, or a new one here.")
    ] = None,
    gpu_share: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, help="With --engine ray: the part of a GPU for a shard; by default as measured."),
    ] = None,
) -> None:
    """Run a suite, or continue one that was interrupted. This executes the code that the suite names.

    The exit status is 0 if every image has a verdict, and 1 if some pairings failed: their images count as errors,
    neither robust nor misclassified, and the other pairings are finished. It is 2 if a mistake prevented the run, and
    128 + N after signal N (130 after Ctrl-C).

    Examples:

        harness run suites/quickstart.yaml

        harness run suites/quickstart.yaml --only rdc/linf --device cuda

        harness run suites/table1_sota.yaml --devices cuda:0,cuda:1

        harness run suites/table1_sota.yaml --engine ray --address auto

        harness run suites/table1_sota.yaml --smoke
    """
    from harness.evaluation.engines.choose import choose
    from harness.suite.plan import load_suite

    names = None if devices is None else [name.strip() for name in devices.split(",")]
    chosen = choose(engine.value, device, workers=workers, devices=names, address=address, gpu_share=gpu_share)

    if smoke:
        if chosen is not None:
            raise UserError("--smoke runs in this process alone", remedy="Leave out the options that choose workers")
        from harness.cli.run_progress import Display
        from harness.dry_run.smoke import smoke as try_out

        with signals.stoppable():
            folder = try_out(suite, out, device_of(device), Display(new_console()), only=only)
        new_console().print(f"Every path works. See the table with: harness report {folder}", markup=False)
        return
    plan = load_suite(suite, limit=limit, only=only)
    folder, done = finish(plan, names[0] if names else device, limit, out, retry_errors=retry_errors, engine=chosen)
    what = f"Computed {done.computed} shards." if done.computed else "Nothing to do: every pairing is finished."
    if done.failures:
        made = f"Computed {done.computed} shards. " if done.computed else ""
        again = "repeats what failed" if retry_errors else "without --no-retry-errors repeats what failed"
        count = len(done.failures)
        what = f"{made}{count} pairing{'s' if count > 1 else ''} failed. The same command {again}."
    new_console().print(f"{what} See the results with: harness report {folder}", markup=False, highlight=False)
    if done.failures:
        raise typer.Exit(FAILED)


def list_(
    what: Annotated[Listed | None, typer.Argument(help="What to list; by default everything.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List defenses, attacks, datasets and suites."""
    from harness.cli.listing import listing

    found = {kind.value: listing(kind.value) for kind in ([what] if what else Listed)}
    if as_json:
        echo(json.dumps(found, indent=1))
        return
    for kind, entries in found.items():
        table = Table("name", "what it is", "arguments", title=kind, title_justify="left", box=None, pad_edge=False)
        for entry in entries:
            table.add_row(*(escape(str(entry[column])) for column in ("name", "summary", "arguments")))
        new_console().print(table, "")


def check(
    spec: Annotated[str, typer.Argument(metavar="FILE:Class", help="A defense, in the form of a suite's `type`.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Constructor arguments.")] = None,
    dataset: Annotated[str, typer.Option(help="The dataset of the images.")] = "digits",
    device: Device = "cpu",
) -> None:
    """Check that a defense (or attack) fulfils the contract of its base class."""
    from harness.checks import check_class

    findings = check_class(spec, Path.cwd(), arguments or [], dataset=dataset, device=device_of(device))
    new_console().print(_table(findings, "check"))
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(1)


def new(
    kind: Kind, name: Annotated[str, typer.Argument(help="Lower case, such as `mine`; the file becomes mine.py.")]
) -> None:
    """Write a skeleton of a defense or attack into the current folder."""
    from harness.cli.scaffold import write

    path, cls = write(kind.value, name, Path.cwd())
    echo(f"Wrote {path.name}. Check it with: harness check {path.name}:{cls}")
    echo(f"Name it in a suite as: type: ./{path.name}:{cls}")


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as suites/train/digits-cnn.yaml.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the weights and their card.")] = None,
    device: Device = "cpu",
) -> None:
    """Train a network by a recipe, or continue a training that was interrupted."""
    from harness.cli.train_progress import Display
    from harness.training import train as train_recipe

    console = new_console()
    try:
        with signals.stoppable():
            path = train_recipe(recipe, out=out, device=device_of(device), callback=Display(console))
    except KeyboardInterrupt as stop:
        console.print("\nStopped. The last checkpoint is kept; the same command continues from there.")
        raise typer.Exit(signals.status_of(stop)) from None
    console.print(f"Wrote {path} and its card.", markup=False, highlight=False)


def doctor() -> None:
    """Examine the installation: versions, devices, caches, and known faults."""
    from harness.cli.doctor import examine

    findings = examine()
    console = new_console()
    console.print(_table(findings, "part"))
    for finding in (finding for finding in findings if finding.remedy):
        console.print(f"\n{finding.name}, {finding.status}. To repair it:", markup=False, highlight=False)
        console.print(f"    {finding.remedy}", markup=False, highlight=False, soft_wrap=True)
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(1)


def _table(findings: Sequence[Finding], subject: str) -> Table:
    """A table with one line per finding. subject: the heading for their names."""
    table = Table("", subject, box=None, pad_edge=False)
    table.add_column("finding", overflow="fold")
    for finding in findings:
        status = f"[{COLOURS[finding.status]}]{finding.status}[/]"
        table.add_row(status, escape(finding.name), escape(finding.message))
    return table


for _command in (
    *(run, report.report, show.show),
    *(check, new, doctor),
    *(verify.verify, compare.compare, eot.eot, diagnose.diagnose),
    *(archive.export, train),
):
    app.command()(_command)
app.command(name="list")(list_)
app.command(name="import")(archive.import_)
app.add_typer(weights.app, name="weights")
