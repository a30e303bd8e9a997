"""The jobs of a run: which shards are left, which can be computed now, and which should come first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from harness.errors import UserError
from harness.evaluation.clean import recorded_predictions
from harness.evaluation.context import RunContext
from harness.evaluation.durations import Durations
from harness.evaluation.examined import Examined
from harness.evaluation.job import Job
from harness.evaluation.pending import CellRun
from harness.evaluation.together import Batch, batches
from harness.results.store import CellStore, Damaged, ShardRange


class _Work(NamedTuple):
    """Shards that are attacked together, and those of them that are not stored yet."""

    batch: Batch
    wanted: tuple[ShardRange, ...]


Item = TypeVar("Item")


class Queue:
    """Hands out the missing shards, each once. One whose attack takes images from another pairing waits for those.

    The first job of each pairing comes before all others: it measures how long the pairing takes, and shows early what
    does not work.

    Args:
        context: of the run.
        needed: the pairings with something left to do.
        examined: their defenses, by name.
        longest_first: whether of the others those come first that are expected to take longest, so that several
            processes end at about the same time; otherwise they come in the order of the suite.
        start: the share of the work that comes last, in [0, 1), because other workers begin with it.

    Attributes:
        durations: what is known of how long images take.
    """

    def __init__(
        self,
        context: RunContext,
        needed: Sequence[CellRun],
        examined: Mapping[str, Examined],
        *,
        longest_first: bool,
        start: float = 0.0,
    ) -> None:
        self._context, self._examined = context, examined
        left = [(run.name, _rotated(self._works(run), start)) for run in needed if run.missing]
        self._left = dict(_rotated(left, start))
        self._cell_runs = {run.name: run for run in context.cell_runs}
        folders = {run.stored.folder: run for run in context.cell_runs}
        self._origins = {run.name: folders.get(run.source.folder) for run in needed if run.source}
        """The pairings that attacks take their images from; None where this run does not work on it."""
        self.durations = Durations(context, examined)
        self._longest_first = longest_first
        self._untried = {name for name in self._left if not self.durations.known(name)}

    def take(self) -> Job | None:
        """The next job to compute; None if there is none, or none before another one is done."""
        ready = {name: work for name in self._left if (work := self._next(name))}
        if not ready:
            return None
        first = [name for name in ready if name in self._untried] or list(ready)
        name = max(first, key=lambda name: self._seconds(name, ready[name])) if self._longest_first else first[0]
        self._untried.discard(name)
        cell_run, work = self._cell_runs[name], ready[name]
        self._left[name].remove(work)
        if not self._left[name]:
            del self._left[name]
        defense = cell_run.cell.defense.name
        known = {b: recorded_predictions(self._context.cell_runs, defense, b) for b in work.batch}
        sources, missing_sources = self._sources(cell_run, work.batch)
        return Job(
            cell_run.name,
            work.batch,
            work.wanted,
            self._examined[defense].values,
            {bounds: predictions for bounds, predictions in known.items() if predictions is not None},
            sources,
            missing_sources,
        )

    def done(self, pairing: str, seconds: list[float]) -> None:
        """Takes in how long each image of a shard took."""
        self.durations.add(pairing, seconds)

    def put_back(self, job: Job) -> None:
        """Takes back a job that could not be computed, whose shards are handed out one by one from now on."""
        self._left.setdefault(job.pairing, []).extend(_Work((bounds,), (bounds,)) for bounds in job.wanted)

    def give_up(self, pairing: str) -> list[ShardRange]:
        """Takes all shards of a pairing that nobody has taken yet."""
        return [bounds for work in self._left.pop(pairing, []) for bounds in work.wanted]

    def _works(self, run: CellRun) -> list[_Work]:
        """What is left of a pairing. A shard that ended in errors is attacked alone, as it may have been before."""
        defense, missing = run.cell.defense.name, set(run.missing)
        together = self._examined[defense].together if run.attack.is_independent() else 1
        works = []
        for batch in batches(list(run.shards), together):
            wanted = tuple(bounds for bounds in batch if bounds in missing)
            if run.again.issuperset(wanted):
                works += [_Work((bounds,), (bounds,)) for bounds in wanted]
            else:
                works.append(_Work(batch, wanted))
        return works

    def _seconds(self, name: str, work: _Work) -> float:
        return (work.batch[-1][1] - work.batch[0][0]) * self.durations.per_image(name)

    def _next(self, name: str) -> _Work | None:
        """The first shards of a pairing that can be computed now."""
        origin = self._origins.get(name)
        return next((w for w in self._left[name] if not origin or all(origin.shards[b] for b in w.batch)), None)

    def _sources(self, cell_run: CellRun, batch: Batch) -> tuple[Tensor | None, dict[int, str]]:
        """The images that an attack takes from another pairing, and by row why there is none where that failed."""
        if cell_run.source is None:
            return None, {}
        images: list[Tensor] = []
        missing: dict[int, str] = {}
        for bounds in batch:
            found, errors = self._source(cell_run, cell_run.source, bounds)
            missing |= {bounds[0] - batch[0][0] + row: why for row, why in errors.items()}
            images.append(found)
        return torch.cat(images), missing

    def _source(self, cell_run: CellRun, source: CellStore, bounds: ShardRange) -> tuple[Tensor, dict[int, str]]:
        """Of one shard, for its rows."""
        name = f"{source.folder.parent.name}/{source.folder.name}"
        try:
            records = source.read(*bounds)
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
        return source.images(*bounds)["images"], errors


def _rotated(items: list[Item], start: float) -> list[Item]:
    """The items in a circle, beginning after this share of them."""
    first = int(start * len(items))
    return items[first:] + items[:first]
