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


class CallingEngine(Engine):
    """Examines and computes by calls to other processes."""

    @abstractmethod
    def call(self, take: Callable[[], Call | None]) -> Iterator[tuple[Call, Any]]:
        """Has the calls answered that `take` gives, and yields each with its result, or with `Lost`.

        Raises:
            UserError: a call refused to go on, or no process can be started.
        """

    def examine(self, pairings: Sequence[str]) -> dict[str, Examined]:
        groups = by_defense(pairings)
        calls = iter([Call("examine", names, defense) for defense, names in groups.items()])
        found: dict[str, Examined] = {}
        for call, outcome in self.call(lambda: next(calls, None)):
            found |= {call.title: Examined(broken=outcome.why)} if isinstance(outcome, Lost) else outcome
        return {name: found[name] for name in groups}

    def compute(self, take: Callable[[], Job | None]) -> Iterator[tuple[Job, Shard | Lost]]:
        def next_call() -> Call | None:
            job = take()
            return None if job is None else Call("compute", job, str(job))

        for done, outcome in self.call(next_call):
            yield done.argument, outcome
