"""Loads stored results as tables with one row per image and pairing. Only finished, undamaged shards count."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import UserError
from harness.process.visible_text import visible
from harness.results.columns import Columns
from harness.results.manifest import CellFacts, Manifest, read_manifest
from harness.results.record import Record
from harness.results.store import MANIFEST, CellStore, Damaged, Stale, Store

COLUMNS = [field.name for field in dataclasses.fields(Record)]


@dataclass(frozen=True, eq=False)
class CellResults:
    """The stored results of one pairing.

    Attributes:
        facts: the pairing's entry in the manifest.
        columns: the records, N of them.
        places: the position of each in the run, (N,), ascending.
        damaged: the reason for each damaged shard; the next run computes it again.
        stale: shards that belong to another defense, attack or protocol of the same name. No number includes them.
    """

    facts: CellFacts
    columns: Columns
    places: NDArray[np.int64]
    damaged: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()

    @cached_property
    def records(self) -> pd.DataFrame:
        """One row per image, with the fields of `Record` as columns; the index is the position in the run.

        It takes much more time and memory than `columns`.
        """
        return pd.DataFrame([_shown(record) for record in self.columns], index=self.places, columns=COLUMNS)

    def record(self, place: int) -> dict[str, Any]:
        """The fields of the record at a position of the run."""
        return _shown(self.columns[int(np.searchsorted(self.places, place))])

    @property
    def done(self) -> int:
        return len(self.columns)

    @property
    def total(self) -> int:
        return self.facts.count

    @property
    def finished(self) -> bool:
        return self.done == self.total


@dataclass(frozen=True)
class Run:
    """A results directory. pairings: by (defense, attack), in the order of the manifest."""

    path: Path
    manifest: Manifest
    pairings: dict[tuple[str, str], CellResults]


def find_runs(root: Path) -> list[Path]:
    """The run at `root`, or all runs below it, sorted by path.

    Raises:
        UserError: there is none.
    """
    if (root / MANIFEST).is_file():
        return [root]
    runs = []
    for folder, below, files in os.walk(root):
        if MANIFEST in files:
            runs.append(Path(folder))
            below.clear()
        below.sort()
    if not runs:
        what = "contains no results" if root.is_dir() else "is not a directory"
        raise UserError(
            f"{root} {what}", remedy="Start a run with `harness run SUITE`, or give the directory of an earlier run"
        )
    return runs


def read_run(root: Path) -> Run:
    """Reads one run.

    Raises:
        UserError: its manifest is missing or cannot be read.
    """
    store = Store(root)
    manifest = read_manifest(store)
    cells = {(facts.defense, facts.attack): facts for facts in manifest.cells}
    return Run(
        root,
        manifest,
        {pair: _pairing(store.cell(*pair, facts.key), facts, manifest.protocol.votes) for pair, facts in cells.items()},
    )


def _pairing(cell: CellStore, facts: CellFacts, votes: int) -> CellResults:
    """Reads the shards of a pairing. It iterates over files, not images: a manifest may claim far more of them."""
    parts: list[Columns] = []
    places: list[int] = []
    damaged: list[str] = []
    stale: list[str] = []
    for start, stop in cell.shards():
        try:
            shard = cell.read(start, stop, votes)
        except Stale:
            stale.append(f"{start}-{stop}")
        except Damaged as damage:
            damaged.append(str(damage))
        else:
            if not facts.has(start, stop):
                stale.append(f"{start}-{stop}")
            elif shard is not None:
                parts.append(shard)
                places += range(start, stop)
    records, at = Columns.joined(parts), np.array(places, dtype=np.int64)
    return CellResults(facts, records, at, tuple(damaged), tuple(stale))


def _shown(record: Record) -> dict[str, Any]:
    """Converts a record to a row of a table. Texts of an attack or a defense may contain control characters."""
    flags = [visible(flag) for flag in record.flags]
    return {**vars(record), "flags": flags, "error": record.error and visible(record.error)}
