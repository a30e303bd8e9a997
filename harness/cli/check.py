"""`harness check`: whether a defense or an attack keeps its contract; or all defenses of a suite, on its images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from harness.checks.finding import COLOURS, Finding
from harness.cli.columns import Columns
from harness.cli.named import SUITES, components
from harness.cli.options import Device, Only, Set, say_reading
from harness.errors import UserError
from harness.process.console import new_console
from harness.process.signals import stoppable
from harness.settings import device_of

if TYPE_CHECKING:
    import torch

    from harness.suite.plan import Plan


def check(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SUITE|FILE:Class|NAME",
            help="A suite; or a defense or an attack, in the form of a suite's `type`.",
            autocompletion=components,
        ),
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Constructor arguments of a class.")
    ] = None,
    only: Only = None,
    settings: Set = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The dataset of the images for a class; by default that of its weights, or digits.",
        ),
    ] = None,
    path: Annotated[
        Path | None, typer.Option(metavar="PATH", help="A folder, zip or .npz file with the images for a class.")
    ] = None,
    device: Device = "cpu",
) -> None:
    """Check that a defense, attack or certificate keeps the contract of its base class, or all defenses of a suite do.

    A suite's defenses are checked on the suite's own images. The exit status is 1 if a check failed.

    Examples:

        harness check suites/quickstart.yaml

        harness check suites/quickstart.yaml --only rdc --set defenses.rdc.eta=4/255

        harness check mine.py:Mine width=64 --dataset cifar10

        harness check mine.py:Mine --path photos
    """
    if spec.endswith(SUITES):
        if arguments or dataset or path:
            extra = f"'{arguments[0]}'" if arguments else "--dataset" if dataset else "--path"
            raise UserError(
                f"{extra} is for a class, and {spec} is a suite, which names its arguments and images itself",
                remedy="Change the suite, or a value of it with --set, such as --set dataset.name=cifar10",
            )
        say_reading(Path(spec))
        findings = _check_suite(Path(spec), only, settings or [], device)
    else:
        if only or settings:
            raise UserError(
                f"{'--only' if only else '--set'} is for a suite, and {spec} is none",
                remedy="Give a file that ends in .yaml, or a class with its arguments as KEY=VALUE",
            )
        say_reading(Path(spec))
        from harness.checks import check_class

        with stoppable():
            findings = check_class(
                spec, Path.cwd(), arguments or [], dataset=dataset, path=path, device=device_of(device)
            )
        new_console().print(table_of(findings, "check"))
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(1)


def _check_suite(suite: Path, only: Sequence[str] | None, settings: Sequence[str], device: str) -> list[Finding]:
    """Checks the defenses of a suite one after another, and prints a table for each."""
    from harness.suite.plan import load_suite

    plan = load_suite(suite, only=only or None, settings=settings)
    where = device_of(device)
    console, findings = new_console(), list[Finding]()
    with stoppable():
        for name in dict.fromkeys(cell.defense.name for cell in plan.cells):
            found = _check_defense(plan, name, where)
            findings += found
            console.print(table_of(found, "check", title=f"defense {name}"), "")
    failed = list(dict.fromkeys(finding.name for finding in findings if finding.status == "failed"))
    if failed:
        console.print(f"Failed: {', '.join(failed)}.", markup=False, highlight=False)
    return findings


def _check_defense(plan: Plan, name: str, device: torch.device) -> list[Finding]:
    from harness.checks.by_name import COUNTED
    from harness.checks.defense import check_defense
    from harness.checks.fit import refuse_unfit
    from harness.evaluation.pending import load_images
    from harness.suite.build import build_defense

    dataset, images = load_images(plan)
    component = next(cell.defense for cell in plan.cells if cell.defense.name == name)
    defense = build_defense(component, dataset).to(device)
    few = images.take(slice(COUNTED)).to(device)
    refuse_unfit(defense, few.x, dataset.name, component.title, chosen=True, where=component.place)
    return check_defense(defense, few.x, few.y, dataset=dataset.name, disagreement=dataset.disagreement)


def table_of(findings: Sequence[Finding], subject: str, title: str = "") -> Columns:
    """A table with one line per finding. subject: the heading for their names."""
    rows = [
        (Text(finding.status, style=COLOURS[finding.status]), finding.name, finding.message) for finding in findings
    ]
    return Columns(["", subject, "finding"], rows, title=Text(title, style="bold"))
