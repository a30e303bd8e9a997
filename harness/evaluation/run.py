"""Suite -> results.

Running the same command again finishes the rest. A finished shard is never computed twice; one that is damaged, or that
holds errors, is computed anew. Stopping at any moment loses at most the last minutes of the shards at work, of which a
journal is kept, see `harness.journal`.

A defense or an attack that fails costs its own pairings: their images become errors, with the reason, and the others go
on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from harness.callback import SILENT, Callback
from harness.evaluation import write_manifest
from harness.evaluation.context import RunContext
from harness.evaluation.engines.engine import Engine
from harness.evaluation.engines.local import Local
from harness.evaluation.journals import Journals
from harness.evaluation.pending import CellRun, Failure, failures, load_images, pending_work, refuse_loss
from harness.evaluation.session import Session
from harness.evaluation.time_limits import TimeLimits
from harness.results.environment import describe
from harness.results.merge import merge
from harness.results.store import Lock, Store
from harness.suite.plan import Plan


@dataclass(frozen=True)
class Finished:
    """What a run came to. computed: shards that this session made; failures: pairings of which images are errors."""

    computed: int
    failures: list[Failure]


def run(
    plan: Plan,
    out: Path,
    device: torch.device,
    callback: Callback = SILENT,
    *,
    retry_errors: bool = True,
    engine: Engine | None = None,
    timeout: float | None = None,
) -> Finished:
    """Finishes a suite.

    Args:
        out: the results directory, made if absent.
        device: where defenses are evaluated; no number depends on it beyond float rounding.
        callback: is told how far the run is.
        retry_errors: compute shards anew that ended in errors.
        engine: computes the shards; by default this process does.
        timeout: seconds for an image, see `harness.evaluation.time_limits`; by default a limit from measured cost.

    Raises:
        UserError: the suite, the results directory, a checkpoint or a gate forbids it. What was finished is kept.
    """
    store, engine = Store(out), engine or Local()
    dataset, images = load_images(plan)
    if dataset.folders and dataset.folders.remark:
        callback.note(dataset.folders.remark)
    with store.locked() as lock:
        cell_runs = pending_work(plan, store, images, callback.note, retry_errors=retry_errors)
        journals = Journals.of(out)
        context = RunContext(plan, cell_runs, dataset, images, device, callback, journals=journals)
        write_manifest.refuse_another_suite(store, context)
        context.gpu_memory.update(write_manifest.recorded_gpu_memory(store, context))
        journals.sweep(cell_runs)
        pending = [cell_run for cell_run in cell_runs if cell_run.missing]
        begun = store.manifest() is not None
        if begun and not pending:
            write_manifest.close(store, context)
            _merge(cell_runs, lock)
            callback.ended(out)
            return Finished(0, failures(cell_runs))
        with engine.working(context):
            session = Session(context, pending if begun else cell_runs, lock, engine, TimeLimits(context, timeout))
            session.examine()
            write_manifest.begin(store, context, session.examined, describe(device) | engine.describe())
            try:
                with callback.running(cell_runs):
                    computed = session.finish()
                journals.sweep(cell_runs)
            finally:
                write_manifest.close(store, context)
        refuse_loss(store, cell_runs)
        _merge(cell_runs, lock)
        callback.ended(out)
        return Finished(computed, failures(cell_runs))


def _merge(cell_runs: list[CellRun], lock: Lock) -> None:
    """Merges the many small files of finished pairings, which take long to read."""
    for cell_run in cell_runs:
        if not cell_run.missing:
            merge(cell_run.stored, list(cell_run.shards), lock.check)
