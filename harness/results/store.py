"""Results on disk. The directory is the state of a run: shards that exist are finished, all others are still to do.

    RUN/
      run.json                             the suite as resolved, versions, hardware, git revision, checkpoint hashes
      cells/DEFENSE/ATTACK/
        00000-00032.safetensors            adversarial images of a shard (and flows), float32
        00000-00032.parquet                its records; written last, so it marks the shard as finished

Every file is written under a new temporary name, synced and renamed, so that no existing link is followed. A shard is
valid only if its records file contains the cell's key, the shard's bounds, the hash of the records, and the hash of the
images file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import safetensors.torch
from torch import Tensor

from harness.errors import Place, UserError
from harness.files import _discard, _remedy, write_atomically
from harness.guard.untrusted import Unreadable, contents, digest, parse_json
from harness.results.record import SCHEMA_VERSION, Record, from_row
from harness.results.shard_files import (
    LARGEST_IMAGES,
    LARGEST_RECORDS,
    Shapes,
    decode,
    digest_of,
    encode,
    facts_of,
    misfit,
    shapes_of,
    tensors_of,
)
from harness.suite.limits import MOST_VOTES

MANIFEST = "run.json"
LOCK = ".lock"
KEPT_IMAGES = "data.npz"
"""The clean images of a run whose data were passed in Python, and so have no other file."""

FOLDERS = ("cells", "cells/*", "cells/*/*", "diagnose")
"""The folders of a results directory."""

LARGEST_MANIFEST = 1 << 24
"""The largest size of a manifest in bytes."""

Result = TypeVar("Result")

ShardRange = tuple[int, int]
"""A contiguous range of the suite's images, [start, stop)."""


def shard_ranges(images: int, shard: int) -> list[ShardRange]:
    """The shards of a pairing, in order. Each has `shard` images; the last one may have fewer.

    Example:
        >>> shard_ranges(10, 4)
        [(0, 4), (4, 8), (8, 10)]
    """
    return [(start, min(start + shard, images)) for start in range(0, images, shard)]


class Damaged(Exception):
    """A shard's files exist but are not valid; the message gives the reason."""


class Stale(Damaged):
    """A shard's files belong to another defense, attack or protocol than the requested one."""


def refuse_links(root: Path) -> None:
    """Makes sure that nothing is written outside a results directory, even if someone else created that directory.

    Raises:
        UserError: one of its folders, or its lock file, is a symbolic link or a special file.
    """
    for path in (root / LOCK, *(folder for pattern in FOLDERS for folder in root.glob(pattern))):
        if path.is_symlink() or (path.exists() and not (path.is_dir() or path.is_file())):
            raise UserError(
                f"{path} is a symbolic link or a special file, so that results could be written to another directory",
                remedy="Delete it, or choose another directory with --out",
            )


class CellStore:
    """The shards of one pairing.

    Args:
        folder: `RUN/cells/DEFENSE/ATTACK`.
        key: the identity of the pairing, see `harness.suite.cell_key`.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def write(self, start: int, stop: int, records: list[Record], tensors: dict[str, Tensor]) -> None:
        """Writes a finished shard: images first, records last.

        Raises:
            UserError: the shard exceeds the size limits for reading, or cannot be written.
        """
        images = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
        facts = {
            "schema_version": str(SCHEMA_VERSION),
            "cell": self.key,
            "shard": f"{start}-{stop}",
            "images_sha256": hashlib.sha256(images).hexdigest(),
        }
        data = encode([asdict(record) for record in records], facts)
        if len(images) > LARGEST_IMAGES or len(data) > LARGEST_RECORDS:
            raise UserError(
                f"a shard of {stop - start} images takes {len(images):,} bytes, more than the limit of "
                f"{LARGEST_IMAGES:,}",
                remedy="Reduce the number of images in `protocol: {shard: ...}`",
            )
        write_atomically(self._path(start, stop, "safetensors"), images)
        write_atomically(self._path(start, stop, "parquet"), data)

    def read(self, start: int, stop: int, votes: int = MOST_VOTES) -> list[Record] | None:
        """The records of a finished shard, or None if it is not finished.

        Args:
            votes: the largest number of votes of an image in this run.

        Raises:
            Stale: the shard belongs to another defense, attack or protocol.
            Damaged: a file is missing, truncated, changed, from another shard, or not valid.
        """
        path = self._path(start, stop, "parquet")
        try:
            data = contents(path, LARGEST_RECORDS)
            facts = facts_of(data)
        except FileNotFoundError:
            return None
        except (Unreadable, ValueError) as error:
            raise Damaged(f"{path.name} cannot be read ({error})") from error
        if facts.get("cell") != self.key:
            raise Stale(f"{path.name} belongs to another defense, attack or protocol")
        if facts.get("shard") != f"{start}-{stop}":
            raise Damaged(f"{path.name} was written as another shard")
        try:
            rows = decode(data, stop - start, votes)
        except ValueError as error:
            raise Damaged(f"{path.name} cannot be read ({error})") from error
        if facts.get("records_sha256") != digest_of(rows):
            raise Damaged(f"{path.name} was changed after it was written")
        if fault := misfit(self.shapes(start, stop), stop - start):
            raise Damaged(f"the images beside {path.name} do not belong to this shard: {fault}")
        if facts.get("images_sha256") != self._images_digest(start, stop):
            raise Damaged(f"the images beside {path.name} are missing or were changed")
        try:
            return [from_row(row) for row in rows]
        except ValueError as error:
            raise Damaged(f"{path.name}: {error}") from error

    def shapes(self, start: int, stop: int) -> Shapes:
        """The shapes of the tensors that `images` returns, read from the file's header.

        Raises:
            Damaged: the file is missing, or is not valid.
        """
        return self._read_images(start, stop, shapes_of)

    def images(self, start: int, stop: int, first: int | None = None) -> dict[str, Tensor]:
        """The result of the attack: "images" (N, C, H, W) and, for flows, "flow" (N, H, W, 2), or their first rows.

        Raises:
            Damaged: the file is missing, or is not valid.
        """
        return self._read_images(start, stop, partial(tensors_of, first=first))

    def digest(self, start: int, stop: int) -> str | None:
        """The sha256 of a shard's records file, which contains that of its images; None if it cannot be read."""
        try:
            return digest(self._path(start, stop, "parquet"), LARGEST_RECORDS)
        except (FileNotFoundError, Unreadable):
            return None

    def shards(self) -> list[ShardRange]:
        """The bounds of the stored shards, in order."""
        names = (
            re.fullmatch(r"([0-9]{5,9})-([0-9]{5,9})\.parquet", path.name) for path in self.folder.glob("*.parquet")
        )
        return sorted((int(name[1]), int(name[2])) for name in names if name)

    def paths(self, shards: Iterable[ShardRange]) -> list[Path]:
        """The files of these shards."""
        return [self._path(*bounds, suffix) for bounds in shards for suffix in ("safetensors", "parquet")]

    def _images_digest(self, start: int, stop: int) -> str | None:
        try:
            return digest(self._path(start, stop, "safetensors"), LARGEST_IMAGES)
        except (FileNotFoundError, Unreadable):
            return None

    def _read_images(self, start: int, stop: int, read: Callable[[Path], Result]) -> Result:
        path, records = self._path(start, stop, "safetensors"), self._path(start, stop, "parquet").name
        try:
            return read(path)
        except FileNotFoundError as error:
            raise Damaged(f"the images beside {records} are missing") from error
        except Unreadable as error:
            raise Damaged(f"the images beside {records} cannot be read ({error})") from error

    def _path(self, start: int, stop: int, suffix: str) -> Path:
        return self.folder / f"{start:05d}-{stop:05d}.{suffix}"


