"""The driver of a run: hands out jobs to an engine, checks what comes back, and is the only one that stores it."""

from __future__ import annotations

from collections import Counter

from harness.evaluation.context import RunContext
from harness.evaluation.engines.engine import Engine, Lost
from harness.evaluation.examined import Examined
from harness.evaluation.job import Job
from harness.evaluation.outlook import Outlook
from harness.evaluation.pending import CellRun
from harness.evaluation.queue import Queue
from harness.evaluation.returned import refuse_unlike
from harness.evaluation.shard import Shard, failed_shard
from harness.evaluation.time_limits import TimeLimits
from harness.process import signals
from harness.results.store import Lock, ShardRange

HOPELESS = 2
"""Lost shards after which a pairing without any result is given up."""


class Session:
    """Finishes the pairings of a run.

    Args:
        context: of the run.
        needed: pairings with something left to do.
        lock: on the results directory.
        engine: which is at work on the run.
        limits: of its jobs.
    """

    def __init__(
        self, context: RunContext, needed: list[CellRun], lock: Lock, engine: Engine, limits: TimeLimits
    ) -> None:
        self._context, self._needed, self._lock, self._engine = context, needed, lock, engine
        self._limits = limits
        self._begun: set[str] = set()
        self._lost: Counter[str] = Counter()
        self.examined: dict[str, Examined] = {}
        """What was found out about the defenses, by name."""

    def examine(self) -> None:
        """Builds each defense and looks at it before it is attacked. Raises as `Worker.examine`."""
        self._context.callback.examining(list(dict.fromkeys(run.cell.defense.name for run in self._needed)))
        self.examined = self._engine.examine([cell_run.name for cell_run in self._needed], self._limits)
        for cell_run in self._needed:
            self.examined[cell_run.cell.defense.name].hand_on(cell_run.cell.defense)
        self._limits.learn(self.examined)

    def finish(self) -> int:
        """Computes the missing shards of every pairing, and returns how many there were."""
        self._queue = Queue(self._context, self._needed, self.examined, longest_first=self._engine.parallel)
        self._outlook = Outlook(self._context.cell_runs, self._queue.durations, self._engine.workers())
        self._context.callback.planned(self._outlook)
        count = 0
        for job, outcome in self._engine.compute(self._take, self._limits):
            self._outlook.over(job)
            if isinstance(outcome, Lost) and len(job.shards) > 1:
                self._context.callback.note(f"{job}: {outcome.why}; trying its shards one by one")
                self._queue.put_back(job)
                self._forget(job)
            elif isinstance(outcome, Lost):
                count += self._give_up(job, outcome)
            else:
                for bounds, shard in zip(job.wanted, outcome, strict=True):
                    self._store(self._cell_run(job.pairing), bounds, shard)
                count += len(outcome)
                self._forget(job)
        return count

    def _take(self) -> Job | None:
        job = self._queue.take()
        if job and job.pairing not in self._begun:
            self._begun.add(job.pairing)
            self._context.callback.began(self._cell_run(job.pairing))
        if job:
            self._outlook.took(job)
        return job

    def _store(self, cell_run: CellRun, bounds: ShardRange, shard: Shard) -> None:
        records, tensors = shard
        refuse_unlike(cell_run, bounds, self._context.images.take(slice(*bounds)), shard)
        signals.refuse_to_go_on()  # a defense may have caught the signal
        self._lock.check()
        cell_run.stored.write(*bounds, records, tensors)
        self._lock.check()
        cell_run.shards[bounds] = records
        self._queue.done(cell_run.name, [record.seconds for record in records])
        self._limits.add(cell_run.name, records)
        self._context.callback.finished(cell_run, records)
        if not cell_run.missing:
            cell_run.compact()

    def _give_up(self, job: Job, lost: Lost) -> int:
        """Stores errors for a shard that could not be computed. A pairing of which nothing ever can is given up.

        That is one that has lost `HOPELESS` shards and has no other result: each of them took several tries.
        """
        cell_run = self._cell_run(job.pairing)
        self._lost[job.pairing] += 1
        hopeless = self._lost[job.pairing] >= HOPELESS and bool(cell_run.records.failed.all())
        what = "the pairing is given up" if hopeless else "its images are errors"
        self._context.callback.note(f"{job}: {lost.why}; {what}, and the others go on")
        shards = [*job.wanted, *(self._queue.give_up(job.pairing) if hopeless else [])]
        for bounds in shards:
            images = self._context.images.take(slice(*bounds))
            self._store(cell_run, bounds, failed_shard(images, cell_run.seeds, lost.why))
        self._forget(job)
        return len(shards)

    def _forget(self, job: Job) -> None:
        """Removes the journals of a job, which is stored as a whole, or will be begun in another way."""
        if self._context.journals:
            self._context.journals.remove(self._cell_run(job.pairing).stored, {job.bounds, *job.shards})

    def _cell_run(self, name: str) -> CellRun:
        return next(run for run in self._needed if run.name == name)
