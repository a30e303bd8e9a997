"""Who works on a results directory: one run alone, or several workers that share it (`harness run SUITE --worker 3/8`).

Workers agree by files alone (`harness.results.claims`), so that they may be on any machines that share a file system:

    claim on a shard     held from before a worker looks whether it is stored until after it has stored it
    claim "turn"         held while `run.json` is read and written, and while someone joins or leaves
    claim "worker-..."   held as long as a worker is there

The last worker that leaves does what only one may do: merge small files, and remove what killed ones left behind.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from harness.errors import UserError
from harness.evaluation.engines.engine import TRIES
from harness.evaluation.pending import CellRun
from harness.results.cell_files import Damaged
from harness.results.claims import BEATS, Claim, Claims
from harness.results.columns import Columns
from harness.results.store import WORKER, Lock, ShardRange, Store

BEGUN = "begun"
"""The file whose time says when the first of the present workers began. Errors from before are tried again."""


@dataclass(frozen=True)
class Part:
    """Which of several workers this one is: it begins at another place than the others.

    Args:
        number: from 1 to `count`.

    Example:
        >>> Part.of("3/8"), str(Part(3, 8))
        (Part(number=3, count=8), '3/8')
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UserError(
                f"there is no worker {self.number} of {self.count}",
                remedy="Count from 1, as in --worker 1/8 to --worker 8/8",
            )

    @classmethod
    def of(cls, text: str) -> Part:
        """The part that an option names."""
        number, _, count = text.partition("/")
        try:
            return cls(int(number), int(count))
        except ValueError as error:
            raise UserError(f"'{text}' is no worker", remedy="Write it as in --worker 3/8") from error

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def start(self) -> float:
        """The share of the work that others begin with, in [0, 1)."""
        return (self.number - 1) / self.count


class Alone:
    """A run that nobody shares its results directory with.

    Attributes:
        lock: on the results directory.
        start: the share of the work that others begin with.
    """

    start = 0.0

    def __init__(self, lock: Lock) -> None:
        self.lock = lock

    def refresh(self, cell_runs: Sequence[CellRun]) -> None:
        """Takes in the shards that others have stored."""

    @contextmanager
    def turn(self) -> Iterator[None]:
        """While the block runs, no other worker reads or writes `run.json`, joins or leaves."""
        yield

    def take(
        self, cell_run: CellRun, shards: Sequence[ShardRange], *, together: bool = False
    ) -> tuple[ShardRange, ...]:
        """Those of some shards that this worker is to compute. What another has stored is taken in.

        Args:
            together: take none of them if another worker has one: it attacks all of them in one call.
        """
        return tuple(shards)

    def release(self, cell_run: CellRun, shards: Sequence[ShardRange]) -> None:
        """Lets others have shards that this worker has taken."""

    def lost(self, cell_run: CellRun, shards: Sequence[ShardRange]) -> str | None:
        """Why shards that this worker has taken should not be computed: too many others were lost over them."""
        return None

    def holds(self, cell_run: CellRun, bounds: ShardRange) -> bool:
        """Whether a shard that this worker has taken is still its own."""
        return True

    def done(self, cell_run: CellRun, bounds: ShardRange) -> None:
        """A shard that this worker has taken is stored."""

    def more(self, cell_runs: Sequence[CellRun], idle: bool) -> bool:
        """Whether there may be more to compute. Waits as long as others may leave something undone.

        Args:
            idle: whether there was nothing to compute the last time.
        """
        return False

    def leave(self) -> bool:
        """Is there no longer. To be called during its turn; returns whether this worker was the last one."""
        return True

    def clean(self) -> None:
        """Removes what killed workers left behind. To be called by the last worker, during its turn."""

    def describe(self) -> dict[str, Any]:
        """What the manifest records of the session."""
        return {}


