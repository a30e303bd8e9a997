"""A call of `harness.evaluate` as the validated suite that the engine runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.api.attacks import Attacks, Budget, attacks_of
from harness.api.data import GivenData
from harness.config.component import Component
from harness.config.given import Given
from harness.config.validation import parse
from harness.config.yaml_file import Document, Node
from harness.errors import UserError
from harness.results.store import KEPT_IMAGES, MANIFEST
from harness.suite.plan import Cell, Plan
from harness.suite.schema import Suite

NAME = "evaluation"
"""What records call the suite of such a run."""


def plan_of(
    defenses: Sequence[Given],
    attacks: Attacks,
    data: GivenData,
    budget: Budget,
    protocol: dict[str, Any],
    out: Path,
) -> Plan:
    """The plan of a call.

    Args:
        protocol: the keys of a suite's `protocol`.
        out: the results directory, in which `data` are kept that came as an object.

    Raises:
        UserError: whatever is wrong with the call, with its line.
    """
    place = budget.place
    kinds = {bool(defense.instance.stochastic) for defense in defenses}
    known = attacks_of(attacks, budget, kinds)
    kept = {} if data.arrays is None else {"path": str(out / KEPT_IMAGES)}
    written = {
        "suite": NAME,
        "title": f"Evaluation of {', '.join(defense.name for defense in defenses)}"[:200],
        "dataset": {**data.section, **kept},
        "protocol": protocol,
        "defenses": {defense.name: {} for defense in defenses},
        "attacks": {name: {} for name, found in known.items() if any(found.values())},
        "report": {"average": [], "worst": list(known)},
    }
    root = Node.of(written, place)
    suite = parse(Suite, root, "the call of evaluate")
    cells = tuple(Cell(d, a) for d in defenses for a in _met_by(d, known))
    if not cells:
        raise UserError("no attack of the call meets these defenses", remedy="Choose other attacks", where=place)
    return Plan(suite, Document(out / MANIFEST, root), cells, cells)


def _met_by(defense: Given, known: dict[str, dict[bool, Component | None]]) -> list[Component]:
    found = (kinds[bool(defense.instance.stochastic)] for kinds in known.values())
    return [attack for attack in found if attack is not None]
