"""The stored shards of one pairing, each in files of its own, or merged with others once the pairing is finished.

A shard's own files go before merged ones that hold it too: it was made anew, or a crash came between the writing of a
merged file and the removal of what it replaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError
from harness.guard.untrusted import Unreadable, digest
from harness.results.cell_files import OWN, CellFiles, Damaged, ShardRange, Stored, serialised, stem_of
from harness.results.columns import Columns
from harness.results.record import Record
from harness.results.shard_files import (
    LARGEST_IMAGES,
    LARGEST_RECORDS,
    Shapes,
    arrays_of,
    encode,
    rows_digest_of,
    shapes_of,
    tensors_of,
)
from harness.suite.limits import MOST_VOTES

if TYPE_CHECKING:
    from torch import Tensor


def shard_ranges(images: int, shard: int) -> list[ShardRange]:
    """The shards of a pairing, in order. Each has `shard` images; the last one may have fewer.

    Example:
        >>> shard_ranges(10, 4)
        [(0, 4), (4, 8), (8, 10)]
    """
    return [(start, min(start + shard, images)) for start in range(0, images, shard)]


class CellStore(CellFiles):
    """The shards of one pairing."""

    def write(self, start: int, stop: int, records: Sequence[Record], tensors: dict[str, Tensor]) -> None:
        """Writes a finished shard: images first, records last.

        Raises:
            UserError: the shard exceeds the size limits for reading, or cannot be written.
        """
        table = Columns.of(records).table
        images = serialised(tensors)
        data = encode(table, {**self.facts(start, stop, images), "records_sha256": rows_digest_of(table.to_pylist())})
        if len(images) > LARGEST_IMAGES or len(data) > LARGEST_RECORDS:
            raise UserError(
                f"a shard of {stop - start} images takes {len(images):,} bytes, more than the limit of "
                f"{LARGEST_IMAGES:,}",
                remedy="Reduce the number of images in `protocol: {shard: ...}`",
            )
        self.write_files(stem_of(start, stop), images, data)

    def read(self, start: int, stop: int, votes: int = MOST_VOTES) -> Columns | None:
        """The records of a finished shard, or None if it is not finished.

        Args:
            votes: the largest number of votes of an image in this run.

        Raises:
            Stale: the shard belongs to another defense, attack or protocol.
            Damaged: a file is missing, truncated, changed, from another shard, or not valid.
        """
        if own := self.load(stem_of(start, stop), start, stop, votes):
            return own.records
        merged = self._merged(start, stop, votes)
        return merged.records[start - merged.start : stop - merged.start] if merged else None

    def shapes(self, start: int, stop: int) -> Shapes:
        """The shapes of the tensors that `images` returns, read from the file's header.

        Raises:
            Damaged: the file is missing, or is not valid.
        """
        stem, _ = self.place(start, stop)
        shapes = self.read_images(stem, shapes_of)
        own = stem == stem_of(start, stop)
        return shapes if own else {name: (stop - start, *shape[1:]) for name, shape in shapes.items()}

    def images(self, start: int, stop: int, first: int | None = None) -> dict[str, Tensor]:
        """The result of the attack: "images" (N, C, H, W) and, if any, "flow" or "parameters"; or their first rows.

        Raises:
            Damaged: the file is missing, or is not valid.
        """
        stem, before = self.place(start, stop)
        count = stop - start if first is None else min(first, stop - start)
        rows = slice(None, first) if stem == stem_of(start, stop) else slice(before, before + count)
        return self.read_images(stem, lambda path: tensors_of(path, rows))

    def certified(self, start: int, stop: int) -> dict[str, NDArray[np.float32]]:
        """The result of a certificate: "counts" (N, 2, K) and "radii" (N,), or nothing where it failed on all images.

        Raises:
            Damaged: the file is missing, or is not valid.
        """
        stem, before = self.place(start, stop)
        rows = slice(None) if stem == stem_of(start, stop) else slice(before, before + stop - start)
        return self.read_images(stem, lambda path: arrays_of(path, ("counts", "radii"), rows))

    def digest(self, start: int, stop: int) -> str | None:
        """The sha256 of a shard's records file, which contains that of its images; None if it cannot be read.

        Of a merged shard, it is the one of the file that it had.
        """
        try:
            return digest(self.path(stem_of(start, stop), "parquet"), LARGEST_RECORDS)
        except FileNotFoundError:
            try:
                merged = self._merged(start, stop, MOST_VOTES)
            except Damaged:
                return None
            return merged.parts[start, stop] if merged else None
        except Unreadable:
            return None

    def shards(self) -> list[ShardRange]:
        """The bounds of the stored shards, in order; of merged files that cannot be read, those of all they hold."""
        names = [OWN.fullmatch(path.name) for path in self.folder.glob("*.parquet")]
        found = {(int(name[1]), int(name[2])) for name in names if name}
        for stem, start, stop in self.merged_files():
            try:
                merged = self.load(stem, start, stop, MOST_VOTES)
            except Damaged:
                found.add((start, stop))
            else:
                found |= set(merged.parts) if merged else set()
        return sorted(found)

    def paths(self, shards: Iterable[ShardRange]) -> list[Path]:
        """The files that hold these shards; its own, where there are none."""
        stems = dict.fromkeys(self.place(*bounds)[0] for bounds in shards)
        return [self.path(stem, suffix) for stem in stems for suffix in ("safetensors", "parquet")]

    def place(self, start: int, stop: int) -> tuple[str, int]:
        """The name, without the ending, of the files that hold a shard, and how many images they hold before it."""
        own = stem_of(start, stop)
        if not self.path(own, "parquet").exists():
            for stem, first, last in self.merged_files():
                if first <= start < stop <= last:
                    return stem, start - first
        return own, 0

    def _merged(self, start: int, stop: int, votes: int) -> Stored | None:
        """The merged files that hold a shard. Raises Damaged if there are such, and none of them is valid."""
        known = (stored for stored in self._known.values() if (start, stop) in stored.parts)
        if found := next(known, None):
            return found
        damage = None
        for stem, first, last in self.merged_files():
            try:
                merged = self.load(stem, first, last, votes) if first <= start < stop <= last else None
            except Damaged as error:
                damage = error
                continue
            if merged and (start, stop) in merged.parts:
                return merged
        if damage:
            raise damage
        return None
