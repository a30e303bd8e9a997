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

from harness.certification.smoothing import fault_of
from harness.errors import UserError
from harness.process.visible_text import visible
from harness.results.columns import Columns
from harness.results.diagnosis import FOLDER as DIAGNOSES
from harness.results.facts import CellFacts, CertificateFacts
from harness.results.manifest import Manifest, read_manifest
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
        counts: of a certificate, (N, 2, K), see `harness.certification.smoothing.certify`; zeros for images that ended
            in an error.
    """

    facts: CellFacts
    columns: Columns
    places: NDArray[np.int64]
    damaged: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    counts: NDArray[np.int64] | None = None

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
    """A results directory.

    Attributes:
        pairings: by (defense, attack), in the order of the manifest.
        certificates: by (defense, certificate), likewise. They are not among the pairings.
    """

    path: Path
    manifest: Manifest
    pairings: dict[tuple[str, str], CellResults]
    certificates: dict[tuple[str, str], CellResults] = dataclasses.field(default_factory=dict)

    @property
    def cells(self) -> dict[tuple[str, str], CellResults]:
        """All that is stored: pairings and certificates."""
        return {**self.pairings, **self.certificates}


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
        if (root / DIAGNOSES).is_dir():
            remedy = f"Run `harness run SUITE --out {root}`: a report shows the diagnosis beside what a run found"
            raise UserError(f"{root} contains a diagnosis and no results", remedy=remedy)
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
    cells = {
        (facts.defense, facts.attack): _pairing(
            store.cell(facts.defense, facts.attack, facts.key), facts, manifest.protocol.votes
        )
        for facts in manifest.cells
    }
    certificates = {pair: cell for pair, cell in cells.items() if cell.facts.certificate}
    return Run(root, manifest, {pair: cell for pair, cell in cells.items() if pair not in certificates}, certificates)


def _pairing(cell: CellStore, facts: CellFacts, votes: int) -> CellResults:
    """Reads the shards of a pairing. It iterates over files, not images: a manifest may claim far more of them."""
    parts: list[Columns] = []
    places: list[int] = []
    counts: list[NDArray[np.float32]] = []
    damaged: list[str] = []
    stale: list[str] = []
    for start, stop in cell.shards():
        try:
            shard = cell.read(start, stop, votes)
            counted = _counts(cell, start, stop, facts.certificate) if shard is not None else None
        except Stale:
            stale.append(f"{start}-{stop}")
        except Damaged as damage:
            damaged.append(str(damage))
        else:
            if not facts.has(start, stop):
                stale.append(f"{start}-{stop}")
            elif shard is not None:
                parts.append(shard)
                if counted is not None:
                    counts.append(counted)
                places += range(start, stop)
    records, at = Columns.joined(parts), np.array(places, dtype=np.int64)
    return CellResults(facts, records, at, tuple(damaged), tuple(stale), _joined(counts) if facts.certificate else None)


def _counts(cell: CellStore, start: int, stop: int, facts: CertificateFacts | None) -> NDArray[np.float32] | None:
    """The counts of a shard of a certificate, (N, 2, K); zeros of one class where all of its images failed.

    Raises:
        Damaged: they are no counts of so many draws.
    """
    if facts is None:
        return None
    counts = cell.certified(start, stop).get("counts", np.zeros((stop - start, 2, 1), dtype=np.float32))
    if fault := fault_of(counts, facts.n0, facts.n):
        raise Damaged(f"the counts of images {start} to {stop - 1}: {fault}")
    return counts


def _joined(counts: list[NDArray[np.float32]]) -> NDArray[np.int64]:
    """The counts of all shards, (N, 2, K); those of shards that failed have too few classes."""
    classes = max((part.shape[2] for part in counts), default=1)
    padded = [np.pad(part, ((0, 0), (0, 0), (0, classes - part.shape[2]))) for part in counts]
    return np.concatenate(padded).astype(np.int64) if padded else np.zeros((0, 2, classes), dtype=np.int64)


def _shown(record: Record) -> dict[str, Any]:
    """Converts a record to a row of a table. Texts of an attack or a defense may contain control characters."""
    flags = [visible(flag) for flag in record.flags]
    return {**vars(record), "flags": flags, "error": record.error and visible(record.error)}
