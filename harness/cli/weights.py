"""`harness weights`: lists checkpoints and gets them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from harness.cli.columns import Column, Columns
from harness.cli.mistakes import Command, Group
from harness.errors import UserError
from harness.process.console import echo, new_console, plain_column
from harness.process.signals import stoppable

if TYPE_CHECKING:
    from harness.weights import download
    from harness.weights.manage import Item

app = typer.Typer(cls=Group, no_args_is_help=True, help="List, fetch, verify and convert checkpoints.")

What = Annotated[
    str | None, typer.Argument(metavar="[NAME|SUITE|URL]", help="One checkpoint, or those that a suite needs.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Do not use the network.")]
COLOURS = {"packaged": "green", "here": "green", "to fetch": "yellow", "by hand": "yellow", "missing": "red"}


@app.command(name="list", cls=Command)
def list_(what: What = None) -> None:
    """List checkpoints: what each one is, whether it is available, and where it comes from."""
    found = _items(what)
    rows = [
        (
            Text(item.ref).append(f"\n{item.summary}", style="dim"),
            Text(item.state, style=COLOURS[item.state]),
            f"{item.size / 2**20:.1f}\N{NO-BREAK SPACE}MiB" if item.size is not None else "",
            (item.sha256 or "")[:8],
        )
        for item in found
    ]
    console = new_console()
    console.print(Columns(["name", "state", Column("size", right=True), "sha256"], rows))
    for item in found:
        if item.state in ("to fetch", "by hand"):
            source = f"\n{item.ref}: {item.manual or 'from'} {item.origin}\n  to {item.path}"
            console.print(source, markup=False, soft_wrap=True)


@app.command(cls=Command)
def fetch(
    what: Annotated[str, typer.Argument(metavar="NAME|SUITE|URL", help="One checkpoint, or those a suite needs.")],
    sha256: Annotated[
        str | None, typer.Option(metavar="HASH", help="The sha256 of the file at a URL, in hexadecimal.")
    ] = None,
    offline: Offline = False,
) -> None:
    """Download checkpoints into the cache. An interrupted download continues where it stopped."""
    from harness.weights import manage

    failures = []
    columns = (plain_column(), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with stoppable(), Progress(*columns, TimeRemainingColumn(), console=new_console(stderr=True)) as progress:
        for item in _items(what):
            try:
                path = manage.fetch(item, lambda name: _watch(progress, name), sha256=sha256, offline=offline)
            except UserError as error:
                failures.append(error)
            else:
                echo(f"{item.ref}: {path}")
    for failure in failures[:-1]:
        echo(f"error: {failure}", err=True)
    if failures:
        raise failures[-1]


@app.command(cls=Command)
def verify(what: What = None) -> None:
    """Compare the hashes of the available checkpoints with the expected ones."""
    from harness.weights import manage

    failures = []
    for item in _items(what):
        if what is None and item.state not in ("packaged", "here"):
            continue
        try:
            echo(f"ok      {item.ref}  {manage.verify(item)}")
        except UserError as error:
            failures.append(item.ref)
            echo(f"failed  {item.ref}  {error}")
    if failures:
        raise typer.Exit(1)


@app.command(name="import", cls=Command)
def import_(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A file of weights; FILE#key=KEY: one of several.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The safetensors file to write.")],
    last: Annotated[
        bool, typer.Option("--last", help="Take the last weights of a score-SDE training state, not the average.")
    ] = False,
) -> None:
    """Convert a file of weights to safetensors, without executing code in it."""
    from harness.weights import manage

    with stoppable():
        loaded = manage.convert(source, target, ema=not last)
    echo(f"{source}: {loaded.format}, {len(loaded.tensors)} tensors")
    for note in loaded.notes:
        echo(f"  {note}")
    echo(f"Wrote {target}. Name it in a suite as: weights: {target}")


def _items(what: str | None) -> list[Item]:
    from harness.suite.checkpoints import items
    from harness.weights import manage, published
    from harness.weights.checkpoint import is_address, packaged, split_key

    if what is None:
        return items()
    known = {*packaged(), *(entry.name for entry in published.entries())}
    plain, _ = split_key(what)
    if plain in known or is_address(what):
        return [manage.item(what)]
    if what.endswith((".yaml", ".yml")):
        return items(Path(what))
    return [manage.item(what)] if Path(plain).exists() else [_unknown(what, known)]


def _unknown(what: str, known: set[str]) -> Item:
    from harness.errors import nearest

    raise UserError(f"no checkpoint, suite or file is called '{what}'", remedy=nearest(what, known))


def _watch(progress: Progress, name: str) -> download.Progress:
    """Shows a bar from the first block on: a file that is in the cache already needs none."""
    tasks: list[TaskID] = []

    def show(have: int, total: int | None) -> None:
        if not tasks:
            tasks.append(progress.add_task(name, total=None))
        progress.update(tasks[0], completed=have, total=total)

    return show
