"""The pairs of files that hold the shards of one pairing: what they are called, and when their content is believed.

    00000-00032.safetensors                  adversarial images of a shard (and flows), float32
    00000-00032.parquet                      its records; written last, so it marks the shard as finished
    00000-10000-1a2b3c4d5e6f.safetensors     images of many shards, in order, see `harness.results.merge`
    00000-10000-1a2b3c4d5e6f.parquet         their records, and for each shard the sha256 of the file that it had

Files are used only if the records file contains the cell's key, its own bounds, the hash of the records, and the hash
of the images file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from harness.files import write_atomically
from harness.guard.untrusted import Unreadable, contents, digest, parse_json
from harness.results.columns import Columns, digest_of, fault_of
from harness.results.record import SCHEMA_VERSION
from harness.results.shard_files import LARGEST_IMAGES, LARGEST_RECORDS, RecordsFile, misfit, rows_digest_of, shapes_of
from harness.suite.limits import MOST_IMAGES

if TYPE_CHECKING:
    from torch import Tensor

Result = TypeVar("Result")

ShardRange = tuple[int, int]
"""A contiguous range of the suite's images, [start, stop)."""

OWN = re.compile(r"([0-9]{5,9})-([0-9]{5,9})\.parquet")
MERGED = re.compile(r"([0-9]{5,9})-([0-9]{5,9})-[0-9a-f]{12}\.parquet")
"""The names of records files."""


class Damaged(Exception):
    """A shard's files exist but are not valid; the message gives the reason."""


class Stale(Damaged):
    """A shard's files belong to another defense, attack or protocol than the requested one."""


@dataclass(frozen=True)
class Stored:
    """A pair of files in memory.

    Attributes:
        start, stop: the images that they hold.
        records: of these.
        parts: of merged files, by shard the sha256 of the records file that it had; empty for a shard's own files.
    """

    start: int
    stop: int
    records: Columns
    parts: dict[ShardRange, str]


class CellFiles:
    """The files of one pairing. Of each pair the name without the ending is given, its stem.

    Args:
        folder: `RUN/cells/DEFENSE/ATTACK`.
        key: the identity of the pairing, see `harness.suite.cell_key`.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        self._known: dict[str, Stored] = {}

    def facts(self, start: int, stop: int, images: bytes) -> dict[str, str]:
        """The metadata of a records file beside these images, as far as every file has it."""
        return {
            "schema_version": str(SCHEMA_VERSION),
            "cell": self.key,
            "shard": f"{start}-{stop}",
            "images_sha256": hashlib.sha256(images).hexdigest(),
        }

    def write_files(self, stem: str, images: bytes, records: bytes) -> None:
        """Writes a pair of files, the records last. Raises UserError if it cannot be written."""
        self.forget(stem)
        write_atomically(self.path(stem, "safetensors"), images)
        write_atomically(self.path(stem, "parquet"), records)

    def load(self, stem: str, start: int, stop: int, votes: int) -> Stored | None:
        """A pair of files, examined as a whole; None if there are no records. Merged ones are read once."""
        if stem in self._known:
            return self._known[stem]
        path = self.path(stem, "parquet")
        try:
            file = RecordsFile(contents(path, LARGEST_RECORDS))
        except FileNotFoundError:
            return None
        except (Unreadable, ValueError) as error:
            raise Damaged(f"{path.name} cannot be read ({error})") from error
        if file.facts.get("cell") != self.key:
            raise Stale(f"{path.name} belongs to another defense, attack or protocol")
        if file.facts.get("shard") != f"{start}-{stop}":
            raise Damaged(f"{path.name} was written as another shard")
        try:
            table = file.table(stop - start, votes)
            parts = _parts(file.facts, start, stop) if stem != stem_of(start, stop) else {}
        except ValueError as error:
            raise Damaged(f"{path.name} cannot be read ({error})") from error
        if _changed(file.facts, table):
            raise Damaged(f"{path.name} was changed after it was written")
        if fault := misfit(self.read_images(stem, shapes_of), stop - start):
            raise Damaged(f"the images beside {path.name} do not belong to this shard: {fault}")
        if file.facts.get("images_sha256") != self._images_digest(stem):
            raise Damaged(f"the images beside {path.name} are missing or were changed")
        if why := fault_of(table):
            raise Damaged(f"{path.name}: {why}")
        stored = Stored(start, stop, Columns(table), parts)
        if parts:
            self._known[stem] = stored
        return stored

    def forget(self, stem: str) -> None:
        """Reads a pair of files anew the next time: until then, its records take no memory here."""
        self._known.pop(stem, None)

    def merged_files(self) -> list[tuple[str, int, int]]:
        """The merged files: name without the ending, and bounds."""
        names = [MERGED.fullmatch(path.name) for path in self.folder.glob("*.parquet")]
        return sorted((name[0].removesuffix(".parquet"), int(name[1]), int(name[2])) for name in names if name)

    def _images_digest(self, stem: str) -> str | None:
        try:
            return digest(self.path(stem, "safetensors"), LARGEST_IMAGES)
        except (FileNotFoundError, Unreadable):
            return None

    def read_images(self, stem: str, read: Callable[[Path], Result]) -> Result:
        path, records = self.path(stem, "safetensors"), self.path(stem, "parquet").name
        try:
            return read(path)
        except FileNotFoundError as error:
            raise Damaged(f"the images beside {records} are missing") from error
        except Unreadable as error:
            raise Damaged(f"the images beside {records} cannot be read ({error})") from error

    def path(self, stem: str, suffix: str) -> Path:
        return self.folder / f"{stem}.{suffix}"


def stem_of(start: int, stop: int) -> str:
    return f"{start:05d}-{stop:05d}"


def serialised(tensors: dict[str, Tensor]) -> bytes:
    import safetensors.torch

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return bytes(safetensors.torch.save(plain))


def _changed(facts: dict[str, str], table: pa.Table) -> bool:
    """Whether records are others than those that were written."""
    if "columns_sha256" in facts:
        return facts["columns_sha256"] != digest_of(table)
    return facts.get("records_sha256") != rows_digest_of(table.to_pylist())


def _parts(facts: dict[str, str], start: int, stop: int) -> dict[ShardRange, str]:
    """The shards of a merged file, with the hashes that they had. Raises ValueError if they do not make it up."""
    found: Any = parse_json(facts.get("parts", "").encode())
    parts, at = {}, start
    for part in found if isinstance(found, list) else []:
        if not isinstance(part, list) or len(part) != 3 or not isinstance(part[2], str):
            raise ValueError("it does not say which shards it holds")
        first, last, sha256 = part
        if first != at or type(last) is not int or not first < last <= MOST_IMAGES:
            raise ValueError("its shards do not follow each other")
        parts[first, last], at = sha256, last
    if at != stop or not parts:
        raise ValueError("its shards are not the images that its name says")
    return parts
