"""Which files an archive holds, and the model of its `export.json`.

README.md, check.py          how to check the archive, and the program that does
export.json                  the sha256 of every other file, and the numbers of the table
run.json, cells/, data.npz   the results directory, see `harness.results.store`
diagnose/                    what `harness diagnose` found
clean.safetensors            the clean images (N, C, H, W) float32, labels and indices (N,) int64
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.reporting.tables.lines import Line, lines
from harness.reporting.tables.table import Table
from harness.results.diagnosis import FOLDER as DIAGNOSES
from harness.results.diagnosis import LARGEST as LARGEST_DIAGNOSIS
from harness.results.load import Run
from harness.results.record import Rule
from harness.results.shard_files import LARGEST_IMAGES, LARGEST_RECORDS
from harness.results.store import KEPT_IMAGES, LARGEST_MANIFEST, MANIFEST, Store
from harness.suite.limits import MOST_PLACES
from harness.suite.schema import Name

INDEX, CHECKER, GUIDE, CLEAN = "export.json", "check.py", "README.md", "clean.safetensors"

MOST_FILES = 200_000
"""The largest number of files in an archive."""

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}"
_LIMITS = {
    rf"{INDEX}|{MANIFEST}": 4 * LARGEST_MANIFEST,
    rf"{CHECKER}|{GUIDE}": 1 << 16,
    rf"{CLEAN}|{KEPT_IMAGES}": 1 << 36,
    rf"{DIAGNOSES}/{_NAME}\.json": LARGEST_DIAGNOSIS,
    rf"cells/{_NAME}/{_NAME}/[0-9]{{5,9}}-[0-9]{{5,9}}(-[0-9a-f]{{12}})?\.parquet": LARGEST_RECORDS,
    rf"cells/{_NAME}/{_NAME}/[0-9]{{5,9}}-[0-9]{{5,9}}(-[0-9a-f]{{12}})?\.safetensors": LARGEST_IMAGES,
}
"""The names of the files that an archive may hold, and the largest size of each in bytes."""


def limit_of(name: str) -> int | None:
    """The largest size of a file of this name in an archive; None if an archive holds no such file.

    Example:
        >>> limit_of("../run.json") is None, limit_of("run.json") is None
        (True, False)
    """
    return next((limit for pattern, limit in _LIMITS.items() if re.fullmatch(pattern, name)), None)


def of_the_run(name: str) -> bool:
    """Whether a file is part of the results directory, and not added by the archive."""
    return name not in (INDEX, CHECKER, GUIDE, CLEAN)


class Number(BaseModel):
    """A number of the table, as `harness.reporting.tables.lines.Line` has it. members: the attacks behind it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    defense: str
    kind: Literal["clean", "attack", "average", "worst"]
    attack: str
    members: tuple[str, ...]
    rule: Rule
    headline: bool
    stochastic: bool
    status: str
    accuracy: float | None
    low: float | None
    high: float | None
    benign: float | None
    benign_low: float | None
    benign_high: float | None
    n: int
    total: int
    errors: int
    violations: int
    threat: str
    method: str
    doubt: str
    flags: str

    @property
    def title(self) -> str:
        """What it is the number of."""
        return f"{self.defense}, {' '.join(filter(None, (self.kind, self.attack)))}, {self.rule}"


class Index(BaseModel):
    """The content of `export.json`. files: the sha256 of each; of merged records before those of single shards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format: Literal[1] = 1
    harness: Annotated[str, Field(max_length=200)]
    suite: Name
    files: Annotated[dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]], Field(max_length=MOST_FILES)]
    table: Annotated[tuple[Number, ...], Field(max_length=8 * MOST_PLACES)]


def numbers(table: Table) -> Iterator[Number]:
    """The numbers of a table, in the order of its lines."""
    attacks: dict[str, list[str]] = {}
    for defense, attack in table.run.pairings:
        attacks.setdefault(defense, []).append(attack)
    for line in lines(table):
        if line.kind in ("certified", "attacked", "cr-average", "cr-worst"):
            continue  # they follow from counts, which `harness verify` checks, or from other numbers of the table
        members = line.attack.split() or attacks.get(line.defense, [])
        yield Number(members=tuple(members), **_facts(line))


def fault_of(run: Run) -> str | None:
    """Why results are not those that their manifest describes, or None; stale shards do not count."""
    if run.manifest.edited:
        return f"{MANIFEST} was edited after it was written"
    for (defense, attack), pairing in run.cells.items():
        cell = Store(run.path).cell(defense, attack, pairing.facts.key)
        if pairing.damaged:
            return f"{defense}/{attack}: {pairing.damaged[0]}"
        for bounds in cell.shards():
            if (recorded := pairing.facts.recorded(*bounds)) and cell.digest(*bounds) != recorded:
                return f"{defense}/{attack}: the records {bounds[0]}-{bounds[1]} are not those of {MANIFEST}"
    return None


def _facts(line: Line) -> dict[str, Any]:
    return {name: value for name, value in vars(line).items() if name in Number.model_fields}
