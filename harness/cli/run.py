"""`harness run`: runs a suite, alone or together with others, on the engine that its options choose."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from harness.cli.mistakes import one_of
from harness.cli.options import FAILED, Device, Limit, Only, Out, Set, SuitePath, finish, say_reading
from harness.errors import UserError
from harness.process.console import new_console
from harness.process.signals import stoppable
from harness.settings import device_of

ENGINES = ("local", "ray")


def run(
    suite: SuitePath,
    only: Only = None,
    settings: Set = None,
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
        int | None, typer.Option(min=1, metavar="N", help="Compute in N processes, among which the cores are divided.")
    ] = None,
    devices: Annotated[
        str | None, typer.Option(metavar="cuda:0,cuda:1", help="Compute in a process on each of these devices.")
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            metavar="|".join(ENGINES),
            help="local: on this machine; ray: on a Ray cluster. Results are the same.",
            **one_of("engine", lambda: ENGINES),
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="With --engine ray: the cluster; by default a running one, or a new one here.",
        ),
    ] = None,
    gpu_share: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1,
            metavar="SHARE",
            help="With --engine ray: the part of a GPU for a shard; by default as measured.",
        ),
    ] = None,
    worker: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Share the results directory with other processes, on any machines with the same file system: start "
            "--worker 1/8 to --worker 8/8. Each begins elsewhere, and takes over what a lost one leaves.",
        ),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            metavar="SECONDS|none",
            help="What an image may take before its process counts as hanging, and is replaced; by default 20 times "
            "what is expected. It works by a process beside this one, which this option starts if no other does.",
        ),
    ] = None,
    log: Annotated[
        list[str] | None,
        typer.Option(
            metavar="tensorboard:DIR|mlflow:URI|wandb:PROJECT",
            help="Send the numbers to an experiment tracker, too; may be repeated.",
        ),
    ] = None,
) -> None:
    """Run a suite, or continue one that was interrupted. This executes the code that the suite names.

    The exit status is 0 if every image has a verdict, and 1 if some pairings failed: their images count as errors,
    neither robust nor misclassified, and the other pairings are finished. It is 2 if a mistake prevented the run, and
    128 + N after signal N (130 after Ctrl-C). A worker ends when nothing is left that no other is computing.

    Examples:

        harness run suites/quickstart.yaml

        harness run suites/quickstart.yaml --only rdc/linf --device cuda

        harness run suites/quickstart.yaml --only rdc --set defenses.rdc.eta=4/255 --out results/wider

        harness run suites/table1_sota.yaml --devices cuda:0,cuda:1

        harness run suites/table1_sota.yaml --engine ray --address auto

        harness run suites/table1_sota.yaml --log tensorboard:logs

        harness run suites/table1_sota.yaml --smoke
    """
    say_reading(suite)
    from harness.evaluation.crew import Part
    from harness.evaluation.engines.choose import choose
    from harness.suite.plan import load_suite

    names = None if devices is None else [name.strip() for name in devices.split(",")]
    seconds, part = _seconds(timeout), None if worker is None else Part.of(worker)
    options = {"workers": workers, "devices": names, "address": address, "gpu_share": gpu_share, "timeout": seconds}
    chosen = choose(engine, device, **options)  # type: ignore[arg-type]

    if smoke:
        if chosen is not None or worker is not None:
            raise UserError("--smoke runs in this process alone", remedy="Leave out the options that start others")
        from harness.cli.run_progress import Display
        from harness.dry_run.smoke import smoke as try_out

        with stoppable():
            display = Display(new_console())
            folder = try_out(suite, out, device_of(device), display, only=only or None, settings=settings or [])
        new_console().print(f"Every path works. See the table with: harness report {folder}", markup=False)
        return
    plan = load_suite(suite, limit=limit, only=only or None, settings=settings or [])
    where = names[0] if names else device
    shared = {"engine": chosen, "timeout": seconds, "part": part, "log": log or ()}
    folder, done = finish(plan, where, limit, out, retry_errors=retry_errors, **shared)  # type: ignore[arg-type]
    rest = "other workers compute what is left" if done.left else "every pairing is finished"
    computed = f"Computed {done.computed} shard{'s' if done.computed > 1 else ''}."
    what = computed if done.computed else f"Nothing to do: {rest}."
    if done.left and done.computed:
        what += f" Other workers are still computing {done.left}."
    if done.failures:
        made = f"{computed} " if done.computed else ""
        again = "repeats what failed" if retry_errors else "without --no-retry-errors repeats what failed"
        count = len(done.failures)
        what = f"{made}{count} pairing{'s' if count > 1 else ''} failed. The same command {again}."
    new_console().print(f"{what} See the results with: harness report {folder}", markup=False, highlight=False)
    if done.failures:
        raise typer.Exit(FAILED)


def _seconds(timeout: str | None) -> float | None:
    """The value of `--timeout`; infinity for "none"."""
    if timeout is None or timeout == "none":
        return math.inf if timeout else None
    try:
        return float(timeout)
    except ValueError as error:
        raise UserError(
            f"'{timeout}' is no number of seconds", remedy="Use --timeout 600, or --timeout none"
        ) from error
