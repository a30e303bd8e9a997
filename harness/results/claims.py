"""Claims by which several processes, perhaps on several machines, share the work in one results directory.

    RUN/.workers/NAME.1, NAME.2, ...       claims on one piece of work; the highest number is the one that holds

A claim is a file that a single process can create (O_EXCL), on network file systems too. Its holder renews its time of
modification; one that was not renewed for the length of a lease is stale, as is one of a process of this machine that
has ended. Who finds a stale claim with the number k creates k + 1, which again only one can. A holder that was merely
slow, or asleep, sees by the higher number that its claim is lost, and stores nothing.

A claim that ends takes all files of its name with it. So whoever found k to be stale looks again after creating k + 1:
if k is another file by now, or the highest number is not its own, somebody was faster, and it withdraws. In the worst
case both withdraw, and try again.

Ages are differences between times of modification, which the file system gives; clocks of machines are not compared.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.files import _remedy
from harness.guard.untrusted import Unreadable, contents, parse_json
from harness.process.visible_text import visible

FOLDER = ".workers"
"""The folder of claims in a results directory."""

LEASE = 120.0
"""Seconds after which a claim that nobody renews is stale. Network file systems may show a change a minute late."""

BEATS = 6
"""How often a claim is renewed during the length of a lease."""

NUMBERED = re.compile(r"(.+)\.([0-9]{1,9})")
LARGEST = 4096


@dataclass(frozen=True)
class Holder:
    """Who has a claim, as its file says: for messages, and to see whether a process of this machine is gone."""

    host: str = "an unknown machine"
    process: int = 0
    machine: str = ""
    part: str = ""

    @classmethod
    def here(cls, part: str) -> Holder:
        return cls(socket.gethostname(), os.getpid(), this_machine(), part)

    @classmethod
    def read(cls, path: Path) -> Holder:
        """What a claim says; it may be empty, if its holder died right after it was created."""
        try:
            found: Any = parse_json(contents(path, LARGEST))
            host, machine, part = (visible(str(found[name])[:200]) for name in ("host", "machine", "part"))
            return cls(host, int(found["process"]), machine, part)
        except (FileNotFoundError, Unreadable, ValueError, TypeError, KeyError):
            return cls()

    @property
    def gone(self) -> bool:
        """Whether it was a process of this machine, and has ended."""
        return bool(self.process) and self.machine == this_machine() != "" and not _lives(self.process)

    def __str__(self) -> str:
        part = f" as {self.part}" if self.part else ""
        return f"process {self.process} on {self.host}{part}" if self.process else self.host


@dataclass(eq=False)
class Claim:
    """Something that this process holds.

    Attributes:
        losses: how many processes before this one have held it and were lost.
    """

    path: Path
    number: int
    descriptor: int
    _claims: Claims = field(repr=False)

    @property
    def losses(self) -> int:
        return self.number - 1

    def held(self) -> bool:
        """Whether this process holds it still: nobody thought that it was gone, and nobody removed the file."""
        try:
            numbers = self._claims.numbers().get(self.path.stem, [])
            own = os.path.samestat(os.lstat(self.path), os.fstat(self.descriptor))
            return own and max(numbers, default=0) == self.number
        except OSError:
            return False

    def renew(self) -> None:
        """Shows that its holder is there. A file in its place that is another's stays as it is."""
        with suppress(OSError):  # the file system may be away for a while; the claim is looked at before it is used
            os.utime(self.descriptor)

    def end(self) -> None:
        """Lets others have it. The files of its name go, the highest number first; those of another holder stay."""
        if self.held():
            for number in sorted(self._claims.numbers().get(self.path.stem, []), reverse=True):
                if number <= self.number:
                    self.path.with_suffix(f".{number}").unlink(missing_ok=True)
        self._claims.forget(self)


