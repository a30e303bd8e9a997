"""`harness eot`: checks whether an attack averages over enough draws of a stochastic defense."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import FAILED, Device, Limit, Only, Out, Set, SuitePath, finish, say_reading
from harness.errors import UserError
from harness.process.console import new_console

Draws = Annotated[str, typer.Option(metavar="N,N,..", help="The values of eot.")]


def eot(
    suite: SuitePath,
    only: Only = None,
    settings: Set = None,
    draws: Draws = "1,5,10,20",
    device: Device = "auto",
    limit: Limit = None,
    out: Out = None,
) -> None:
    """Vary the EOT of one pairing's attack, and say whether robust accuracy has stopped falling.

    This is a separate run, in results/SUITE-eot-DEFENSE-ATTACK. After an interruption, the same command continues; more
    --draws add to it. `harness report` shows the same curve.

    Examples:

        harness eot suites/quickstart.yaml --only rdc/linf

        harness eot suites/quickstart.yaml --only rdc/linf --draws 1,2,4,8 --limit 16
    """
    say_reading(suite)
    from harness.reporting import report
    from harness.suite.eot_curve import plan

    folder, done = finish(
        plan(suite, only or None, _counts(draws), limit=limit, settings=settings or []), device, limit, out
    )
    new_console().print(report(folder))
    if done.failures:
        raise typer.Exit(FAILED)


def _counts(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"--draws is '{text}'", remedy="Give whole numbers, such as --draws 1,5,10,20") from error
