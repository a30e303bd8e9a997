"""How long an image of each pairing takes: as measured on images that are done, or else by what the parts declare.

    seconds per image = network evaluations per image, at most x seconds per network evaluation

What an attack declares (`Attack.cost`) is an upper bound, and networks differ in size. So an estimate of one pairing
rests on the nearest measurement there is: on the same pairing, on the same defense, or on any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from harness.attack import UNKNOWN_CLASSES
from harness.evaluation.context import RunContext
from harness.evaluation.examined import Examined
from harness.evaluation.pending import CellRun
from harness.results.columns import Columns


class Durations:
    """Estimates that follow the records of a run as they come in.

    Args:
        context: of the run.
        examined: its defenses, by name.
    """

    def __init__(self, context: RunContext, examined: Mapping[str, Examined]) -> None:
        self._cell_runs = {run.name: run for run in context.cell_runs}
        self._context = context
        self._evaluations = {run.name: self._declared(run, examined) for run in context.cell_runs}
        self._measured: dict[str, tuple[int, float]] = {}
        for run in context.cell_runs:
            self.add(run.name, run.records.numbers("seconds").tolist())

    def add(self, name: str, seconds: list[float]) -> None:
        """Takes in a measurement of some images of a pairing. Those that took no time, such as errors, do not count."""
        count, total = self._measured.get(name, (0, 0.0))
        spent = [value for value in seconds if value > 0]
        if spent:
            self._measured[name] = count + len(spent), total + sum(spent)

    def per_image(self, name: str) -> float:
        """The seconds that an image of a pairing is expected to take. Before any measurement, the unit is arbitrary."""
        if name in self._measured:
            count, seconds = self._measured[name]
            return seconds / count
        defense = self._cell_runs[name].cell.defense.name
        same = [other for other in self._measured if self._cell_runs[other].cell.defense.name == defense]
        return self._evaluations[name] * self._seconds_per_evaluation(same or list(self._measured))

    def _seconds_per_evaluation(self, names: list[str]) -> float:
        """Of some pairings that were measured."""
        evaluations = sum(self._measured[name][0] * self._evaluations[name] for name in names)
        return sum(self._measured[name][1] for name in names) / evaluations if evaluations else 1.0

    def _declared(self, run: CellRun, examined: Mapping[str, Examined]) -> float:
        return declared_evaluations(self._context, run, examined.get(run.cell.defense.name, Examined())) or 1.0


def declared_evaluations(context: RunContext, run: CellRun, found: Examined) -> float | None:
    """The largest number of network evaluations for an image, the verdict included; None if the attack cannot say.

    Args:
        found: of the pairing's defense.
    """
    votes = context.protocol.votes if (found.facts or {}).get("stochastic") else 1
    forward, backward = found.evaluations
    with suppress(Exception):  # a user's method; it only decides what is computed first, and when a process hangs
        cost = run.attack.cost(context.dataset.num_classes or found.num_classes or UNKNOWN_CLASSES)
        return forward * (cost.forwards + 2 * votes) + backward * cost.backwards
    return None


def spent_evaluations(records: Columns, found: Examined) -> NDArray[np.float64]:
    """The network evaluations that images took, (N,), the verdict included.

    Args:
        found: of their defense.
    """
    forward, backward = found.evaluations
    forwards = records.numbers("forwards") + records.draws("clean") + records.draws("adv")
    return forward * forwards + backward * records.numbers("backwards")
