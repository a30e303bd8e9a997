"""The default engine: everything in this process, one job after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from harness.evaluation.context import RunContext
from harness.evaluation.engines.engine import Engine, Lost
from harness.evaluation.examined import Examined
from harness.evaluation.job import Job
from harness.evaluation.shard import Shard
from harness.evaluation.time_limits import TimeLimits
from harness.evaluation.worker import Worker


class Local(Engine):
    """Computes in this process, on the device of the run. A job cannot be lost: a fault ends the run itself.

    Nobody can end this process and go on, so that a job has no limit of time here: for `--timeout`, `choose` starts
    another process.

    Example:
        >>> Local().parallel
        False
    """

    parallel = False

    def __init__(self) -> None:
        self._worker: Worker | None = None

    @contextmanager
    def working(self, context: RunContext) -> Iterator[None]:
        self._worker = Worker(context)
        try:
            yield
        finally:
            self._worker = None

    def examine(self, pairings: Sequence[str], limits: TimeLimits) -> dict[str, Examined]:
        return self._at_work().examine(pairings)

    def compute(self, take: Callable[[], Job | None], limits: TimeLimits) -> Iterator[tuple[Job, list[Shard] | Lost]]:
        worker = self._at_work()
        while job := take():
            yield job, worker.compute(job)

    def _at_work(self) -> Worker:
        if self._worker is None:
            raise RuntimeError("the engine is used outside of its `working` block")
        return self._worker
