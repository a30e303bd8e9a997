"""The journals of a run: one file for each attack at work, beside the files of its shards, until these are stored.

A journal is the only file of a results directory that is written by the process that computes, and not by the driver:
it grows by megabytes a minute, which would all have to pass through the driver, and it has to outlive both. It says
nothing of the results, and is used by nobody but the process that computes the same shard again. A process that does
not see the driver's directory, as on another machine without a shared file system, keeps no journal.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.evaluation.code import code_digest
from harness.evaluation.pending import CellRun
from harness.journal.entry_file import EntryFile
from harness.journal.journal import Journal
from harness.results.cell_files import stem_of
from harness.results.store import LOCK, CellStore, ShardRange
from harness.settings import journal_after

NAME = re.compile(r"([0-9]{5,9})-([0-9]{5,9})\.journal")
"""Of a journal: the first of its images, and the one after the last."""


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
    def journal(self, stored: CellStore, shards: Sequence[ShardRange], values: str | None) -> Iterator[Journal | None]:
        """The journal of an attack, with what an earlier process has recorded; None if none can be kept.

        Args:
            stored: of the pairing; shards: of it, which are attacked in one call, and follow each other.
            values: the digest of the defense's values, see `Examined`.
        """
        if self.after is None or not self._is_here():
            yield None
            return
        facts = [stored.key, list(shards), values, code_digest()]
        identity = hashlib.sha256(json.dumps(facts).encode()).digest()
        path = self._path(stored, shards[0][0], shards[-1][1])
        journal = Journal(EntryFile(path, identity), self.after)
        try:
            yield journal
        finally:
            journal.close()

    def remove(self, stored: CellStore, ranges: Iterable[ShardRange]) -> None:
        """Removes the journals of attacks on these ranges of images, which are stored."""
        for bounds in ranges:
            _remove(self._path(stored, *bounds))

    def sweep(self, cell_runs: Iterable[CellRun]) -> None:
        """Removes the journals that are of no more use, as after a kill between the storing of a shard and `remove`."""
        for cell_run in cell_runs:
            for path in self._folder(cell_run.stored).glob("*.journal"):
                name = NAME.fullmatch(path.name)
                if name and not any(int(name[1]) <= start < int(name[2]) for start, _ in cell_run.missing):
                    _remove(path)

    def _is_here(self) -> bool:
        try:
            return os.stat(self.root / LOCK).st_ino == self.lock
        except OSError:
            return False

    def _folder(self, stored: CellStore) -> Path:
        return self.root / "cells" / stored.folder.parent.name / stored.folder.name

    def _path(self, stored: CellStore, start: int, stop: int) -> Path:
        return self._folder(stored) / f"{stem_of(start, stop)}.journal"


def _remove(path: Path) -> None:
    with suppress(OSError):  # one that stays does no harm
        path.unlink(missing_ok=True)
