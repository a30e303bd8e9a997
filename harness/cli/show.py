"""`harness show`: prints what a suite costs, which files are missing, and the suite as resolved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.console import Console
from rich.text import Text

from harness.cli.columns import Column, Columns
from harness.cli.options import Device, Limit, Only, Set, SuitePath, say_reading
from harness.process.console import echo, new_console
from harness.process.signals import stoppable
from harness.settings import device_of

if TYPE_CHECKING:
    from harness.dry_run.cost import CellCost
    from harness.suite.plan import Plan

LISTED = 12
"""The largest number of class folders that are printed with their labels; the manifest of a run has all of them."""

Measure = Annotated[bool, typer.Option("--measure", help="Measure the speed of each network, and estimate hours.")]
Full = Annotated[bool, typer.Option("--full", help="Print the suite as resolved too, with every default.")]
Small = Annotated[bool, typer.Option("--smoke", help="Show the suite as `harness run --smoke` runs it.")]


def show(
    suite: SuitePath,
    only: Only = None,
    settings: Set = None,
    limit: Limit = None,
    full: Full = False,
    measure: Measure = False,
    device: Device = "auto",
    smoke: Small = False,
) -> None:
    """Print an upper bound on a suite's cost; with --full, also the suite as resolved.

    Checkpoints may be missing: the output lists the missing ones, and how to get them. Defenses and attacks are built
    to count their passes, which executes the code that the suite names.

    Examples:

        harness show suites/table1_sota.yaml

        harness show suites/table1_sota.yaml --measure --device cuda

        harness show suites/quickstart.yaml --only rdc --full --set defenses.rdc.eta=4/255
    """
    say_reading(suite)
    from harness.dry_run import placeholders
    from harness.dry_run.cost import estimate, hours, speeds
    from harness.dry_run.meta_checkpoints import all_on_meta
    from harness.dry_run.smoke import small
    from harness.results.environment import device_name
    from harness.suite.plan import load_suite

    console = new_console()
    with stoppable(), placeholders.placeholder_cache():
        plan = all_on_meta(load_suite(suite, limit=limit, only=only or None, settings=settings or []))
        plan = small(plan) if smoke else plan
        costs = estimate(plan)
        where = device_of(device) if measure else None
        speed = speeds(plan, where) if where else None
        console.print(_cost_table(costs, hours(costs, speed) if speed else None))
        if where and speed:
            console.print(f"\nNetwork evaluations per second, measured on {device_name(where)}, of random weights too:")
            console.print(_speed_table(speed))
        _print_absent(plan, console)
        console.print("")
        if plan.sweeps:
            console.print(_sweeps_table(plan), "")
        _print_labels(plan, console)
        if full:
            echo(yaml.safe_dump(plan.resolved(), sort_keys=False, allow_unicode=True))
        else:
            console.print("The suite as resolved, with every default: --full", style="dim", highlight=False)


def _print_labels(plan: Plan, console: Console) -> None:
    """Prints which class folder has which label."""
    from harness.evaluation.pending import load_labels

    labels = load_labels(plan)
    if labels is None:
        return
    pairs = [f"{label} = '{folder}'" for folder, label in labels.of.items()]
    if len(pairs) > LISTED:
        pairs = [*pairs[: LISTED - 1], "…", pairs[-1]]
    known = labels.num_classes if labels.num_classes is not None else "an unknown number of"
    text = f"{len(labels.of)} class folders, of {known} classes, became labels {labels.how}: {', '.join(pairs)}."
    remark = f"{labels.remark[:1].upper()}{labels.remark[1:]}."
    lines = (text, remark, "") if labels.remark else (text, "")
    console.print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=True)


def _sweeps_table(plan: Plan) -> Columns:
    from harness.suite.names import spelt

    rows = []
    for sweep in plan.sweeps:
        of = f"{sweep.kind[:-1]} {sweep.name}: {', '.join(sweep.paths)}"
        for name, values in sweep.variants.items():
            rows.append((of, ", ".join(map(spelt, values)), name))
            of = ""
    return Columns(["of", "values", "in results"], rows, title="Sweeps")


def _cost_table(costs: list[CellCost], hours: list[float] | None) -> Columns:
    numeric = ["images", "forwards\nper image", "backwards\nper image", "evaluations\nper image", "in total"]
    heads = [Column(head, right=True) for head in numeric + (["hours"] if hours else [])]
    rows: list[list[str | Text]] = []
    for at, cost in enumerate(costs):
        counts = (cost.images, cost.forwards, cost.backwards, cost.per_image, cost.evaluations)
        values = [_count(count) for count in counts] + ([_hours(hours[at])] if hours else [])
        pairing = Text(f"{cost.defense}/{cost.attack}\n").append(cost.told, style="dim")
        rows.append([pairing, *values])
    total = _count(sum(cost.evaluations for cost in costs))
    rows.append(["total", *[""] * 4, total, *([_hours(sum(hours))] if hours else [])])
    title = "Upper bounds in passes and network evaluations (misclassified images take fewer)"
    return Columns(["pairing", *heads], rows, title=title)


def _speed_table(speed: dict[str, float]) -> Columns:
    return Columns(["", Column("", right=True)], [(name, f"{value:,.1f}") for name, value in speed.items()])


def _count(value: float) -> str:
    """A number that fits into a column: large numbers have four digits, as in 1.695 G."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{value / size:.4g}\N{NO-BREAK SPACE}{unit}"
    return f"{value:,.0f}"


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _print_absent(plan: Plan, console: Console) -> None:
    from harness.datasets.by_name import absent_dataset, how_to_get, request_of
    from harness.dry_run import placeholders

    defenses = {cell.defense.name: cell.defense for cell in plan.cells}
    entries = {entry.name: entry for defense in defenses.values() for entry in placeholders.absent(defense)}
    lines = [f"  {name}: {placeholders.how_to_get(entry)}" for name, entry in entries.items()]
    if absent_dataset(name := plan.suite.dataset.name, request_of(plan.suite.dataset)):
        lines.append(f"  {name}: {how_to_get(name)}")
    if lines:
        what = "\nMissing, and needed by a run (costs are counted by their architectures alone):"
        console.print(what, *lines, sep="\n", markup=False, highlight=False, soft_wrap=True)
