"""A callback that sends the numbers of a run to an experiment tracker.

    DEFENSE/ATTACK/...           after each shard, over the images so far: robust_accuracy and clean_accuracy (the mean
                                 over draws), errors, forwards and backwards; the step is the number of images
    table/DEFENSE/COLUMN/...     at the end: accuracy, low and high of each number of the table that is final

Accuracies are shares in [0, 1]. A tracker that fails is left out from then on, with a remark: no run ends for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from harness.callback import Callback
from harness.errors import UserError, one_line
from harness.evaluation.pending import CellRun
from harness.reporting.render import markdown
from harness.reporting.render.layout import lay_out
from harness.reporting.stats.accuracy import Successes, failed, known_mean
from harness.reporting.tables.lines import lines
from harness.reporting.tables.outcomes import clean_successes, errors, robust_successes
from harness.reporting.tables.table import Table, summarise
from harness.results.columns import Columns
from harness.results.load import read_run
from harness.results.manifest import Manifest, read_manifest
from harness.results.record import Record
from harness.results.store import Store
from harness.tracking import recorders
from harness.tracking.recorder import Recorder


def tracker(where: str, say: Callable[[str], None] = lambda text: None) -> Tracker:
    """The tracker that `--log` names.

    Args:
        where: "tensorboard:FOLDER", "mlflow:URI" or "wandb:PROJECT".
        say: is told if the tracker fails during a run.

    Raises:
        UserError: there is no such tracker, or its package is not installed.
    """
    name, _, place = where.partition(":")
    module = recorders.find(name)
    if not place:
        raise UserError(f"'{where}' does not say where to log", remedy=f"Write {name}: and then {module.WHERE}")
    return Tracker(module.recorder(place), name, say)


class Tracker(Callback):
    """Sends the numbers of a run to a recorder.

    Args:
        recorder: keeps them.
        name: of the recorder, for remarks.
        say: is told if the recorder fails.
    """

    def __init__(self, recorder: Recorder, name: str, say: Callable[[str], None] = lambda text: None) -> None:
        self._recorder, self._name, self._say = recorder, name, say
        self._began, self._broken = False, False

    @contextmanager
    def running(self, runs: Sequence[CellRun]) -> Iterator[None]:
        """Begins, and records what earlier sessions have computed."""
        if runs:
            self._begin(runs[0].stored.folder.parents[2])
        for run in runs:
            self._record(run)
        yield

    def finished(self, run: CellRun, records: Sequence[Record]) -> None:
        """Records a pairing as far as it is."""
        self._record(run)

    def ended(self, root: Path) -> None:
        """Records the numbers of the table."""
        self._begin(root)
        table = summarise(read_run(root))
        for name, numbers in _of_table(table).items():
            self._try(self._recorder.record, {f"table/{name}/{key}": value for key, value in numbers.items()}, 0)
        self._try(self._recorder.end, markdown.render([lay_out(table)]))

    def _begin(self, root: Path) -> None:
        if not self._began:
            self._began = True
            manifest = read_manifest(Store(root))
            self._try(self._recorder.begin, manifest.suite, _facts(manifest, root))

    def _record(self, run: CellRun) -> None:
        columns = run.records
        if len(columns):
            numbers = {f"{run.name}/{key}": value for key, value in _so_far(columns).items()}
            self._try(self._recorder.record, numbers, len(columns))

    def _try(self, call: Callable[..., None], *arguments: object) -> None:
        """Calls the recorder, and never again once it has failed."""
        if self._broken:
            return
        try:
            call(*arguments)
        except Exception as error:  # whatever a tracker or its server raises: it is no reason to lose a run
            self._broken = True
            self._say(f"{self._name} failed, and gets no more numbers; the run goes on: {one_line(error)}")


def _facts(manifest: Manifest, root: Path) -> dict[str, str]:
    dataset, protocol = manifest.dataset, manifest.protocol
    return {
        "suite": manifest.suite,
        "results": str(root.absolute()),
        "harness": manifest.harness,
        "dataset": f"{dataset.name} ({dataset.split})",
        "images": str(dataset.count),
        "votes": str(protocol.votes),
        "seed": str(protocol.seed),
        "fingerprint": dataset.fingerprint,
    }


def _so_far(columns: Columns) -> dict[str, float]:
    accuracies = {
        "robust_accuracy": _mean(robust_successes(columns, "mean")),
        "clean_accuracy": _mean(clean_successes(columns, "mean")),
    }
    passes = {name: float(columns.numbers(name).sum()) for name in ("forwards", "backwards")}
    known = {name: value for name, value in accuracies.items() if value is not None}
    return {**known, "errors": float(errors(columns)), **passes}


def _mean(successes: Successes) -> float | None:
    """The accuracy, unless too many images ended in an error, as in a table."""
    return None if failed(int(np.isnan(successes).sum()), len(successes)) else known_mean(successes)


def _of_table(table: Table) -> Mapping[str, dict[str, float]]:
    """The final numbers of a table, by defense and column."""
    found: dict[str, dict[str, float]] = {}
    for line in lines(table):
        numbers = {"accuracy": line.accuracy, "low": line.low, "high": line.high}
        if line.headline and line.accuracy is not None:
            column = line.attack if line.kind == "attack" else line.kind
            found[f"{line.defense}/{column}"] = {key: value for key, value in numbers.items() if value is not None}
    return found
