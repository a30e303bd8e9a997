"""The driver of a run: hands out jobs to an engine, checks what comes back, and is the only one that stores it."""

from __future__ import annotations

from harness.evaluation.context import RunContext
from harness.evaluation.engines.engine import Engine, Lost
from harness.evaluation.examined import Examined
from harness.evaluation.job import Job
from harness.evaluation.pending import CellRun
from harness.evaluation.queue import Queue
from harness.evaluation.returned import refuse_unlike
from harness.evaluation.shard import Shard, failed_shard
from harness.process import signals
from harness.results.store import Lock


class Session:
    """Finishes the pairings of a run.

    Args:
        context: of the run.
        needed: pairings with something left to do.
        lock: on the results directory.
        engine: which is at work on the run.
    """

    def __init__(self, context: RunContext, needed: list[CellRun], lock: Lock, engine: Engine) -> None:
        self._context, self._needed, self._lock, self._engine = context, needed, lock, engine
        self._begun: set[str] = set()
        self.examined: dict[str, Examined] = {}
        """What was found out about the defenses, by name."""

    def examine(self) -> None:
        """Builds each defense and looks at it before it is attacked. Raises as `Worker.examine`."""
        self.examined = self._engine.examine([cell_run.name for cell_run in self._needed])
        for cell_run in self._needed:
            self.examined[cell_run.cell.defense.name].hand_on(cell_run.cell.defense)

    def finish(self) -> int:
        """Computes the missing shards of every pairing, and returns how many there were."""
        self._queue = Queue(self._context, self._needed, self.examined, longest_first=self._engine.parallel)
        count = 0
        for job, outcome in self._engine.compute(self._take):
            if isinstance(outcome, Lost):
                count += self._give_up(job, outcome)
            else:
                self._store(job, outcome)
                count += 1
        return count

    def _take(self) -> Job | None:
        job = self._queue.take()
        if job and job.pairing not in self._begun:
            self._begun.add(job.pairing)
            self._context.callback.began(self._cell_run(job.pairing))
        return job

    def _store(self, job: Job, shard: Shard) -> None:
        cell_run, (records, tensors) = self._cell_run(job.pairing), shard
        refuse_unlike(job, cell_run, self._context.images.take(slice(*job.bounds)), shard)
        signals.refuse_to_go_on()  # a defense may have caught the signal
        self._lock.check()
        cell_run.stored.write(*job.bounds, records, tensors)
        self._lock.check()
        cell_run.shards[job.bounds] = records
        self._queue.done(job, [record.seconds for record in records])
        self._context.callback.finished(cell_run, records)

    def _give_up(self, job: Job, lost: Lost) -> int:
        """Stores errors for a shard that could not be computed, and for all of its pairing that nobody has begun."""
        cell_run = self._cell_run(job.pairing)
        self._context.callback.note(f"{job}: {lost.why}; the pairing is given up, and the others go on")
        shards = [job.bounds, *self._queue.give_up(job.pairing)]
        for bounds in shards:
            images = self._context.images.take(slice(*bounds))
            self._store(Job(job.pairing, bounds), failed_shard(images, cell_run.seeds, lost.why))
        return len(shards)

    def _cell_run(self, name: str) -> CellRun:
        return next(run for run in self._needed if run.name == name)
