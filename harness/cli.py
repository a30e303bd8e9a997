"""The command line: parsing and printing. Each command's work lies in the module that it imports.

Heavy modules are imported inside the commands, so that `harness --help` and `harness list` answer at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness import __version__, cli_compare, cli_diagnose, cli_eot, cli_report, cli_show, cli_verify, cli_weights
from harness.cli_options import INTERRUPTED, Device, Limit, Only, Out, SuitePath, device_of, finish
from harness.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Robust accuracy of defended image classifiers, with the adversarial images to check it by.",
)


class Listed(str, Enum):
    defenses = "defenses"
    attacks = "attacks"
    datasets = "datasets"
    suites = "suites"


class Kind(str, Enum):
    defense = "defense"
    attack = "attack"


def main(arguments: list[str] | None = None) -> None:
    """Entry point; arguments default to the process's own. A user's mistake ends in one paragraph and status 2."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app(arguments)
    except UserError as error:
        Console(stderr=True, soft_wrap=True).print(f"[red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left; Python would complain about it at exit
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _settings(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Refuse to use the network.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder of fetched checkpoints and datasets.")] = None,
) -> None:
    """Settings of every command. Each has an environment variable, which they set for this process."""
    if version:
        typer.echo(__version__)
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
        bool, typer.Option("--smoke", help="Two images, few steps, random weights for what is not here.")
    ] = False,
) -> None:
    """Run a suite, or finish one that was stopped.

    Examples:

        harness run suites/quickstart.yaml

        harness run suites/quickstart.yaml --only rdc/linf --device cuda

        harness run suites/table1_sota.yaml --smoke
    """
    from harness.suite import load

    if smoke:
        from harness.smoke import smoke as try_out

        folder = try_out(suite, out, device_of(device), Console(), only=only)
        Console().print(f"Every path works. See the table with: harness report {folder}", markup=False)
        return
    folder, done = finish(load(suite, limit=limit, only=only), device, limit, out)
    what = f"Computed {done} shards." if done else "Nothing to do: every pairing is finished."
    Console().print(f"{what} See them with: harness report {folder}", markup=False, highlight=False)


def list_(
    what: Annotated[Listed | None, typer.Argument(help="What to list; everything if left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List defenses, attacks, datasets and suites."""
    from harness.listing import listing

    found = {kind.value: listing(kind.value) for kind in ([what] if what else Listed)}
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for kind, entries in found.items():
        table = Table("name", "what it is", "arguments", title=kind, title_justify="left", box=None, pad_edge=False)
        for entry in entries:
            table.add_row(*(escape(str(entry[column])) for column in ("name", "summary", "arguments")))
        Console().print(table, "")


def check(
    spec: Annotated[str, typer.Argument(metavar="FILE:Class", help="A defense, as a suite's `type` would name it.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Constructor arguments.")] = None,
    dataset: Annotated[str, typer.Option(help="Where the images come from.")] = "digits",
    device: Device = "cpu",
) -> None:
    """Check that a defense (or attack) keeps its contract."""
    from harness.check import check_class

    verdicts = check_class(spec, Path.cwd(), arguments or [], dataset=dataset, device=device_of(device))
    colours = {"passed": "green", "warned": "yellow", "failed": "red"}
    table = Table("", "check", "what was found", box=None, pad_edge=False)
    for verdict in verdicts:
        table.add_row(f"[{colours[verdict.status]}]{verdict.status}[/]", verdict.name, escape(verdict.message))
    Console().print(table)
    if any(verdict.status == "failed" for verdict in verdicts):
        raise typer.Exit(1)


def new(
    kind: Kind, name: Annotated[str, typer.Argument(help="Lower case, such as `mine`; the file becomes mine.py.")]
) -> None:
    """Write the skeleton of a defense or attack into this folder."""
    from harness.scaffold import write

    path, cls = write(kind.value, name, Path.cwd())
    typer.echo(f"Wrote {path.name}. Check it with: harness check {path.name}:{cls}")
    typer.echo(f"Name it in a suite as: type: ./{path.name}:{cls}")


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as suites/train/digits-cnn.yaml.")],
    out: Annotated[Path | None, typer.Option(help="Where the weights and their card go.")] = None,
    device: Device = "cpu",
) -> None:
    """Train a network by a recipe, or go on where it was stopped."""
    from harness.training import train as train_recipe

    console = Console()
    try:
        path = train_recipe(recipe, out=out, device=device_of(device), console=console)
    except KeyboardInterrupt:
        console.print("\nStopped. The last checkpoint is kept; the same command goes on from there.")
        raise typer.Exit(INTERRUPTED) from None
    console.print(f"Wrote {path} and its card.", markup=False, highlight=False)


def doctor() -> None:
    """Examine the installation: versions, devices, caches, and the known traps."""
    from harness.doctor import examine

    findings = examine()
    colours = {"ok": "green", "absent": "yellow", "broken": "red"}
    table = Table("", "what", box=None, pad_edge=False)
    table.add_column("finding", overflow="fold")
    for finding in findings:
        table.add_row(f"[{colours[finding.status]}]{finding.status}[/]", escape(finding.name), escape(finding.detail))
    console = Console()
    console.print(table)
    for finding in (finding for finding in findings if finding.remedy):
        console.print(f"\n{finding.name}, {finding.status}. Mend with:", markup=False, highlight=False)
        console.print(f"    {finding.remedy}", markup=False, highlight=False, soft_wrap=True)
    if any(finding.status == "broken" for finding in findings):
        raise typer.Exit(1)


for _command in (
    *(run, cli_report.report, cli_show.show),
    *(check, new, doctor),
    *(cli_verify.verify, cli_compare.compare, cli_eot.eot, cli_diagnose.diagnose),
    train,
):
    app.command()(_command)
app.command(name="list")(list_)
app.add_typer(cli_weights.app, name="weights")
