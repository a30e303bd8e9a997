"""The jobs of a run: which shards are left, which can be computed now, and which should come first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from harness.errors import UserError
from harness.evaluation.clean import recorded_predictions
from harness.evaluation.context import RunContext
from harness.evaluation.durations import Durations
from harness.evaluation.examined import Examined
from harness.evaluation.job import Job
from harness.evaluation.pending import CellRun
from harness.results.store import Damaged, ShardRange


class Queue:
    """Hands out the missing shards, each once. One whose attack takes images from another pairing waits for those.

    Args:
        context: of the run.
        needed: the pairings with something left to do.
        examined: their defenses, by name.
        longest_first: whether the shards that are expected to take longest come first, so that several processes end
            at about the same time; otherwise they come in the order of the suite.
    """

    def __init__(
        self, context: RunContext, needed: Sequence[CellRun], examined: Mapping[str, Examined], *, longest_first: bool
    ) -> None:
        self._context, self._examined = context, examined
        self._left = {run.name: list(run.missing) for run in needed if run.missing}
        self._cell_runs = {run.name: run for run in context.cell_runs}
        self._durations = Durations(context, examined) if longest_first else None

    def take(self) -> Job | None:
        """The next shard to compute; None if there is none, or none before another one is done."""
        ready = {name: bounds for name in self._left if (bounds := self._next(name))}
        if not ready:
            return None
        name = max(ready, key=self._seconds) if self._durations else next(iter(ready))
        cell_run, bounds = self._cell_runs[name], ready[name]
        self._left[name].remove(bounds)
        if not self._left[name]:
            del self._left[name]
        defense = cell_run.cell.defense.name
        sources, missing_sources = self._sources(cell_run, bounds)
        return Job(
            cell_run.name,
            bounds,
            self._examined[defense].values,
            recorded_predictions(self._context.cell_runs, defense, bounds),
            sources,
            missing_sources,
        )

    def done(self, job: Job, seconds: list[float]) -> None:
        """Takes in how long each image of a shard took."""
        if self._durations:
            self._durations.add(job.pairing, seconds)

    def give_up(self, pairing: str) -> list[ShardRange]:
        """Takes all shards of a pairing that nobody has taken yet."""
        return self._left.pop(pairing, [])

    def _seconds(self, name: str) -> float:
        assert self._durations is not None
        start, stop = self._left[name][0]
        return (stop - start) * self._durations.per_image(name)

    def _next(self, name: str) -> ShardRange | None:
        """The first shard of a pairing that can be computed now."""
        origin = self._origin(self._cell_runs[name])
        return next((b for b in self._left[name] if origin is None or origin.shards[b] is not None), None)

    def _origin(self, cell_run: CellRun) -> CellRun | None:
        """The pairing that an attack takes its images from, if this run works on it."""
        folder = cell_run.source and cell_run.source.folder
        return next((run for run in self._context.cell_runs if run.stored.folder == folder), None)

    def _sources(self, cell_run: CellRun, bounds: ShardRange) -> tuple[Tensor | None, dict[int, str]]:
        """The images that an attack takes from another pairing, and by row why there is none where that failed."""
        if cell_run.source is None:
            return None, {}
        folder = cell_run.source.folder
        name = f"{folder.parent.name}/{folder.name}"
        try:
            records = cell_run.source.read(*bounds)
        except Damaged as damage:
            raise UserError(f"{cell_run.name} takes its images from {name}: {damage}") from damage
        if records is None:
            raise UserError(
                f"{cell_run.name} takes its images from {name}, of which {bounds[0]} to {bounds[1] - 1} are not done",
                remedy=f"Run {name} first",
                where=cell_run.cell.attack.place,
            )
        errors = {
            row: f"{name}, which has its image, failed: {record.error}"
            for row, record in enumerate(records)
            if record.verdict == "error"
        }
        return cell_run.source.images(*bounds)["images"], errors
