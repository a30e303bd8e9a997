"""Downloads files into a cache. A file in the cache is complete and verified, and is downloaded only once.

    ROOT/NAME                                      the file; it gets this name only when it is complete
    ROOT/NAME.origin.json                          the SHA-256 of the first download, if no hash is published
    ROOT/.NAME.part, .NAME.part.json, .NAME.lock   an incomplete download, its address, and the lock of its process

If no hash is published, the first download is trusted, and every later one must be the same. Only http and https
addresses are accepted, in redirections too, and nothing is written outside ROOT.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

from harness import settings
from harness.errors import UserError
from harness.files import digest, sync_folder
from harness.settings import weights_root
from harness.weights import http
from harness.weights.http import Broken, Misfit, Refused, Stalled

PAUSES = (1.0, 2.0, 4.0)
"""The pauses in seconds before further attempts. They start again after an attempt with `WORTH` bytes or more."""

WORTH = 1 << 20
"""The number of bytes from which an attempt counts as progress."""

LONGEST_NAME = 120

Progress = Callable[[int, int | None], None]
"""Receives the number of bytes downloaded so far, and the total number if the server states it."""


def fetch(
    url: str,
    target: str | Path | None = None,
    *,
    root: Path | None = None,
    sha256: str | None = None,
    size: int | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Downloads a file into the cache, or verifies it if it is already there. Returns its path.

    An interrupted download continues where it stopped, if the server confirms that the file is still the same. A second
    process that needs the same file waits for the first.

    Args:
        url: the http or https address of the file.
        target: the path of the file relative to `root`; by default one that is derived from the address.
        root: the folder of the cache; by default `weights_root()`.
        sha256: the published SHA-256 of the file in hexadecimal, or None.
        size: the published size of the file in bytes, or None.
        offline: whether to refuse downloads. The environment variable HARNESS_OFFLINE has the same effect.
        progress: called after each block.

    Raises:
        UserError: the file cannot be obtained. The message states the address, the target and what to do.
    """
    job = _Job(url, place(url, target, root), sha256.lower() if sha256 else None, size, progress or _silent)
    with _described_errors(job):
        return job.fetched(offline or settings.offline())


def verified(
    origin: str, target: str | Path, *, root: Path | None = None, sha256: str | None = None, size: int | None = None
) -> Path:
    """Verifies a file that the user put into the cache, by the same rules as a downloaded one. Returns its path.

    Args:
        origin: the page that the file came from.
        target, root, sha256, size: as for `fetch`.

    Raises:
        UserError: the file is absent, or it is not the published one or the one that was there first.
    """
    job = _Job(origin, place(origin, target, root), sha256.lower() if sha256 else None, size, _silent)
    with _described_errors(job):
        if not job.present():
            raise Refused("it is not there")
        return job.verified()


def first_seen(path: Path) -> str | None:
    """Returns the SHA-256 that was recorded for the first download of a file, or None if none was recorded."""
    try:
        sha256 = json.loads(path.with_name(f"{path.name}.origin.json").read_bytes()).get("sha256")
    except (OSError, ValueError, AttributeError):
        return None
    return str(sha256) if sha256 else None


def safe_name(url: str) -> str:
    """Returns a file name for an address: the last part of its path, with only characters that every system allows."""
    last = unquote(re.split(r"[?#]", url)[0].rpartition("/")[2])
    return re.sub(r"[^A-Za-z0-9._+-]", "_", last)[-LONGEST_NAME:].lstrip(".") or "download"


