"""The driver of a run: hands out jobs to an engine, checks what comes back, and is the only one that stores it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from harness.evaluation.context import RunContext
from harness.evaluation.crew import Alone
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
from harness.results.store import ShardRange

HOPELESS = 2
"""Lost shards after which a pairing without any result is given up."""


class Session:
    """Finishes the pairings of a run.

    Args:
        context: of the run.
        needed: pairings with something left to do.
        crew: who works on the results directory.
        engine: which is at work on the run.
        limits: of its jobs.
    """

    def __init__(
        self, context: RunContext, needed: list[CellRun], crew: Alone, engine: Engine, limits: TimeLimits
    ) -> None:
        self._context, self._needed, self._crew, self._engine = context, needed, crew, engine
        self._limits = limits
        self._begun: set[str] = set()
        self._lost: Counter[str] = Counter()
        self._count = 0
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
        """Computes the missing shards of every pairing, and returns how many this session has computed."""
        while True:
            before = self._count
            longest_first, start = self._engine.parallel, self._crew.start
            self._queue = Queue(self._context, self._needed, self.examined, longest_first=longest_first, start=start)
            self._outlook = Outlook(self._context.cell_runs, self._queue.durations, self._engine.workers())
            self._context.callback.planned(self._outlook)
            for job, outcome in self._engine.compute(self._take, self._limits):
                self._outlook.over(job)
                if isinstance(outcome, Lost):
                    self._lost_job(job, outcome)
                else:
                    for bounds, shard in zip(job.wanted, outcome, strict=True):
                        self._store(self._cell_run(job.pairing), bounds, shard)
                    self._forget(job)
            if not self._crew.more(self._needed, idle=self._count == before):
                return self._count

    def _take(self) -> Job | None:
        """The next job that no other worker has."""
        while job := self._queue.take():
            cell_run = self._cell_run(job.pairing)
            wanted = self._crew.take(cell_run, job.wanted, together=True)
            if not wanted:
                continue
            job = replace(job, wanted=wanted)
            if why := self._crew.lost(cell_run, wanted):
                self._lost_job(job, Lost(why))
                continue
            if job.pairing not in self._begun:
                self._begun.add(job.pairing)
                self._context.callback.began(cell_run)
            self._outlook.took(job)
            return job
        return None

    def _lost_job(self, job: Job, lost: Lost) -> None:
        """Tries the shards of a job one by one that could not be computed together; gives up one that was alone."""
        if len(job.shards) > 1:
            self._context.callback.note(f"{job}: {lost.why}; trying its shards one by one")
            self._crew.release(self._cell_run(job.pairing), job.wanted)
            self._queue.put_back(job)
            self._forget(job)
        else:
            self._give_up(job, lost)

    def _store(self, cell_run: CellRun, bounds: ShardRange, shard: Shard) -> None:
        records, tensors = shard
        refuse_unlike(cell_run, bounds, self._context.images.take(slice(*bounds)), shard)
        signals.refuse_to_go_on()  # a defense may have caught the signal
        self._crew.lock.check()
        if not self._crew.holds(cell_run, bounds):
            what = f"{cell_run.name}, images {bounds[0]} to {bounds[1] - 1}"
            self._context.callback.note(f"{what}: another worker took it over, and this one's result is not stored")
            self._crew.release(cell_run, [bounds])
            return
        cell_run.stored.write(*bounds, records, tensors)
        self._crew.lock.check()
        self._crew.done(cell_run, bounds)
        cell_run.shards[bounds] = records
        self._count += 1
        self._queue.done(cell_run.name, [record.seconds for record in records])
        self._limits.add(cell_run.name, records)
        self._context.callback.finished(cell_run, records)
        if not cell_run.missing:
            cell_run.compact()

    def _give_up(self, job: Job, lost: Lost) -> None:
        """Stores errors for a shard that could not be computed. A pairing of which nothing ever can is given up.

        That is one that has lost `HOPELESS` shards and has no other result: each of them took several tries.
        """
        cell_run = self._cell_run(job.pairing)
        self._lost[job.pairing] += 1
        hopeless = self._lost[job.pairing] >= HOPELESS and bool(cell_run.records.failed.all())
        what = "the pairing is given up" if hopeless else "its images are errors"
        self._context.callback.note(f"{job}: {lost.why}; {what}, and the others go on")
        others = self._queue.give_up(job.pairing) if hopeless else []
        for bounds in [*job.wanted, *self._crew.take(cell_run, others)]:
            images = self._context.images.take(slice(*bounds))
            self._store(cell_run, bounds, failed_shard(images, cell_run.seeds, lost.why))
        self._forget(job)

    def _forget(self, job: Job) -> None:
        """Removes the journals of a job, which is stored as a whole, or will be begun in another way."""
        if self._context.journals:
            self._context.journals.remove(self._cell_run(job.pairing).stored, {job.bounds, *job.shards})

    def _cell_run(self, name: str) -> CellRun:
        return next(run for run in self._needed if run.name == name)
