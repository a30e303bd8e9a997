"""One process that works on the pairings of a run, shard by shard."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from harness.checks.gradient_noise import GradientNoise
from harness.errors import UserError
from harness.evaluation.clean import CleanPredictions
from harness.evaluation.context import RunContext
from harness.evaluation.defenses import Defenses
from harness.evaluation.gate import Gate
from harness.evaluation.pending import CellRun
from harness.evaluation.shard import Shard, evaluate_shard, failed_shard
from harness.evaluation.task import ShardTask
from harness.guard.contamination import Guard
from harness.process import signals
from harness.results.store import Damaged, Lock, ShardRange


class Session:
    """Computes what is missing.

    Attributes:
        defenses: of the pairings with something left to do, built.

    Args:
        context: of the run.
        needed: pairings with something left to do.
        lock: on the results directory.

    Raises:
        UserError: a defense cannot be what the suite wants, or an attack does not suit it.
    """

    def __init__(self, context: RunContext, needed: list[CellRun], lock: Lock) -> None:
        self._context, self._needed, self._lock = context, needed, lock
        self._guard = Guard(context.images.x, context.images.y)
        self.defenses = Defenses(context, needed, self._guard)
        self._clean = CleanPredictions(context, self.defenses, self._guard)
        self._gate = Gate(context, self.defenses, self._clean, self._guard)

    def gate(self) -> dict[str, list[str]]:
        """Looks at each defense before it is attacked. Returns and raises as `Gate.remarks`."""
        return self._gate.remarks(self._needed)

    def gradient_noise(self) -> dict[str, GradientNoise | None]:
        """Measures how noisy the gradients of each attack are. Returns as `Gate.gradient_noise`."""
        return self._gate.gradient_noise(self._needed)

    def finish(self) -> int:
        """Computes the missing shards of every pairing, and returns how many there were."""
        return sum(self._finish(cell_run) for cell_run in self._needed)

    def _finish(self, cell_run: CellRun) -> int:
        missing = cell_run.missing
        self._context.callback.began(cell_run)
        for bounds in missing:
            records, tensors = self._shard(cell_run, bounds)
            signals.refuse_to_go_on()  # a defense may have caught the signal
            self._lock.check()
            cell_run.stored.write(*bounds, records, tensors)
            self._lock.check()
            cell_run.shards[bounds] = records
            self._context.callback.finished(cell_run, records)
        return len(missing)

    def _shard(self, cell_run: CellRun, bounds: ShardRange) -> Shard:
        """The records and images of a shard."""
        context, name = self._context, cell_run.cell.defense.name
        images = context.images.take(slice(*bounds)).to(context.device)
        clean = self._clean.of(cell_run, bounds)
        if isinstance(clean, str):
            return failed_shard(images, cell_run.seeds, clean)
        if (defense := self.defenses.at_work(name)) is None:
            return failed_shard(images, cell_run.seeds, self.defenses.broken[name])
        sources, missing_sources = self._sources(cell_run, bounds)
        task = ShardTask(
            defense,
            cell_run.attack,
            images,
            cell_run.seeds,
            clean,
            votes=context.protocol.votes,
            batch_size=context.protocol.batch_size,
            watch=partial(context.callback.watch, cell_run),
            source_images=sources,
            missing_sources=missing_sources,
            guard=self._guard,
        )
        shard = evaluate_shard(task)
        self.defenses.rebuild(cell_run.name)
        return shard

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
        return cell_run.source.images(*bounds)["images"].to(self._context.device), errors
