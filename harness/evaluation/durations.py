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
        self._earlier: dict[str, tuple[int, float]] = {}
        self._supposed: dict[str, tuple[int, float]] = {}
        for run in context.cell_runs:
            _add(self._earlier, run.name, run.records.numbers("seconds").tolist())

    def add(self, name: str, seconds: list[float]) -> None:
        """Takes in a measurement of some images of a pairing. Those that took no time, such as errors, do not count."""
        _add(self._measured, name, seconds)

    def suppose(self, name: str, seconds: float) -> None:
        """Takes in how long an image of a pairing may take, as long as none is done."""
        self._supposed[name] = 1, seconds

    @property
    def any_known(self) -> bool:
        """Whether anything was measured."""
        return bool(self._measured or self._earlier or self._supposed)

    def known(self, name: str) -> bool:
        """Whether an image of a pairing is done."""
        return name in self._measured or name in self._earlier

    def measured(self, name: str) -> float | None:
        """The seconds that an image of a pairing has taken in this session, on average; None if none is done."""
        count, seconds = self._measured.get(name, (0, 0.0))
        return seconds / count if count else None

    def per_image(self, name: str) -> float:
        """The seconds that an image of a pairing is expected to take. Before any measurement, the unit is arbitrary.

        What an earlier session measured counts until this one has a measurement: it may have been another machine.
        """
        known = {**self._supposed, **self._earlier, **self._measured}
        if name in known:
            count, seconds = known[name]
            return seconds / count
        defense = self._cell_runs[name].cell.defense.name
        same = [other for other in known if self._cell_runs[other].cell.defense.name == defense]
        near = [known[other] for other in same or known]
        evaluations = sum(known[other][0] * self._evaluations[other] for other in same or known)
        speed = sum(seconds for _, seconds in near) / evaluations if evaluations else 1.0
        return self._evaluations[name] * speed

    def _declared(self, run: CellRun, examined: Mapping[str, Examined]) -> float:
        return declared_evaluations(self._context, run, examined.get(run.cell.defense.name, Examined())) or 1.0


def _add(to: dict[str, tuple[int, float]], name: str, seconds: list[float]) -> None:
    count, total = to.get(name, (0, 0.0))
    if spent := [value for value in seconds if value > 0]:
        to[name] = count + len(spent), total + sum(spent)


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
