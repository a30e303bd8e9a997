"""The answers of a defense to the attack on one shard, in the order in which they were given.

An attack is a function of what the defense answers: all that it draws is seeded. Begun again, and given the same
answers, it asks the same questions again. So the answers of an attack are recorded while it is at work. If its process
ends early, the attack is begun anew, and gets the recorded answers without any evaluation of the defense, up to where
it was interrupted. From there on the defense itself answers, and the images are those of an attack that was not
interrupted, to the bit.

An answer is used only for the same question in the same turn. Where there is none, the defense itself answers. Should
another question come up than the recorded one, then the attack is not the same, and what was recorded from there on is
discarded.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from torch import nn

from harness.guard.fingerprint import HOOKS
from harness.journal.entry_file import EntryFile, Turn

AFTER = 60.0
"""Seconds that an attack takes before the first answer is recorded: what takes less may as well be computed again."""

PERIOD = 60.0
"""Seconds after which it is decided again whether recording is worth while."""

SHARE = 0.02
"""Recording may take this share of the time."""

PER_ENTRY, HASHED, WRITTEN = 5e-4, 5e8, 1e8
"""What recording takes, by a cautious estimate: seconds for each entry, and bytes that are hashed or written in a
second. It is estimated and not measured, since the GPU would have to be waited for."""


class Journal:
    """The answers to one attack, from its beginning.

    Attributes:
        ahead: seconds that were spent in earlier processes and are not spent again, as far as they were recorded.

    Args:
        file: what is recorded so far.
        after: seconds before the first record, if there is none so far.
        clock: gives the time in seconds.
    """

    def __init__(self, file: EntryFile, after: float = AFTER, clock: Callable[[], float] = time.perf_counter) -> None:
        self._file, self._clock = file, clock
        self._queries = 0
        self._tracing = sys.gettrace()
        self._hooks: dict[int, tuple[list[nn.Module], int]] = {}
        self._recording = not after or len(file) > 0
        self._period = PERIOD if self._recording else after
        self._began = self._since = clock()
        self._effort = 0.0
        self.ahead = 0.0

    def next_query(self) -> Turn:
        """The turn of the next query."""
        self._queries += 1
        return Turn(self._queries)

    def active(self, turn: Turn) -> bool:
        """Whether the answer to a query is recorded, or will be if the defense has to give it."""
        return self._recording or self._file.find(turn) is not None

    def recall(self, turn: Turn, question: Callable[[], bytes]) -> bytes | None:
        """The recorded answer to a question; None if there is none. question: computes its digest."""
        entry = self._file.find(turn)
        if entry is None:
            return None
        if entry.question != question():
            self._file.cut(entry)
            return None
        content = self._file.content(entry)
        if content is not None and 0 <= entry.seconds < sys.float_info.max:
            now = self._clock()
            self.ahead = entry.seconds - (now - self._began)
            self._since, self._effort = now, 0.0
        return content

    def spent(self, *, hashed: int, written: int, entries: int) -> None:
        """Takes in what it takes, or would take, to record what the defense has just answered.

        Args:
            hashed, written: bytes of questions, and of answers.
            entries: how many there are.
        """
        now = self._clock()
        self._effort += entries * PER_ENTRY + hashed / HASHED + written / WRITTEN
        if now - self._since >= self._period:
            self._recording = self._effort <= SHARE * (now - self._since) and not self._file.full
            self._since, self._effort, self._period = now, 0.0, PERIOD

    def keep(self, turn: Turn, question: Callable[[], bytes], answer: Callable[[], bytes]) -> None:
        """Records an answer, if it is worth while. question: computes its digest; answer: makes it bytes."""
        if self._recording and not self._file.full:
            self._file.append(turn, self._clock() - self._began + self.ahead, question(), answer())

    def abandon(self) -> None:
        """Discards what was recorded, for good: this attack cannot be repeated from records."""
        self._file.discard()
        self._recording = False

    def close(self) -> None:
        """Leaves the records to the next process."""
        self._file.close()

    def learn(self, defense: nn.Module) -> None:
        """Takes in the hooks that a defense has itself, before an attack gets it."""
        modules = list(defense.modules())
        self._hooks[id(defense)] = modules, _count(modules)

    def watched(self, defense: nn.Module) -> bool:
        """Whether the attack observes how a defense computes, by hooks or by a trace function. Then it must compute."""
        modules, own = self._hooks.get(id(defense), ([], 0))
        return sys.gettrace() is not self._tracing or _count(modules) != own


def _count(modules: list[nn.Module]) -> int:
    return sum(len(getattr(module, name)) for module in modules for name in HOOKS)
