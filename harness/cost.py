"""What a suite will cost, before it runs: images x passes x network evaluations."""

from __future__ import annotations

from dataclasses import dataclass

from harness.defense import Defense
from harness.errors import UserError
from harness.suite import Plan
from harness.survey import load_images

BACKWARD = 1.2
"""A backward pass to the input, in forward passes: forward with input gradient was measured at 2.2 forwards."""


@dataclass(frozen=True)
class CellCost:
    """Upper bounds for one pairing: passes per image that is never fooled, verdicts included.

    Attributes:
        evaluations: network evaluations of all images, a backward pass counted as 1.2.
    """

    defense: str
    attack: str
    threat: str
    method: str
    images: int
    forwards: float
    backwards: float
    evaluations: float


def estimate(plan: Plan) -> list[CellCost]:
    """The cost of every pairing. Builds the defenses, so checkpoints must be there.

    Raises:
        UserError: as `harness.run.run` does before it attacks anything.
    """
    dataset, images = load_images(plan)
    defenses: dict[str, Defense] = {}
    costs = []
    for cell in plan.cells:
        name = cell.defense.name
        if name not in defenses:
            defenses[name] = cell.defense.build()
        defense, attack = defenses[name], cell.attack.build()
        if reason := attack.unsuitable(defense):
            raise UserError(
                f"attack '{cell.attack.name}' does not fit defense '{name}': {reason}", where=cell.attack.place
            )
        search = attack.cost(dataset.num_classes)
        votes = 2 * (plan.suite.protocol.votes if defense.stochastic else 1)
        forwards, backwards = search.forwards + votes, search.backwards
        evaluations = len(images) * defense.cost() * (forwards + BACKWARD * backwards)
        costs.append(
            CellCost(
                name,
                cell.attack.name,
                str(attack.threat),
                attack.describe(),
                len(images),
                forwards,
                backwards,
                evaluations,
            )
        )
    return costs
