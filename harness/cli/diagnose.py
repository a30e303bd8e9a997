"""`harness diagnose`: checks whether the gradients of a defense are masked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Device, Only, Out, Set, SuitePath, say_reading
from harness.errors import UserError, nearest
from harness.process.console import new_console
from harness.process.signals import status_of, stoppable
from harness.settings import device_of

Images = Annotated[int, typer.Option(min=1, metavar="N", help="Use the first N of the suite's images.")]
View = Annotated[
    str | None,
    typer.Option(
        metavar="VIEW",
        help="The gradient: exact, bpda, adjoint, blind, straight_through or tanh; by default that of the suite's "
        "attack.",
    ),
]
Eot = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Draws per gradient; by default those of the suite's attack.")
]
Steps = Annotated[int, typer.Option(min=1, metavar="N", help="Steps of PGD, the white-box attack.")]
LargestEot = Annotated[
    int, typer.Option(min=1, metavar="N", help="Gradient randomness is measured at EOT 1, 2, 4, ... up to this.")
]
Queries = Annotated[int, typer.Option(min=1, metavar="N", help="Queries of Square, the black-box attack.")]
Surrogate = Annotated[
    str | None,
    typer.Option(metavar="DEFENSE", help="Source of transferred examples; by default the suite's first other defense."),
]


def diagnose(
    suite: SuitePath,
    only: Only = None,
    settings: Set = None,
    images: Images = 100,
    gradient: View = None,
    eot: Eot = None,
    steps: Steps = 10,
    largest_eot: LargestEot = 4,
    queries: Queries = 100,
    surrogate: Surrogate = None,
    device: Device = "auto",
    out: Out = None,
) -> None:
    """Look for masked gradients: gradient randomness and the published checks, each with its numbers and its source.

    The budget is that of the defense's first attack in the suite, or of the attack that --only names. Findings are
    stored in the results directory and shown by `harness report`. After an interruption, the same command continues.

    Examples:

        harness diagnose suites/quickstart.yaml --only rdc

        harness diagnose suites/quickstart.yaml --only dc/l2 --images 100 --largest-eot 32
    """
    say_reading(suite)
    from harness.cli.diagnose_progress import Display
    from harness.diagnosis import Options
    from harness.diagnosis import diagnose as run
    from harness.gradients import VIEWS
    from harness.results.store import MANIFEST
    from harness.suite.plan import load_suite

    view = next((name for name in VIEWS if name == gradient), None)
    if view != gradient:
        raise UserError(f"there is no gradient '{gradient}'", remedy=nearest(gradient or "", VIEWS))
    plan = load_suite(suite, only=only or None, settings=settings or [])
    folder = out or Path("results") / plan.suite.suite
    options = Options(images, view, eot, steps, largest_eot, queries, surrogate)
    console = new_console(soft_wrap=True)
    try:
        with stoppable():
            found = run(plan, folder, options, device_of(device), Display(console))
    except KeyboardInterrupt as stop:
        console.print(f"\nStopped. Findings are kept in {folder}; the same command continues from there.", markup=False)
        raise typer.Exit(status_of(stop)) from None
    report = f"See them with: harness report {folder}"
    if not (folder / MANIFEST).is_file():
        report = f"A report shows them beside results: harness run {suite} --out {folder}, then harness report {folder}"
    console.print(f"\nFindings are in {folder / 'diagnose'}. {report}", markup=False)
    if any(finding.status == "failed" for diagnosis in found for finding in diagnosis.findings):
        raise typer.Exit(1)
