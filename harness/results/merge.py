"""Merges the shards of a finished pairing into a few files: reading thousands of small ones takes minutes.

A merged file holds consecutive shards, and ends in a part of the hash of its content, so that other content has another
name. A crash at any moment loses nothing: what it replaces is removed only after it has been written and read back.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from harness.results.cell_files import Damaged, ShardRange, serialised, stem_of
from harness.results.cell_store import CellStore
from harness.results.columns import Columns, digest_of
from harness.results.shard_files import Shapes, encode
from harness.suite.limits import MOST_VALUES, MOST_VOTES

MANY = 32
"""More shards than this in files of their own are merged."""

MERGED_BYTES = 1 << 26
"""About the largest size of the images in a merged file."""


@dataclass
class _Group:
    """Consecutive shards that fit into one file.

    Attributes:
        shapes: of the tensors of one image; None before the first shard.
        size: of the images, in bytes. values: in the records.
    """

    shapes: Shapes | None = None
    size: int = 0
    values: int = 0
    shards: list[ShardRange] = field(default_factory=list)
    records: list[Columns] = field(default_factory=list)

    def add(self, bounds: ShardRange, records: Columns, shapes: Shapes) -> bool:
        """Adds a shard, unless it does not fit. Returns whether it was added."""
        one = {name: shape[1:] for name, shape in shapes.items()}
        size, values = sum(4 * math.prod(shape) for shape in shapes.values()), records.values()
        full = self.size + size > MERGED_BYTES or self.values + values > MOST_VALUES // 2
        if self.shards and (full or one != self.shapes):
            return False
        self.shapes, self.size, self.values = one, self.size + size, self.values + values
        self.shards.append(bounds)
        self.records.append(records)
        return True


def merge(cell: CellStore, shards: Sequence[ShardRange], check: Callable[[], None] = lambda: None) -> None:
    """Merges the shards of a finished pairing, if many of them have files of their own.

    Args:
        shards: all shards of the pairing, in order; each must be stored.
        check: is called before anything is removed, and may raise.

    Raises:
        Damaged: a shard is not valid. Nothing is removed.
        UserError: a file cannot be written. Nothing is removed.
    """
    if sum(cell.path(stem_of(*bounds), "parquet").exists() for bounds in shards) <= MANY:
        return
    kept = {_write(cell, group) for group in _groups(cell, shards)}
    check()
    merged = [stem for stem, *_ in cell.merged_files()]
    replaced = [*merged, *(stem_of(*bounds) for bounds in shards)]  # merged ones first: own files go before them
    for stem in replaced:
        if stem not in kept:
            for suffix in ("parquet", "safetensors"):
                cell.path(stem, suffix).unlink(missing_ok=True)


def _groups(cell: CellStore, shards: Sequence[ShardRange]) -> Iterator[_Group]:
    group = _Group()
    for bounds in shards:
        records, shapes = cell.read(*bounds), cell.shapes(*bounds)
        if records is None:
            raise Damaged(f"the images {bounds[0]} to {bounds[1] - 1} are not stored")
        if not group.add(bounds, records, shapes):
            yield group
            group = _Group()
            group.add(bounds, records, shapes)
    yield group


def _write(cell: CellStore, group: _Group) -> str:
    """Writes a merged file. Returns its stem; of a group of one shard, which needs none, that of the shard's files."""
    import torch

    (start, _), (_, stop) = group.shards[0], group.shards[-1]
    if len(group.shards) == 1:
        return cell.place(start, stop)[0]
    records, tensors = Columns.joined(group.records), [cell.images(*bounds) for bounds in group.shards]
    images = serialised({name: torch.cat([each[name] for each in tensors]) for name in tensors[0]})
    parts = json.dumps([[*bounds, cell.digest(*bounds)] for bounds in group.shards])
    facts = cell.facts(start, stop, images) | {"parts": parts}
    content = f"{facts['images_sha256']} {digest_of(records.table)} {parts}"
    stem = f"{stem_of(start, stop)}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    cell.write_files(stem, images, encode(records.table, facts))
    written = cell.load(stem, start, stop, MOST_VOTES)
    if written is None or list(written.parts) != group.shards:
        raise Damaged(f"{stem}.parquet was written, and does not hold what it should")
    cell.forget(stem)
    return stem
