"""How long a job may take before its process counts as hanging: `--timeout`, or else a limit from measured cost.

    limit of a job = ALLOWANCE + images x seconds per image

Without `--timeout`, an image may take `PATIENCE` times what it is expected to take at most: what the images of its
pairing have taken on average, or the time of as many network evaluations as the attack declares (`Attack.cost`), if
that is more, since images that fall at once are cheap. Before any image of a pairing is done there is no such limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.evaluation.context import RunContext
from harness.evaluation.durations import declared_evaluations, spent_evaluations
from harness.evaluation.examined import Examined
from harness.evaluation.job import Job
from harness.results.columns import columns_of
from harness.results.record import Record

ALLOWANCE = 300.0
"""Seconds that every job may take beyond its images, as for a defense that is built from a large checkpoint."""

PATIENCE = 20.0
"""How many times longer than expected an image may take, without `--timeout`."""


@dataclass
class _Spent:
    """What the images of a pairing took that are done: their number, seconds and network evaluations."""

    images: int = 0
    seconds: float = 0.0
    evaluations: float = 0.0


class TimeLimits:
    """The limits of a run's jobs, which follow its records as they come in.

    Args:
        context: of the run.
        timeout: seconds for an image; infinity for no limit; None for one from measured cost.
    """

    def __init__(self, context: RunContext, timeout: float | None = None) -> None:
        self._context, self._timeout = context, timeout
        self._cell_runs = {run.name: run for run in context.cell_runs}
        self._examined: Mapping[str, Examined] = {}
        self._spent: dict[str, _Spent] = {}

    def learn(self, examined: Mapping[str, Examined]) -> None:
        """Takes in what was found out about the defenses, and the records that are stored already."""
        self._examined = examined
        for run in self._context.cell_runs:
            self.add(run.name, run.records)

    def add(self, pairing: str, records: Sequence[Record]) -> None:
        """Takes in some records. Images without a verdict do not count: they ended early, or took no time."""
        columns = columns_of(records)
        done = ~columns.failed & (columns.numbers("seconds") > 0)
        spent = self._spent.setdefault(pairing, _Spent())
        spent.images += int(done.sum())
        spent.seconds += float(columns.numbers("seconds")[done].sum())
        spent.evaluations += float(spent_evaluations(columns, self._found(pairing))[done].sum())

    def examination(self, pairings: Sequence[str]) -> float | None:
        """Seconds that the examination of a defense may take, which meets these attacks; None for no limit."""
        shard = min(self._context.protocol.shard, len(self._context.images))
        return _finite(None if self._timeout is None else ALLOWANCE + self._timeout * shard * len(pairings))

    def computation(self, job: Job) -> float | None:
        """Seconds that a job may take, as far as is known now; None for no limit."""
        each = self._expected(job.pairing) if self._timeout is None else self._timeout
        return _finite(None if each is None else ALLOWANCE + each * job.images)

    def _expected(self, pairing: str) -> float | None:
        """`PATIENCE` times the largest number of seconds that an image of a pairing should take, if it is known."""
        spent = self._spent.get(pairing, _Spent())
        if not spent.images:
            return None
        run = self._cell_runs[pairing]
        most = declared_evaluations(self._context, run, self._found(pairing)) or 0.0
        longest = spent.seconds / spent.evaluations * most if spent.evaluations else 0.0
        return PATIENCE * max(spent.seconds / spent.images, longest)

    def _found(self, pairing: str) -> Examined:
        return self._examined.get(self._cell_runs[pairing].cell.defense.name, Examined())


def _finite(seconds: float | None) -> float | None:
    return None if seconds is None or math.isinf(seconds) else seconds
