"""What examines defenses and computes shards: one object in one process, whatever engine the process belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

from harness.evaluation.clean import CleanPredictions
from harness.evaluation.context import RunContext
from harness.evaluation.defenses import Defenses
from harness.evaluation.examined import Examined
from harness.evaluation.fitting import Fitting
from harness.evaluation.gate import Gate
from harness.evaluation.job import Job
from harness.evaluation.pending import CellRun
from harness.evaluation.shard import Evaluated, Shard, Unanswered, evaluate
from harness.evaluation.task import ShardTask, shifted
from harness.evaluation.together import Batch
from harness.guard.contamination import Guard
from harness.predict import Predictions


class Worker:
    """Works on the pairings of a run in this process. It stores nothing, and builds each defense once.

    What a job comes to depends on the suite and the job alone: not on the worker, nor on the jobs before.

    Args:
        context: of the run, in this process.
    """

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._cell_runs = {cell_run.name: cell_run for cell_run in context.cell_runs}
        self._guard = Guard(context.images.x, context.images.y)
        self._defenses = Defenses(context, self._guard)
        self._clean = CleanPredictions(context, self._defenses, self._guard)
        self._fitting = Fitting(context.protocol.batch_size, context.callback.note)

    def examine(self, pairings: Sequence[str]) -> dict[str, Examined]:
        """Builds the defenses of some pairings, and looks at each before it is attacked.

        Returns:
            What was found, by the defense's name.

        Raises:
            UserError: a defense cannot be what the suite wants, an attack does not suit it, or a gate stops the run.
        """
        needed = [self._cell_runs[name] for name in pairings]
        for cell_run in needed:
            self._defenses.prepare(cell_run)
        gate = Gate(self._context, self._defenses, self._clean, self._guard)
        remarks, noise, together = gate.remarks(needed), gate.gradient_noise(needed), gate.together(needed)
        components = {cell_run.cell.defense.name: cell_run.cell.defense for cell_run in needed}
        found = {}
        for name, component in components.items():
            own = {run.name: noise[run.name] for run in needed if run.cell.defense.name == name and run.name in noise}
            if defense := self._defenses.built.get(name):
                values, remark = self._guard.digest(name), remarks.get(name, [])
                found[name] = Examined.of(component, defense, values, remark, own, together.get(name, 1))
            else:
                found[name] = Examined(broken=self._defenses.broken[name], noise=own)
        return found

    def rest(self) -> None:
        """Leaves the device to others: no defense stays on it."""
        self._defenses.rest()

    def compute(self, job: Job) -> list[Shard]:
        """The records and images of each shard that a job wants. What a defense or an attack raises becomes a record.

        Raises:
            UserError: the defense is not the one that was examined, or the run's own images were changed.
        """
        cell_run = self._cell_runs[job.pairing]
        name = cell_run.cell.defense.name
        self._defenses.prepare(cell_run)
        if job.values is not None:
            self._defenses.refuse_other_values(name, job.values)
        for bounds, predictions in job.clean.items():
            self._clean.learn(name, bounds, predictions)
        found = self._fitting.shards(job, partial(self._evaluated, cell_run, job))
        return [found[bounds] for bounds in job.wanted]

    def _evaluated(self, cell_run: CellRun, job: Job, batch: Batch, batch_size: int) -> Evaluated | Unanswered:
        """Attacks some shards of a job together, with so many images at a time in the defense."""
        name, context = cell_run.cell.defense.name, self._context
        images = context.images.take(slice(batch[0][0], batch[-1][1])).to(context.device)
        clean = [self._clean.of(cell_run, bounds) for bounds in batch]
        if failures := [why for why in clean if isinstance(why, str)]:
            return Unanswered(images, cell_run.seeds, failures[0])
        if (defense := self._defenses.at_work(name)) is None:
            return Unanswered(images, cell_run.seeds, self._defenses.broken[name])
        place = slice(batch[0][0] - job.bounds[0], batch[-1][1] - job.bounds[0])
        sources, journals = job.source_images, context.journals
        with journals.journal(cell_run.stored, batch, job.values) if journals else nullcontext() as journal:
            task = ShardTask(
                defense,
                cell_run.attack,
                images,
                cell_run.seeds,
                Predictions.joined([found for found in clean if isinstance(found, Predictions)]),
                votes=context.protocol.votes,
                batch_size=batch_size,
                watch=partial(context.callback.watch, cell_run),
                source_images=None if sources is None else sources[place].to(context.device),
                missing_sources=shifted(job.missing_sources, place),
                guard=self._guard,
                journal=journal,
            )
            done = evaluate(task)
        self._defenses.rebuild(cell_run.name)
        return done
