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
from harness.evaluation.crew import Alone, Part, crew_of
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
    """What a run came to.

    computed: shards that this session made; failures: pairings of which images are errors; left: shards that other
    workers are still computing.
    """

    computed: int
    failures: list[Failure]
    left: int = 0


def run(
    plan: Plan,
    out: Path,
    device: torch.device,
    callback: Callback = SILENT,
    *,
    retry_errors: bool = True,
    engine: Engine | None = None,
    timeout: float | None = None,
    part: Part | None = None,
) -> Finished:
    """Finishes a suite.

    Args:
        out: the results directory, made if absent.
        device: where defenses are evaluated; no number depends on it beyond float rounding.
        callback: is told how far the run is.
        retry_errors: compute shards anew that ended in errors.
        engine: computes the shards; by default this process does.
        timeout: seconds for an image, see `harness.evaluation.time_limits`; by default a limit from measured cost.
        part: which of several workers this process is that share the directory; by default nobody else may write it.

    Raises:
        UserError: the suite, the results directory, a checkpoint or a gate forbids it. What was finished is kept.
    """
    store, engine = Store(out), engine or Local()
    dataset, images = load_images(plan)
    if dataset.folders and dataset.folders.remark:
        callback.note(dataset.folders.remark)
    with crew_of(store, part, retry_errors=retry_errors) as crew:
        cell_runs = pending_work(plan, store, images, callback.note, retry_errors=retry_errors)
        crew.refresh(cell_runs)
        journals = Journals.of(out)
        context = RunContext(plan, cell_runs, dataset, images, device, callback, journals=journals)
        write_manifest.refuse_another_suite(store, context)
        context.gpu_memory.update(write_manifest.recorded_gpu_memory(store, context))
        journals.sweep(cell_runs)
        pending, computed = [cell_run for cell_run in cell_runs if cell_run.missing], 0
        if pending or store.manifest() is None:
            needed = pending if store.manifest() else cell_runs
            with engine.working(context):
                session = Session(context, needed, crew, engine, TimeLimits(context, timeout))
                computed = _compute(store, context, crew, engine, session)
            journals.sweep(cell_runs)
        with crew.turn():
            crew.refresh(cell_runs)
            write_manifest.close(store, context)
            if computed:
                refuse_loss(store, cell_runs)
            if crew.leave():
                _merge(cell_runs, crew.lock)
                crew.clean()
        left = sum(len(cell_run.missing) for cell_run in cell_runs)
        if not left:
            callback.ended(out)
        return Finished(computed, failures(cell_runs), left)


def _compute(store: Store, context: RunContext, crew: Alone, engine: Engine, session: Session) -> int:
    """Computes what is missing, and returns how many shards this session has computed."""
    session.examine()
    with crew.turn():
        write_manifest.refuse_another_suite(store, context)  # another worker may have begun meanwhile
        crew.refresh(context.cell_runs)
        environment = describe(context.device) | engine.describe() | crew.describe()
        write_manifest.begin(store, context, session.examined, environment)
    try:
        with context.callback.running(context.cell_runs):
            return session.finish()
    except BaseException:
        with crew.turn():
            crew.refresh(context.cell_runs)
            write_manifest.close(store, context)
        raise


def _merge(cell_runs: list[CellRun], lock: Lock) -> None:
    """Merges the many small files of finished pairings, which take long to read."""
    for cell_run in cell_runs:
        if not cell_run.missing:
            merge(cell_run.stored, list(cell_run.shards), lock.check)
