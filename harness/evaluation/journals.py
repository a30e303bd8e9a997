"""The journals of a run: one file beside the files of each shard at work, until the shard is stored.

A journal is the only file of a results directory that is written by the process that computes, and not by the driver:
it grows by megabytes a minute, which would all have to pass through the driver, and it has to outlive both. It says
nothing of the results, and is used by nobody but the process that computes the same shard again. A process that does
not see the driver's directory, as on another machine without a shared file system, keeps no journal.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.evaluation.code import code_digest
from harness.evaluation.job import Job
from harness.evaluation.pending import CellRun
from harness.journal.entry_file import EntryFile
from harness.journal.journal import Journal
from harness.results.cell_files import stem_of
from harness.results.store import LOCK, CellStore, ShardRange
from harness.settings import journal_after

SUFFIX = "journal"


@dataclass(frozen=True)
class Journals:
    """Where the journals of a run are kept, for any of its processes.

    Args:
        root: the results directory.
        lock: the number of its lock file in the file system, which a process must find to have the same directory.
        after: seconds before the first record of a shard; None for no journals at all.
    """

    root: Path
    lock: int
    after: float | None

    @classmethod
    def of(cls, root: Path) -> Journals:
        """Those of a results directory that is locked. Raises UserError if the setting makes no sense."""
        return cls(root.resolve(), os.stat(root / LOCK).st_ino, journal_after())

    @contextmanager
    def journal(self, cell_run: CellRun, job: Job) -> Iterator[Journal | None]:
        """The journal of a job's shard, with what an earlier process has recorded; None if none can be kept."""
        if self.after is None or not self._is_here():
            yield None
            return
        facts = [cell_run.stored.key, job.bounds, job.values, code_digest()]
        identity = hashlib.sha256(json.dumps(facts).encode()).digest()
        journal = Journal(EntryFile(self._path(cell_run.stored, job.bounds), identity), self.after)
        try:
            yield journal
        finally:
            journal.close()

    def remove(self, stored: CellStore, bounds: ShardRange) -> None:
        """Removes the journal of a shard that is stored."""
        with suppress(OSError):
            self._path(stored, bounds).unlink(missing_ok=True)

    def sweep(self, cell_runs: Iterable[CellRun]) -> None:
        """Removes the journals that are of no more use, as after a kill between the storing of a shard and `remove`."""
        for cell_run in cell_runs:
            needed = {self._path(cell_run.stored, bounds) for bounds in cell_run.missing}
            for path in self._path(cell_run.stored, (0, 0)).parent.glob(f"*.{SUFFIX}"):
                if path not in needed:
                    with suppress(OSError):
                        path.unlink()

    def _is_here(self) -> bool:
        try:
            return os.stat(self.root / LOCK).st_ino == self.lock
        except OSError:
            return False

    def _path(self, stored: CellStore, bounds: ShardRange) -> Path:
        folder = stored.folder
        return self.root / "cells" / folder.parent.name / folder.name / f"{stem_of(*bounds)}.{SUFFIX}"
