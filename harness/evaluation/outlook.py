"""How long a run will still take. One estimate (`Durations`) says what is computed first, and what displays show.

    seconds left  =  max(sum over images that are not done of their expected seconds / workers, the longest job at work)

An image of a pairing is expected to take as long as those that are done. So the first job of each pairing comes before
all others: until then only what the attack declares is known, and images that fall early take a small part of that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.evaluation.durations import Durations
from harness.evaluation.job import Job
from harness.evaluation.pending import CellRun
from harness.evaluation.progress import Progress

TELLING = 0.02
"""The share of an attack after which its speed is taken for a measurement, where there is no other."""

NEVER_DONE = 0.02
"""The share of a job at work that is expected to be left at least."""


@dataclass
class _AtWork:
    """A job that an engine has. began: None while it waits for a worker."""

    job: Job
    began: float | None = None
    share: float | None = None


class Outlook:
    """Follows a run, and says what is left of it.

    Args:
        cell_runs: every pairing of the run; updated while it runs.
        durations: of its images.
        workers: how many jobs are computed at a time.
        clock: seconds.
    """

    def __init__(
        self,
        cell_runs: Sequence[CellRun],
        durations: Durations,
        workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cell_runs, self._durations, self.workers, self._clock = cell_runs, durations, workers, clock
        self._jobs: list[_AtWork] = []

    def took(self, job: Job) -> None:
        """An engine has taken a job. It begins as soon as one of the workers is free."""
        self._jobs.append(_AtWork(job))
        self._begin()

    def progressed(self, job: Job, progress: Progress) -> None:
        """The attack on a job is so far."""
        for at_work in self._jobs:
            if at_work.job is job:
                at_work.share = progress.share
                self._suppose(at_work)

    def over(self, job: Job) -> None:
        """A job has come back, done or lost."""
        self._jobs = [at_work for at_work in self._jobs if at_work.job is not job]
        self._begin()

    def at_work(self) -> list[tuple[Job, float | None]]:
        """The jobs that workers compute now, and the share of each attack that is done, if it is known."""
        return [(at_work.job, at_work.share) for at_work in self._jobs if at_work.began is not None]

    def speed(self, pairing: str) -> float | None:
        """Images of a pairing that one worker finishes in a second; None before it was measured in this session."""
        seconds = self._durations.measured(pairing)
        return 1 / seconds if seconds else None

    def unmeasured(self) -> int:
        """How many pairings there are with something left to do of which no image is done yet."""
        return sum(not self._durations.known(run.name) for run in self._cell_runs if run.missing)

    def left(self) -> float | None:
        """Seconds; None as long as nothing is known about any pairing."""
        if not self._durations.any_known:
            return None
        now = self._clock()
        total = sum((b - a) * self._durations.per_image(run.name) for run in self._cell_runs for a, b in run.missing)
        longest = 0.0
        for at_work in self._jobs:
            expected = sum(b - a for a, b in at_work.job.wanted) * self._durations.per_image(at_work.job.pairing)
            spent = 0.0 if at_work.began is None else min(now - at_work.began, (1 - NEVER_DONE) * expected)
            total, longest = total - spent, max(longest, expected - spent)
        return max(total / self.workers, longest)

    def _begin(self) -> None:
        for at_work in self._jobs[: self.workers]:
            if at_work.began is None:
                at_work.began = self._clock()

    def _suppose(self, at_work: _AtWork) -> None:
        """Takes the speed of an attack at work for that of its pairing, as long as there is nothing better."""
        if at_work.began is not None and at_work.share is not None and at_work.share >= TELLING:
            seconds = (self._clock() - at_work.began) / at_work.share
            self._durations.suppose(at_work.job.pairing, seconds / at_work.job.images)
