"""The predictions of each defense on the clean images, computed once per shard for all attacks of a process."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from harness.evaluation.context import RunContext
from harness.evaluation.defenses import Defenses
from harness.evaluation.pending import CellRun
from harness.evaluation.shard import predict_clean
from harness.evaluation.task import reason
from harness.guard.contamination import Guard
from harness.predict import Predictions
from harness.process.memory import out_of_memory
from harness.results.columns import columns_of
from harness.results.store import ShardRange


class CleanPredictions:
    """The predictions on clean images. Those that are known, as from stored records, are not computed again."""

    def __init__(self, context: RunContext, defenses: Defenses, guard: Guard) -> None:
        self._context, self._defenses, self._guard = context, defenses, guard
        self._known: dict[tuple[str, ShardRange], Predictions | str] = {}

    def learn(self, name: str, bounds: ShardRange, predictions: Predictions) -> None:
        """Takes over what a defense has predicted on a shard, perhaps in another process."""
        self._known[name, bounds] = predictions

    def of(self, cell_run: CellRun, bounds: ShardRange) -> Predictions | str:
        """Returns the predictions of a pairing's defense on a shard, or the reason why there are none."""
        name = cell_run.cell.defense.name
        if name in self._defenses.broken:
            return self._defenses.broken[name]
        if (name, bounds) not in self._known:
            self._known[name, bounds] = self._predict(cell_run, bounds)
            self._defenses.rebuild(f"defense '{name}'")
        return self._known[name, bounds]

    def _predict(self, cell_run: CellRun, bounds: ShardRange) -> Predictions | str:
        """Computes the predictions of the defense on the images of a shard, or returns the reason of its failure."""
        name, protocol = cell_run.cell.defense.name, self._context.protocol
        defense = self._defenses.at_work(name)
        if defense is None:
            return self._defenses.broken[name]
        images = self._context.images.take(slice(*bounds)).to(self._context.device)
        size, why = min(protocol.batch_size, len(images)), ""
        while size:
            try:
                return predict_clean(defense, images, cell_run.seeds, protocol.votes, size, self._guard)
            except Exception as error:  # whatever a defense raises is an outcome of its own
                why = reason(error)
                size = size // 2 if out_of_memory(error) else 0
        return f"the defense fails on clean images: {why}. `harness check` looks at it alone"


def recorded_predictions(cell_runs: Iterable[CellRun], name: str, bounds: ShardRange) -> Predictions | None:
    """The predictions of a defense on a shard that are stored in the records of any of its pairings, if there are any.

    Args:
        name: of the defense.
    """
    for cell_run in cell_runs:
        records = cell_run.shards[bounds] if cell_run.cell.defense.name == name else None
        if records is not None and (stored := columns_of(records)).draws("clean").all():
            votes, margins = (torch.from_numpy(values).T for values in (stored.votes("clean"), stored.margins("clean")))
            return Predictions(votes, margins)
    return None
