"""A file of checked entries, to which a running process appends.

    head      "HARNESSJ", then 32 bytes that say what the entries belong to
    entry     mark, turn (query and pass), seconds, length of the content, digest of the question, checksum; the content

An entry is handed to the operating system at once, in one piece, so that it outlives the process. What a crash of the
machine tears off is noticed by the checksums, and no worse than not to be there: there is no need to wait for the disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_MAGIC = b"HARNESSJ"
_MARK = b"ANSW"
_IDENTITY = 32
_FIRST = len(_MAGIC) + _IDENTITY
"""The place of the first entry."""

_ENTRY = struct.Struct("<4sQQdQ16s16s")

LARGEST = 1 << 30
"""The largest size of a file in bytes. AutoAttack's 1,900 gradients of 32 images of CIFAR-10 take 0.7 of it."""


class Turn(NamedTuple):
    """Which answer of an attack it is: that to a query, or in a backward pass of that query, counted from 1."""

    query: int
    backward: int = 0


class Entry(NamedTuple):
    """An answer in the file.

    Args:
        turn: which of the answers it is; seconds: what the attack had taken by then, see `Journal`.
        question: the digest of what was asked.
        place, length: of the content in the file. checksum: of all this.
    """

    turn: Turn
    seconds: float
    question: bytes
    place: int
    length: int
    checksum: bytes


class EntryFile:
    """The entries of one shard, at most one for each turn.

    Only one process at a time has the file; for another, it has no entries, and takes none. The same is so where it
    cannot be read or written, since nothing depends on it but the time that is lost when a process ends early.

    Args:
        path: of the file, which is created with the first entry.
        identity: what the entries belong to, 32 bytes. Those of a file with another identity are discarded.
        most: the largest size in bytes. Entries beyond it are not taken.
    """

    def __init__(self, path: Path, identity: bytes, most: int = LARGEST) -> None:
        if len(identity) != _IDENTITY:
            raise ValueError(f"an identity has {_IDENTITY} bytes, not {len(identity)}")
        self._path, self._identity, self._most = path, identity, most
        self._entries: dict[Turn, Entry] = {}
        self._end = 0
        self._descriptor: int | None = None
        self._usable = True
        if os.path.lexists(path):
            self._open(0)

    @property
    def full(self) -> bool:
        """Whether it takes no more entries."""
        return not self._usable or self._end >= self._most

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, turn: Turn) -> Entry | None:
        """The entry of a turn, if there is one. Its content has not been read yet."""
        return self._entries.get(turn)

    def content(self, entry: Entry) -> bytes | None:
        """The content of an entry; None if it was damaged."""
        if self._descriptor is None:
            return None
        try:
            content = os.pread(self._descriptor, entry.length, entry.place)
        except OSError:
            return None
        return content if _checksum(entry.turn, entry.seconds, entry.question, content) == entry.checksum else None

    def append(self, turn: Turn, seconds: float, question: bytes, content: bytes) -> None:
        """Adds an answer, which replaces an earlier one of the same turn. The arguments: see `Entry`."""
        if self._descriptor is None and self._usable:
            self._open(os.O_CREAT)
        if self._descriptor is None or self.full or (not self._end and not self._write(_MAGIC + self._identity)):
            return
        checksum = _checksum(turn, seconds, question, content)
        head = _ENTRY.pack(_MARK, *turn, seconds, len(content), question, checksum)
        if self._end + len(head) + len(content) > self._most:
            self._most = self._end  # later answers are of little use without this one
            return
        entry = Entry(turn, seconds, question, self._end + len(head), len(content), checksum)
        if self._write(head + content):
            self._entries[turn] = entry

    def cut(self, entry: Entry) -> None:
        """Removes an entry, and all that were added after it."""
        self._entries = {turn: other for turn, other in self._entries.items() if other.place < entry.place}
        self._truncate(entry.place - _ENTRY.size)

    def discard(self) -> None:
        """Removes the file, and takes no more entries."""
        if self._descriptor is not None:
            with suppress(OSError):
                self._path.unlink()
        self.close()
        self._entries, self._usable = {}, False

    def close(self) -> None:
        """Leaves the file as it is to whoever opens it next."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._usable = None, False

    def _open(self, create: int) -> None:
        """Opens the file unless another process has it, and finds its entries."""
        try:
            if create:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | create
            self._descriptor = os.open(self._path, flags, 0o666)
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                raise OSError("not a regular file")
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._scan(os.fstat(self._descriptor).st_size)
        except OSError:  # whatever it is, the attack does not need the file
            self.close()

    def _scan(self, size: int) -> None:
        """Finds the entries, and removes what follows the last whole one."""
        assert self._descriptor is not None
        if os.pread(self._descriptor, _FIRST, 0) == _MAGIC + self._identity:
            self._end = _FIRST
            while entry := self._entry_at(self._end, size):
                self._entries[entry.turn] = entry
                self._end = entry.place + entry.length
        self._truncate(self._end)

    def _entry_at(self, place: int, size: int) -> Entry | None:
        assert self._descriptor is not None
        head = os.pread(self._descriptor, _ENTRY.size, place)
        if len(head) < _ENTRY.size:
            return None
        mark, query, backward, seconds, length, question, checksum = _ENTRY.unpack(head)
        place += len(head)
        if mark != _MARK or place + length > size:
            return None
        return Entry(Turn(query, backward), seconds, question, place, length, checksum)

    def _truncate(self, end: int) -> None:
        self._end = end
        if self._descriptor is not None:
            try:
                os.ftruncate(self._descriptor, end)
            except OSError:
                self.close()

    def _write(self, data: bytes) -> bool:
        """Writes to the end. A disk that is full gets the space of the whole file back, for what is more important."""
        assert self._descriptor is not None
        written = 0
        try:
            while written < len(data):  # the system may take a part, as where a signal arrives
                written += os.pwrite(self._descriptor, memoryview(data)[written:], self._end + written)
        except OSError:
            self.discard()
            return False
        self._end += len(data)
        return True


def _checksum(turn: Turn, seconds: float, question: bytes, content: bytes) -> bytes:
    facts = _ENTRY.pack(_MARK, *turn, seconds, len(content), question, b"")
    return hashlib.blake2b(content, digest_size=16, key=hashlib.blake2b(facts, digest_size=32).digest()).digest()
