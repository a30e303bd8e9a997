"""Which of several directories gives which shard of a pairing, and the copying of its files, byte for byte.

A shard that several directories have must be the same in all of them: the records without their seconds, and the images
to the bit. Errors are no results, so a shard that ended in fewer of them goes before another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from harness.errors import UserError
from harness.guard.untrusted import Unreadable, contents
from harness.results.cell_files import stem_of
from harness.results.columns import Columns, digest_of
from harness.results.load import CellResults, Run
from harness.results.shard_files import LARGEST_IMAGES, LARGEST_RECORDS
from harness.results.store import CellStore, Damaged, ShardRange, Store, shard_ranges


@dataclass(frozen=True, eq=False)
class Part:
    """What one directory has of a pairing. found: its results, all of which are valid; stored: their files."""

    root: Path
    found: CellResults
    stored: CellStore

    @classmethod
    def of(cls, run: Run, pair: tuple[str, str]) -> Part:
        found = run.cells[pair]
        return cls(run.path, found, Store(run.path).cell(*pair, found.facts.key))

    def ranges(self) -> set[ShardRange]:
        """The shards that it has."""
        places, facts = set(self.found.places.tolist()), self.found.facts
        return {bounds for bounds in shard_ranges(facts.count, facts.shard) if bounds[0] in places}

    def records(self, bounds: ShardRange) -> Columns:
        """Of a shard that it has."""
        row = int(np.searchsorted(self.found.places, bounds[0]))
        return self.found.columns[row : row + bounds[1] - bounds[0]]


def owners(parts: Sequence[Part]) -> dict[ShardRange, Part]:
    """The directory that gives each shard that there is: the first of those in which the fewest images failed.

    Raises:
        UserError: two directories have different results for an image.
    """
    found: dict[ShardRange, Part] = {}
    for part in parts:
        for bounds in part.ranges():
            other = found.setdefault(bounds, part)
            if other is not part:
                _refuse_contradiction(other, part, bounds)
                if part.records(bounds).failed.sum() < other.records(bounds).failed.sum():
                    found[bounds] = part
    return dict(sorted(found.items()))


def copy(shards: dict[ShardRange, Part], to: CellStore) -> int:
    """Copies the shards of a pairing that are not there yet. Returns how many these are.

    Args:
        shards: as `owners` returns them; those that `to` gives stay as they are.

    Raises:
        UserError: a file cannot be read or written, or was changed meanwhile.
    """
    missing = {bounds: part for bounds, part in shards.items() if part.stored.folder != to.folder}
    merged = bool(to.merged_files())
    for part in dict.fromkeys(missing.values()):
        own = [bounds for bounds, owner in missing.items() if owner is part]
        for stem in dict.fromkeys(part.stored.place(*bounds)[0] for bounds in own):
            inside = [bounds for bounds in own if part.stored.place(*bounds)[0] == stem]
            if [stem] == [stem_of(*bounds) for bounds in inside]:
                _copy_files(part.stored, stem, to)
            elif merged or any(to.path(stem_of(*bounds), "parquet").exists() for bounds in inside):
                _write_apart(part, inside, to)  # of merged files the reader takes any, and a shard's own before these
            else:
                _copy_files(part.stored, stem, to)
                merged = True
    for bounds, part in missing.items():
        _examine(part, bounds, to)
    return len(missing)


def _copy_files(source: CellStore, stem: str, to: CellStore) -> None:
    limits = {"safetensors": LARGEST_IMAGES, "parquet": LARGEST_RECORDS}
    try:
        images, records = (contents(source.path(stem, suffix), limit) for suffix, limit in limits.items())
    except (FileNotFoundError, Unreadable) as error:
        raise _changed(source.path(stem, "parquet")) from error
    to.write_files(stem, images, records)


def _write_apart(part: Part, shards: Sequence[ShardRange], to: CellStore) -> None:
    """Writes shards of a merged file as files of their own, which go before merged ones."""
    for bounds in shards:
        to.write(*bounds, list(part.records(bounds)), part.stored.images(*bounds))


def _examine(part: Part, bounds: ShardRange, to: CellStore) -> None:
    """Raises UserError if what was written is not what was read."""
    try:
        written = to.read(*bounds)
    except Damaged as error:
        raise _changed(part.stored.folder) from error
    if written is None or digest_of(written.table) != digest_of(part.records(bounds).table):
        raise _changed(part.stored.folder)


def _changed(path: Path) -> UserError:
    return UserError(f"{path} was changed while it was copied", remedy="Merge again when no run is writing it")


def _refuse_contradiction(one: Part, two: Part, bounds: ShardRange) -> None:
    """Raises UserError if two directories have different results for an image that failed in neither."""
    records = one.records(bounds), two.records(bounds)
    rows = np.flatnonzero(~(records[0].failed | records[1].failed))
    before, now = (_without_seconds(found.take(rows).table) for found in records)
    if digest_of(before) != digest_of(now):
        for row, (old, new) in enumerate(zip(before.to_pylist(), now.to_pylist(), strict=True)):
            if different := [name for name in old if repr(old[name]) != repr(new[name])]:
                name = different[0]
                raise _contradiction(one, two, bounds[0] + int(rows[row]), f"{name} {old[name]} and {new[name]}")
    tensors = one.stored.images(*bounds), two.stored.images(*bounds)
    for row in rows.tolist():
        raw = [{name: tensor[row].numpy().tobytes() for name, tensor in found.items()} for found in tensors]
        if raw[0] != raw[1]:
            raise _contradiction(one, two, bounds[0] + row, "other adversarial images")


def _without_seconds(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index("seconds")
    field = table.schema.field(at)
    return table.set_column(at, field, pa.array(np.zeros(len(table)), type=field.type))


def _contradiction(one: Part, two: Part, place: int, what: str) -> UserError:
    facts = one.found.facts
    return UserError(
        f"{one.root} and {two.root} contradict each other on {facts.name}, image {place}: {what}",
        remedy="Other hardware rounds otherwise. Find out with `harness verify` if one of them is wrong, and remove "
        f"cells/{facts.name} from the other copy",
    )