@dataclass(frozen=True)
class _Job:
    """The download of one file to `target`."""

    url: str
    target: Path
    sha256: str | None
    size: int | None
    progress: Progress

    @property
    def part(self) -> Path:
        return self.target.with_name(f".{self.target.name}.part")

    @property
    def state(self) -> Path:
        return self.target.with_name(f".{self.target.name}.part.json")

    @property
    def record(self) -> Path:
        return self.target.with_name(f"{self.target.name}.origin.json")

    def fetched(self, offline: bool) -> Path:
        """Returns the file in the cache, after downloading it if necessary."""
        http.check_address(self.url)
        if self.present():
            return self.verified()
        if offline:
            raise Refused("downloads are switched off (--offline or HARNESS_OFFLINE)")
        self.target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.target.with_name(f".{self.target.name}.lock")):
            return self.verified() if self.present() else self.downloaded()

    def present(self) -> bool:
        if self.target.exists() and not self.target.is_file():
            raise Refused("something that is no file is in its place", f"Remove {self.target}")
        return self.target.exists()

    def verified(self) -> Path:
        if fault := self.fault(self.target):
            raise Refused(f"the file there is not the right one: {fault}", f"Remove {self.target} and fetch it again")
        return self.target

    def downloaded(self) -> Path:
        """Downloads the file, with further attempts after a failure that may pass."""
        fruitless = 0
        while True:
            before = self.held()
            try:
                return self.accepted(resumed=self.received())
            except Broken as error:
                if isinstance(error, Misfit):
                    self.discard()
                fruitless = 0 if self.held() - before >= WORTH else fruitless + 1
                if fruitless > len(PAUSES):
                    later = "Try again later: it goes on where it stopped" if isinstance(error, Stalled) else None
                    raise Refused(f"{error} ({fruitless} tries)", later) from error
                time.sleep(PAUSES[max(fruitless - 1, 0)])

    def received(self) -> bool:
        """Downloads the rest of the file into `part`. Returns whether `part` held the beginning of it before."""
        state = _read_json(self.state)
        validator = state.get("validator")
        same = state.get("url") == self.url and (validator or self.sha256)
        with http.request_bytes(self.url, self.held() if same else 0, validator) as answer:
            if self.size is not None and answer.total not in (None, self.size):
                raise Refused(f"the server offers {answer.total:,} bytes, the published file has {self.size:,}")
            if not answer.start:
                self.discard()
                _write_json(self.state, {"url": self.url, "validator": answer.validator})
            self.write(answer)
            return answer.start > 0

    def write(self, answer: http.Answer) -> None:
        """Writes the bytes of an answer into `part`, at their position."""
        have = answer.start
        with _opened(self.part) as file:
            file.seek(have)
            self.progress(have, answer.total)
            for block in answer.blocks():
                have += len(block)
                if self.size is not None and have > self.size:
                    raise Refused(f"the server sends more than the {self.size:,} bytes of the published file")
                file.write(block)
                self.progress(have, answer.total)
            file.flush()
            os.fsync(file.fileno())

    def accepted(self, resumed: bool) -> Path:
        """Moves the downloaded part to the target if it is the right file, and discards it otherwise."""
        if fault := self.fault(self.part):
            self.discard()
            if resumed:
                raise Broken(f"what came in parts is not the file: {fault}")
            trust = f"If you trust what the server has now, remove {self.record} and fetch again"
            raise Refused(f"what came is not the file: {fault}", trust if self.record.exists() else None)
        os.replace(self.part, self.target)
        sync_folder(self.target.parent)
        self.state.unlink(missing_ok=True)
        return self.target

    def fault(self, path: Path) -> str | None:
        """Says why a file is not the right one, or returns None. Without a published hash, the first one is right."""
        size, sha256 = path.stat().st_size, digest(path)
        if self.size not in (None, size):
            return f"it has {size:,} bytes, the published one {self.size:,}"
        if self.sha256:
            return None if sha256 == self.sha256 else f"its sha256 is {sha256}, the published one {self.sha256}"
        first = _read_json(self.record).get("sha256")
        if first is None:
            _write_json(self.record, {"url": self.url, "size": size, "sha256": sha256})
        return None if first in (None, sha256) else f"its sha256 is {sha256}, it was {first} when first seen"

    def held(self) -> int:
        """Returns the number of bytes that were downloaded so far."""
        with suppress(FileNotFoundError):
            return self.part.lstat().st_size
        return 0

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)


def place(url: str, target: str | Path | None = None, root: Path | None = None) -> Path:
    """Returns the absolute path at which `fetch` puts a file.

    The folders above the file may be symbolic links, but only to places inside the cache.

    Raises:
        UserError: the path would lie outside the cache.
    """
    base = (root or weights_root()).expanduser()
    own = Path("urls", hashlib.sha256(url.encode(errors="replace")).hexdigest()[:16])
    wanted = own / safe_name(url) if target is None else Path(target)
    with suppress(OSError, RuntimeError, ValueError):
        inside = base.resolve()
        folder = (inside / wanted).parent.resolve()
        path = folder / wanted.name
        plain = wanted.name and ".." not in wanted.parts and "\0" not in wanted.name
        above = [place for place in (folder, *folder.parents) if place.is_relative_to(inside)]
        circular = any(place.is_symlink() for place in above)  # from Python 3.13 on, resolve() accepts circular links
        if plain and above and not circular and not path.is_symlink():
            return path
    raise UserError(
        f"cannot fetch {url} to {base / wanted}: that leads out of the cache {base}",
        remedy="Remove the link, or choose a plain name; or download it yourself and name its path in the suite",
    )


@contextmanager
def _described_errors(job: _Job) -> Iterator[None]:
    """Converts errors inside the block to UserError, with a remedy."""
    try:
        yield
    except (Refused, OSError) as error:
        other = error.remedy if isinstance(error, Refused) else None
        reason = error.strerror if isinstance(error, OSError) else None
        remedy = f"{other}. Or download it yourself" if other else "Download it yourself"
        raise UserError(
            f"cannot fetch {job.url} to {job.target}: {reason or error}", remedy=f"{remedy} and put it at {job.target}"
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with _opened(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _opened(path: Path) -> IO[bytes]:
    """Opens a file for writing, and creates it if necessary. It does not follow a symbolic link."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644), "r+b")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise Refused(f"{path} is damaged", "Remove it")
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _opened(temporary) as file:
        file.truncate()
        file.write(json.dumps(content, indent=2).encode())
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _silent(have: int, total: int | None) -> None:
    """Ignores the progress."""
