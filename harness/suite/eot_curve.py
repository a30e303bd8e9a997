"""Checks whether an attack averages over enough draws, by varying the attack's `eot` in one cell of a suite.

This is a normal run of a suite with one defense and one swept attack. Its report says whether robust accuracy still
falls (see `harness.reporting.tables.verdict`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.config.signature import parameters
from harness.config.yaml_file import Document, Node
from harness.errors import UserError
from harness.suite.build import build_defense
from harness.suite.names import Only, eot_suite
from harness.suite.plan import Cell, Plan, check, load_suite

DRAWS = (1, 5, 10, 20)


def plan(
    path: Path,
    only: Only,
    draws: Sequence[int] = DRAWS,
    *,
    limit: int | None = None,
    settings: Sequence[str] = (),
) -> Plan:
    """The suite that varies `eot` in one cell of the suite at `path`, and is otherwise the same.

    It builds the defense, so its checkpoint must be available.

    Args:
        only: "DEFENSE/ATTACK".
        draws: values of `eot`, two or more.
        limit: use only the first `limit` images.
        settings: values that replace those of the suite, see `harness.suite.overrides`.

    Raises:
        UserError: `only` names no cell or several, the attack has no `eot`, the defense is deterministic, or an attack
            with so many draws does not fit it.
    """
    if len(set(draws)) < 2 or min(draws) < 1:
        raise UserError(
            f"{list(draws)} is not a list of two or more different draw counts",
            remedy="Write, for example, --draws 1,5,10",
        )
    suite = load_suite(path, only=only, settings=settings)
    cell = _cell(suite, only)
    defense = build_defense(cell.defense)
    if not defense.stochastic:
        raise UserError(
            f"{cell.defense.title} is deterministic: every draw is the same, and EOT changes nothing",
            remedy="Name a stochastic defense",
            where=cell.defense.place,
        )
    varied = replace(check(_varied(suite, cell, sorted(set(draws))), limit=limit), settings=suite.settings)
    for each in varied.cells:
        if reason := each.attack.build().unsuitable(defense):
            count = each.attack.arguments["eot"]
            raise UserError(
                f"{cell.attack.title} with eot {count} does not fit {cell.defense.title}: {reason}",
                remedy="Remove this count from --draws",
                where=cell.attack.place,
            )
    return varied


def _cell(suite: Plan, only: Only) -> Cell:
    if len(suite.cells) > 1 or only is None:
        names = [f"{cell.defense.name}/{cell.attack.name}" for cell in suite.cells]
        listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        raise UserError("EOT can be varied in one pairing at a time", remedy=f"Set --only to one of: {listed}")
    [cell] = suite.cells
    if "eot" not in parameters(cell.attack.cls):
        raise UserError(
            f"{cell.attack.title} has no argument 'eot' to vary",
            remedy="Name an attack that averages over draws, such as pgd",
            where=cell.attack.place,
        )
    return cell


def _varied(suite: Plan, cell: Cell, draws: Sequence[int]) -> Document:
    """A suite of this cell alone. Its attack includes the changes that the pairing makes to it."""
    root = suite.document.root
    defense, attack = cell.defense.name, cell.attack.name

    def node(value: object) -> Node:
        return replace(root, value=value)

    facts = {
        "suite": node(eot_suite(suite.suite.suite, defense, attack)),
        "title": node(f"EOT of {cell.attack.label or attack} against {cell.defense.label or defense}"),
        "defenses": node({defense: cell.defense.node}),
        "attacks": node({attack: cell.attack.node}),
        "sweep": node({f"attack.{attack}.eot": node([node(count) for count in draws])}),
        "report": node({"vote": node(suite.suite.report.vote)}),
    }
    kept = {key: root.value[key] for key in ("dataset", "protocol") if key in root.value}
    return replace(suite.document, root=node(facts | kept))
