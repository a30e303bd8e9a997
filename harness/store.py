"""Results on disk. The directory is the state: whatever lies there finished, whatever does not is still to do.

    RUN/
      run.json                             the suite as resolved, versions, hardware, git revision, checkpoint hashes
      cells/DEFENSE/ATTACK/
        00000-00032.safetensors            adversarial images of a shard (and flows), float32
        00000-00032.parquet                its records; written last, so it marks the shard as finished

Every file is written under a temporary name that was never there, synced and renamed: no link that somebody put here is
followed. A shard is believed only if its records carry the
cell's key, the shard's bounds, their own hash, and the hash of the images beside them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
from torch import Tensor

from harness.errors import Place, UserError
from harness.records import SCHEMA, SCHEMA_VERSION, Record

MANIFEST = "run.json"
LOCK = ".lock"

FOLDERS = ("cells", "cells/*", "cells/*/*", "diagnose")
"""Of a results directory."""


class Damaged(Exception):
    """A shard's files exist but cannot be believed; the message says why."""


class Stale(Damaged):
    """A shard's files speak of another defense, attack or protocol than the one asked for."""


def write_atomically(path: Path, data: bytes) -> None:
    """The whole of data under that name, or nothing.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror})", remedy=_remedy(error)) from error
    finally:
        _discard(temporary)


def refuse_links(root: Path) -> None:
    """What is written into a results directory stays in it, though somebody else may have made that directory.

    Raises:
        UserError: a folder of it, or the file of its lock, leads elsewhere.
    """
    for path in (root / LOCK, *(folder for pattern in FOLDERS for folder in root.glob(pattern))):
        if path.is_symlink() or (path.exists() and not (path.is_dir() or path.is_file())):
            raise UserError(
                f"{path} is a symbolic link or a special file, and what is written there could end up elsewhere",
                remedy="Delete it, or choose another directory with --out",
            )


class Cell:
    """The shards of one pairing.

    Args:
        folder: `RUN/cells/DEFENSE/ATTACK`.
        key: the identity of the claim that these records make.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def write(self, start: int, stop: int, records: list[Record], tensors: dict[str, Tensor]) -> None:
        """Keeps a finished shard: images first, records last."""
        images = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
        write_atomically(self._path(start, stop, "safetensors"), images)
        table = pa.Table.from_pylist([asdict(record) for record in records], schema=SCHEMA)
        facts = {
            "schema_version": str(SCHEMA_VERSION),
            "cell": self.key,
            "shard": f"{start}-{stop}",
            "images_sha256": hashlib.sha256(images).hexdigest(),
            "records_sha256": _digest(table),
        }
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(cast(dict[bytes | str, bytes | str], facts)), sink)
        write_atomically(self._path(start, stop, "parquet"), sink.getvalue().to_pybytes())

    def read(self, start: int, stop: int) -> list[Record] | None:
        """The records of a finished shard, or None if it is not finished.

        Raises:
            Stale: it belongs to another claim.
            Damaged: a file is missing, cut, changed, or another shard's.
        """
        path = self._path(start, stop, "parquet")
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Damaged(f"{path.name} cannot be read ({error.strerror})") from error
        try:
            table = pq.read_table(pa.BufferReader(data))
            table.validate(full=True)
            facts = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Damaged(f"{path.name} cannot be read ({str(error).splitlines()[0]})") from error
        if facts.get("cell") != self.key:
            raise Stale(f"{path.name} belongs to another defense, attack or protocol")
        if facts.get("shard") != f"{start}-{stop}":
            raise Damaged(f"{path.name} was written as another shard")
        if table.schema.remove_metadata() != SCHEMA or facts.get("records_sha256") != _digest(table):
            raise Damaged(f"{path.name} was changed after it was written")
        if facts.get("images_sha256") != _file_digest(self._path(start, stop, "safetensors")):
            raise Damaged(f"the images beside {path.name} are missing or were changed")
        return [Record(**row) for row in table.to_pylist()]

    def images(self, start: int, stop: int) -> dict[str, Tensor]:
        """What the attack returned: "images" (N, C, H, W) and, for flows, "flow" (N, H, W, 2)."""
        return safetensors.torch.load(self._path(start, stop, "safetensors").read_bytes())

    def shards(self) -> list[tuple[int, int]]:
        """Bounds of the shards that lie here, in order."""
        names = (re.fullmatch(r"(\d+)-(\d+)\.parquet", path.name) for path in self.folder.glob("*.parquet"))
        return sorted((int(name[1]), int(name[2])) for name in names if name)

    def paths(self, shards: Iterable[tuple[int, int]]) -> list[Path]:
        """The files of these shards."""
        return [self._path(*bounds, suffix) for bounds in shards for suffix in ("safetensors", "parquet")]

    def _path(self, start: int, stop: int, suffix: str) -> Path:
        return self.folder / f"{start:05d}-{stop:05d}.{suffix}"


class Store:
    """One run's directory.

    Raises:
        UserError: the directory cannot be read or written, or its manifest is not one.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def cell(self, defense: str, attack: str, key: str) -> Cell:
        return Cell(self.root / "cells" / defense / attack, key)

    def manifest(self) -> dict[str, Any] | None:
        """What `run.json` says, or None where no run has begun."""
        path = self.root / MANIFEST
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"cannot read {path} ({error.strerror})", remedy="Check its permissions") from error
        try:
            manifest = json.loads(text)
            version = manifest["schema_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                "this is not a manifest of a run", remedy="Move the file away to start the run anew", where=Place(path)
            ) from error
        if version != SCHEMA_VERSION:
            raise UserError(
                f"the results have schema version {version}, this harness reads {SCHEMA_VERSION}",
                remedy="Use the harness version that the manifest names, or run into another directory with --out",
                where=Place(path),
            )
        return cast(dict[str, Any], manifest)

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        text = json.dumps({"schema_version": SCHEMA_VERSION, **manifest}, indent=1)
        write_atomically(self.root / MANIFEST, text.encode())

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
    """That this process alone writes to a directory, for as long as its lock file stays where it is."""

    root: Path
    file: os.stat_result

    def check(self) -> None:
        """Raises UserError if the directory was deleted, or another one put in its place."""
        try:
            there = os.path.samestat(os.lstat(self.root / LOCK), self.file)
        except OSError:
            there = False
        if not there:
            raise UserError(
                f"{self.root} was deleted, or replaced, while results were written to it",
                remedy="Run the same command again: it makes what is missing",
            )


def _digest(table: pa.Table) -> str:
    return hashlib.sha256(json.dumps(table.to_pylist(), sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "Free some space and run the same command again: finished shards are kept"
    return "Choose a directory that you may write with --out"


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the folder itself cannot be written: nothing of ours is in it


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