class Store:
    """The directory of a run.

    Raises:
        UserError: the directory cannot be read or written, or its manifest is not valid.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def cell(self, defense: str, attack: str, key: str) -> CellStore:
        return CellStore(self.root / "cells" / defense / attack, key)

    def manifest(self) -> dict[str, Any] | None:
        """The content of `run.json`, or None if no run has begun."""
        path = self.root / MANIFEST
        try:
            manifest = parse_json(contents(path, LARGEST_MANIFEST))
            version = manifest["schema_version"]
        except FileNotFoundError:
            return None
        except Unreadable as error:
            raise UserError(f"cannot read {path}: {error}", remedy="Check this file") from error
        except (ValueError, KeyError, TypeError) as error:
            why = f" ({error})" if isinstance(error, ValueError) else ""
            raise UserError(
                f"this is not a manifest of a run{why}",
                remedy="Move the file away to start the run anew",
                where=Place(path),
            ) from error
        if version != SCHEMA_VERSION:
            raise UserError(
                f"the results have schema version {str(version)[:20]}, this harness reads {SCHEMA_VERSION}",
                remedy="Use the harness version that the manifest names, or run into another directory with --out",
                where=Place(path),
            )
        return cast(dict[str, Any], manifest)

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        data = json.dumps({"schema_version": SCHEMA_VERSION, **manifest}, indent=1).encode()
        if len(data) > LARGEST_MANIFEST:
            raise UserError(
                f"{MANIFEST} would have {len(data):,} bytes, more than the limit of {LARGEST_MANIFEST:,}",
                remedy="Increase the number of images in `protocol: {shard: ...}`, or split the suite",
            )
        write_atomically(self.root / MANIFEST, data)

    @contextmanager
    def locked(self) -> Iterator[Lock]:
        """Keeps a second process from writing the same results at the same time."""
        file = self._open_lock()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is writing {self.root}", remedy="Wait for it, or choose another directory with --out"
            ) from error
        except OSError as error:
            raise UserError(
                f"the file system of {self.root} cannot lock files ({error.strerror})",
                remedy="Choose a directory on a local disk with --out",
            ) from error
        else:
            self._sweep()
            yield Lock(self.root, os.fstat(file.fileno()))
        finally:
            file.close()

    def _sweep(self) -> None:
        """Removes the temporary files of a process that was killed while it wrote."""
        for leftover in (*self.root.glob(f".{MANIFEST}.*.tmp"), *self.root.glob("cells/*/*/.*.tmp")):
            _discard(leftover)

    def _open_lock(self) -> IO[bytes]:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            refuse_links(self.root)
            return open(self.root / LOCK, "ab", opener=_without_links)
        except OSError as error:
            raise UserError(f"cannot write {self.root} ({error.strerror})", remedy=_remedy(error)) from error


@dataclass(frozen=True)
class Lock:
    """The lock on a directory. It is only effective while its lock file is not deleted or replaced."""

    root: Path
    file: os.stat_result

    def check(self) -> None:
        """Raises UserError if the directory was deleted or replaced."""
        try:
            intact = os.path.samestat(os.lstat(self.root / LOCK), self.file)
        except OSError:
            intact = False
        if not intact:
            raise UserError(
                f"{self.root} was deleted, or replaced, while results were written to it",
                remedy="Run the same command again: it computes the missing results",
            )


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