class Crew(Alone):
    """The workers that share a results directory, as one of them sees them.

    Args:
        store: the results directory; lock: on it.
        part: which worker this is.
        retry_errors: whether errors from before the workers began are tried again.
    """

    def __init__(self, store: Store, lock: Lock, part: Part, *, retry_errors: bool) -> None:
        super().__init__(lock)
        self.start = part.start
        self._store, self._part, self._retry_errors = store, part, retry_errors
        self._claims = Claims(store.root, f"worker {part}")
        self._shards: dict[str, Claim] = {}
        self._presence: Claim | None = None
        self._begun = 0.0

    @contextmanager
    def joined(self) -> Iterator[Crew]:
        """Belongs to the crew while the block runs. Claims that are left end with it."""
        begun = self._claims.folder / BEGUN
        try:
            with self.turn():
                if not (self._claims.others(WORKER) and begun.exists()):
                    begun.touch()
                self._begun = begun.stat().st_mtime
                self._presence = self._claims.take(f"{WORKER}{secrets.token_hex(8)}")
            yield self
        finally:
            self._claims.end()

    def refresh(self, cell_runs: Sequence[CellRun]) -> None:
        for cell_run in cell_runs:
            for bounds in cell_run.missing:
                cell_run.shards[bounds] = self._stored(cell_run, bounds)

    @contextmanager
    def turn(self) -> Iterator[None]:
        while not (claim := self._claims.take("turn")):
            time.sleep(min(0.2, self._pause))
        try:
            yield
        finally:
            claim.end()

    def take(
        self, cell_run: CellRun, shards: Sequence[ShardRange], *, together: bool = False
    ) -> tuple[ShardRange, ...]:
        taken: list[ShardRange] = []
        for bounds in shards:
            name = _name(cell_run, bounds)
            claim = self._claims.take(name)
            if claim is None:
                if together:
                    self.release(cell_run, taken)
                    return ()
                continue
            stored = self._stored(cell_run, bounds)
            if stored is None:
                self._shards[name] = claim
                taken.append(bounds)
            else:
                cell_run.shards[bounds] = stored
                claim.end()
        return tuple(taken)

    def release(self, cell_run: CellRun, shards: Sequence[ShardRange]) -> None:
        for bounds in shards:
            self.done(cell_run, bounds)

    def lost(self, cell_run: CellRun, shards: Sequence[ShardRange]) -> str | None:
        losses = max(self._shards[_name(cell_run, bounds)].losses for bounds in shards)
        return f"{losses} workers were lost over it" if losses >= TRIES else None

    def holds(self, cell_run: CellRun, bounds: ShardRange) -> bool:
        return self._shards[_name(cell_run, bounds)].held()

    def done(self, cell_run: CellRun, bounds: ShardRange) -> None:
        self._shards.pop(_name(cell_run, bounds)).end()

    def more(self, cell_runs: Sequence[CellRun], idle: bool) -> bool:
        """See `Alone`. What others have claimed is left to them once they have shown that they are alive."""
        seen: dict[str, object] = {}
        while True:
            self.refresh(cell_runs)
            names = [_name(run, bounds) for run in cell_runs for bounds in run.missing]
            found = {name: self._claims.look(name) for name in names}
            if not names:
                return False
            if None in found.values() and not idle:
                return True
            renewed = [state != seen.setdefault(name, state) for name, state in found.items()]
            if all(renewed) and None not in found.values():
                return False
            time.sleep(self._pause)
            idle = False

    def leave(self) -> bool:
        if self._presence:
            self._presence.end()
        return not self._claims.others(WORKER)

    def clean(self) -> None:
        self._store.sweep()
        (self._claims.folder / BEGUN).unlink(missing_ok=True)
        self._claims.clear()

    def describe(self) -> dict[str, Any]:
        return {"worker": str(self._part)}

    @property
    def _pause(self) -> float:
        """Seconds between two looks at what others do."""
        return min(5.0, self._claims.lease / BEATS)

    def _stored(self, cell_run: CellRun, bounds: ShardRange) -> Columns | None:
        """The records of a shard, if nothing is to be done about it."""
        with suppress(Damaged, FileNotFoundError):
            records = cell_run.stored.read(*bounds)
            if records is None or not (self._retry_errors and records.failed.any()):
                return records
            if cell_run.stored.paths([bounds])[-1].stat().st_mtime >= self._begun:
                return records
        return None


def _name(cell_run: CellRun, bounds: ShardRange) -> str:
    """The name of the claim on a shard."""
    folder = hashlib.sha256(cell_run.name.encode()).hexdigest()[:16]
    return f"shard-{folder}-{bounds[0]}-{bounds[1]}"


@contextmanager
def crew_of(store: Store, part: Part | None, *, retry_errors: bool) -> Iterator[Alone]:
    """Who works on a results directory while the block runs.

    Args:
        part: which of several workers this process is; None if nobody else may write the directory.
        retry_errors: see `Crew`.

    Raises:
        UserError: others write it, with whom this process does not share it.
    """
    if part is None:
        with store.locked() as lock:
            yield Alone(lock)
    else:
        with store.shared() as lock, Crew(store, lock, part, retry_errors=retry_errors).joined() as crew:
            yield crew
