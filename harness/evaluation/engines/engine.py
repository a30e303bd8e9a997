"""What every engine does: examine defenses, and compute the shards of a queue. It neither reads nor writes results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from harness.evaluation.context import RunContext
from harness.evaluation.examined import Examined
from harness.evaluation.job import Job
from harness.evaluation.shard import Shard
from harness.evaluation.time_limits import TimeLimits

TRIES = 4
"""How often a job is begun before it counts as lost: once, and three times more."""


@dataclass(frozen=True)
class Lost:
    """A job that no process has finished in `TRIES` tries. why: what became of the last one, with its last words."""

    why: str


def by_defense(pairings: Sequence[str]) -> dict[str, list[str]]:
    """Pairings by their defense, which is built once for all of them.

    Example:
        >>> by_defense(["dc/linf", "rdc/linf", "dc/l2"])
        {'dc': ['dc/linf', 'dc/l2'], 'rdc': ['rdc/linf']}
    """
    groups: dict[str, list[str]] = {}
    for name in pairings:
        groups.setdefault(name.partition("/")[0], []).append(name)
    return groups


class Engine(ABC):
    """Computes the jobs of one run after another.

    No record and no image depends on the engine: a run that one began can be finished by another. An engine that loses
    a process begins its job again, in another process; one that takes longer than its limit is ended, and is lost too.

    Attributes:
        parallel: whether several jobs are computed at a time, so that their order matters.

    Example:
        >>> from harness.evaluation.engines.local import Local
        >>> Local().parallel
        False
    """

    parallel: bool = True

    @abstractmethod
    def working(self, context: RunContext) -> AbstractContextManager[None]:
        """Starts what computes, for one run, and ends it after the block, whatever happens inside.

        Args:
            context: of the run, in the process of the caller.

        Raises:
            UserError: it cannot start, or the suite cannot be sent to other processes.
        """

    @abstractmethod
    def examine(self, pairings: Sequence[str], limits: TimeLimits) -> dict[str, Examined]:
        """Builds the defenses of some pairings and looks at them; returns and raises as `Worker.examine`.

        Args:
            limits: after which a process counts as lost. An engine without other processes knows no limit.
        """

    @abstractmethod
    def compute(self, take: Callable[[], Job | None], limits: TimeLimits) -> Iterator[tuple[Job, list[Shard] | Lost]]:
        """Computes jobs, and yields each when it is done, with a shard for each that it wanted.

        Args:
            take: gives the next job; None if there is none, or none before a job in progress is done and was taken in.
            limits: see `examine`.

        Raises:
            UserError: as `Worker.compute`.
        """

    def workers(self) -> int:
        """How many jobs are computed at a time. Asked inside of `working`."""
        return 1

    def describe(self) -> dict[str, Any]:
        """What the manifest records of a session beside the environment of the driving process."""
        return {}