class Claims:
    """The claims of this process in a results directory.

    Args:
        root: the results directory.
        part: what this process calls itself in messages, such as "worker 3/8".
        lease: seconds; by default $HARNESS_LEASE, or `LEASE`.
    """

    def __init__(self, root: Path, part: str = "", lease: float | None = None) -> None:
        self.folder, self.lease = root / FOLDER, _lease() if lease is None else lease
        self.holder = Holder.here(part)
        self._held: list[Claim] = []
        self._asked: tuple[float, float] | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._heart: threading.Thread | None = None

    def take(self, name: str) -> Claim | None:
        """Claims something; None if another process has it.

        Raises:
            UserError: the folder cannot be written.
        """
        last = max(self.numbers().get(name, []), default=0)
        found = self._stale(self.folder / f"{name}.{last}") if last else ()
        if found is None:
            return None
        claim = self._created(name, last + 1)
        if claim is None:
            return None
        path = self.folder / f"{name}.{last}"
        if max(self.numbers().get(name, []), default=0) != claim.number or (last and _identity(path) != found):
            claim.path.unlink(missing_ok=True)
            self.forget(claim)
            return None
        return claim

    def others(self, prefix: str) -> list[Holder]:
        """Who has claims whose names begin like this, this process and those that are gone left out."""
        own = {claim.path.stem for claim in self._held}
        highest = {name: max(numbers) for name, numbers in self.numbers().items() if name.startswith(prefix)}
        paths = [self.folder / f"{name}.{number}" for name, number in highest.items() if name not in own]
        return [Holder.read(path) for path in paths if self._stale(path) is None and path.exists()]

    def look(self, name: str) -> tuple[Any, ...] | None:
        """What tells the state of a claim that somebody holds from what it was before it was renewed; else None."""
        last = max(self.numbers().get(name, []), default=0)
        path = self.folder / f"{name}.{last}"
        return _identity(path) if last and self._stale(path) is None else None

    def clear(self) -> None:
        """Removes all claims but those of this process. Nobody else may have any."""
        own = {claim.path.name for claim in self._held}
        for name, numbers in self.numbers().items():
            for path in (self.folder / f"{name}.{number}" for number in numbers):
                if path.name not in own:
                    path.unlink(missing_ok=True)

    def numbers(self) -> dict[str, list[int]]:
        """The numbers of the claims that there are, by name."""
        found: dict[str, list[int]] = {}
        with self._writing(self.folder), suppress(FileNotFoundError):
            for entry in os.listdir(self.folder):
                if match := NUMBERED.fullmatch(entry):
                    found.setdefault(match[1], []).append(int(match[2]))
        return found

    def forget(self, claim: Claim) -> None:
        """Renews a claim no longer."""
        with self._lock:  # a descriptor that is closed may become another file's at once
            if claim in self._held:
                self._held.remove(claim)
                os.close(claim.descriptor)

    def end(self) -> None:
        """Ends all claims of this process."""
        for claim in list(self._held):
            claim.end()
        self._over.set()
        if self._heart:
            self._heart.join()

    def beat(self) -> None:
        """Renews all claims of this process. A thread does so all the time."""
        with self._lock:
            for claim in self._held:
                claim.renew()

    def now(self) -> float:
        """The time by the clock of the file system, which is asked once for each beat."""
        here = time.monotonic()
        if self._asked is None or here - self._asked[0] > self.lease / BEATS:
            path = self.folder / f".now-{secrets.token_hex(8)}"
            with self._writing(path):
                path.touch()
                self._asked = here, path.stat().st_mtime
                path.unlink(missing_ok=True)
        return self._asked[1] + here - self._asked[0]

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror})", remedy=_remedy(error)) from error

    def _created(self, name: str, number: int) -> Claim | None:
        path = self.folder / f"{name}.{number}"
        with self._writing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            except FileExistsError:
                return None
        claim = Claim(path, number, descriptor, self)
        with suppress(OSError):  # a full disk: the claim holds without a word on who has it
            os.write(descriptor, json.dumps(vars(self.holder)).encode())
        with self._lock:
            self._held.append(claim)
        self._begin_beating()
        return claim

    def _stale(self, path: Path) -> tuple[Any, ...] | None:
        """The identity of a claim that is stale; None if somebody holds it."""
        found = _identity(path)
        if found is None:
            return None  # it ended just now; the next look will tell
        if Holder.read(path).gone or self.now() - found[-1] / 1e9 > self.lease:
            return found
        return None

    def _begin_beating(self) -> None:
        if self._heart is None:
            self._heart = threading.Thread(target=self._beat, daemon=True)
            self._heart.start()

    def _beat(self) -> None:
        while not self._over.wait(self.lease / BEATS):
            self.beat()


def _identity(path: Path) -> tuple[Any, ...] | None:
    """What tells a claim from another one in its place, the time of modification in nanoseconds last."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


@cache
def this_machine() -> str:
    """What tells this machine, since its start, and its processes from others that may have the same name; or ""."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _lease() -> float:
    """The length of a lease in seconds: $HARNESS_LEASE, or `LEASE`.

    Raises:
        UserError: the variable is no such length.
    """
    text = os.environ.get("HARNESS_LEASE", "")
    try:
        seconds = float(text) if text else LEASE
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise UserError(f"HARNESS_LEASE is '{text}', and no number of seconds", remedy="Use a number, such as 120")
    return seconds


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
