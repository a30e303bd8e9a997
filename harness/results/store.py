"""Results on disk. The directory is the state of a run: shards that exist are finished, all others are still to do.

    RUN/
      run.json                             the suite as resolved, versions, hardware, git revision, checkpoint hashes
      cells/DEFENSE/ATTACK/                the shards of a pairing, see `harness.results.cell_files`

Every file is written under a new temporary name, synced and renamed, so that no existing link is followed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from harness.errors import Place, UserError
from harness.files import _discard, _remedy, write_atomically
from harness.guard.untrusted import Unreadable, contents, parse_json
from harness.results.cell_files import Damaged, ShardRange, Stale
from harness.results.cell_store import CellStore, shard_ranges
from harness.results.claims import FOLDER as CLAIMS
from harness.results.claims import Claims, Holder
from harness.results.record import SCHEMA_VERSION

__all__ = ["MANIFEST", "CellStore", "Damaged", "Lock", "ShardRange", "Stale", "Store", "refuse_links", "shard_ranges"]

MANIFEST = "run.json"
LOCK = ".lock"
WORKER = "worker-"
"""How the names of the claims begin by which workers show that they are there."""
KEPT_IMAGES = "data.npz"
"""The clean images of a run whose data were passed in Python, and so have no other file."""

FOLDERS = ("cells", "cells/*", "cells/*/*", "diagnose", CLAIMS)
"""The folders of a results directory."""

LARGEST_MANIFEST = 1 << 24
"""The largest size of a manifest in bytes."""


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
        """Keeps a second process from writing the same results at the same time, and workers that share them too.

        Raises:
            UserError: others write them, or the file system cannot lock files.
        """
        with self._lock_file() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise self._busy() from error
            except OSError as error:
                raise UserError(
                    f"the file system of {self.root} cannot lock files ({error.strerror})",
                    remedy="Choose a directory on a local disk with --out, or share it with --worker 1/1",
                ) from error
            if self._workers():  # those of other machines, where locks do not reach
                raise self._busy()
            self.sweep()
            Claims(self.root).clear()
            yield Lock(self.root, os.fstat(file.fileno()))

    @contextmanager
    def shared(self) -> Iterator[Lock]:
        """Lets other workers write the same results, who agree with each other by claims, but no run that is alone.

        Raises:
            UserError: such a run writes them.
        """
        with self._lock_file() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise self._busy() from error
            except OSError:
                pass  # without locks no run can be alone, and workers need none
            yield Lock(self.root, os.fstat(file.fileno()))

    def _busy(self) -> UserError:
        """What is told to who wants to write results that others write."""
        workers = self._workers()
        if not workers:
            return UserError(
                f"another process is writing {self.root}", remedy="Wait for it, or choose another directory with --out"
            )
        more = f" and {len(workers) - 1} more" if len(workers) > 1 else ""
        return UserError(
            f"workers are writing {self.root}: {workers[0]}{more}",
            remedy="Join them with --worker, wait for them, or choose another directory with --out",
        )

    def _workers(self) -> list[Holder]:
        """The workers that share this directory."""
        return Claims(self.root).others(WORKER)

    def sweep(self) -> None:
        """Removes the temporary files of a process that was killed while it wrote. Nobody else may be writing."""
        patterns = (f".{MANIFEST}.*.tmp", "cells/*/*/.*.tmp", f"{CLAIMS}/.now-*")
        for leftover in (path for pattern in patterns for path in self.root.glob(pattern)):
            _discard(leftover)

    @contextmanager
    def _lock_file(self) -> Iterator[IO[bytes]]:
        with self._open_lock() as file:
            yield file

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
