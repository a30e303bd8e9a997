"""What long work reports while it goes on. The engine prints nothing: the command line's displays are callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.checks.finding import Finding
    from harness.evaluation.pending import CellRun
    from harness.results.record import Record
    from harness.target import Target


class Callback:
    """Is told what happens during a run, a diagnosis or a training. This one ignores everything.

    A subclass overrides the methods that it wants to hear of. They are called in the process and thread that does the
    work, which waits for them; an exception that one raises ends the work as an error there would, and what was
    finished before is kept.

    Example:
        >>> class Errors(Callback):
        ...     def finished(self, run, records):
        ...         failed = [record.index for record in records if record.verdict == "error"]
        ...         if failed:
        ...             print(f"{run.name}: images {failed} ended in errors")
        >>> Errors().note("this remark is ignored")
    """

    def note(self, text: str) -> None:
        """A remark that the user should see, such as a damaged file that will be computed again."""

    @contextmanager
    def running(self, runs: Sequence[CellRun]) -> Iterator[None]:
        """Surrounds the attacks of a run. runs: every pairing of the suite, finished or not, kept up to date."""
        yield

    def began(self, run: CellRun) -> None:
        """The missing shards of a pairing come next."""

    def watch(self, run: CellRun, target: Target) -> None:
        """An attack starts on a shard. target: its view of the defense, which counts the passes through it."""

    def finished(self, run: CellRun, records: Sequence[Record]) -> None:
        """A shard of a pairing is stored. records: one for each of its images."""

    @contextmanager
    def diagnosing(self, defense: str, checks: int, passes: Callable[[], int]) -> Iterator[None]:
        """Surrounds the diagnosis of one defense.

        Args:
            defense: its name in the suite.
            checks: how many findings there will be.
            passes: returns how many images were sent through the defense so far.
        """
        yield

    def checking(self, check: str) -> None:
        """A check of a diagnosis starts. check: its name."""

    def found(self, finding: Finding) -> None:
        """A check of a diagnosis has ended, now or in an earlier diagnosis whose findings still hold."""

    @contextmanager
    def training(self, name: str, first: int, steps: int) -> Iterator[None]:
        """Surrounds the steps of a training.

        Args:
            name: of the recipe.
            first: steps that an earlier call has done.
            steps: how many there will be in all.
        """
        yield

    def stepped(self, step: int, loss: float) -> None:
        """So many steps of a training are done. loss: of the last one."""


SILENT = Callback()
"""Ignores everything: the default of all that takes a callback."""
