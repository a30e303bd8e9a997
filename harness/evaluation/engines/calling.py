"""What the engines have in common that compute in other processes: they make calls of what is to be done."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from harness.evaluation.engines.channel import Call
from harness.evaluation.engines.engine import Engine, Lost, by_defense
from harness.evaluation.examined import Examined
from harness.evaluation.job import Job
from harness.evaluation.shard import Shard
from harness.evaluation.time_limits import TimeLimits

Limit = Callable[[Call], float | None]
"""The seconds that a call may take, as far as is known when it is asked; None for no limit."""


class CallingEngine(Engine):
    """Examines and computes by calls to other processes."""

    @abstractmethod
    def call(self, take: Callable[[], Call | None], limit: Limit) -> Iterator[tuple[Call, Any]]:
        """Has the calls answered that `take` gives, and yields each with its result, or with `Lost`.

        Args:
            limit: of each call.

        Raises:
            UserError: a call refused to go on, or no process can be started.
        """

    def examine(self, pairings: Sequence[str], limits: TimeLimits) -> dict[str, Examined]:
        groups = by_defense(pairings)
        calls = iter([Call("examine", names, defense) for defense, names in groups.items()])
        found: dict[str, Examined] = {}
        for call, outcome in self.call(lambda: next(calls, None), lambda call: limits.examination(call.argument)):
            found |= {call.title: Examined(broken=outcome.why)} if isinstance(outcome, Lost) else outcome
        return {name: found[name] for name in groups}

    def compute(self, take: Callable[[], Job | None], limits: TimeLimits) -> Iterator[tuple[Job, list[Shard] | Lost]]:
        def next_call() -> Call | None:
            job = take()
            return None if job is None else Call("compute", job, str(job))

        for done, outcome in self.call(next_call, lambda call: limits.computation(call.argument)):
            yield done.argument, outcome
