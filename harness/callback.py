"""Progress reports of long operations. The engine prints nothing: the displays of the command line are callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.checks.finding import Finding
    from harness.evaluation.job import Job
    from harness.evaluation.outlook import Outlook
    from harness.evaluation.pending import CellRun
    from harness.evaluation.progress import Progress
    from harness.results.record import Record
    from harness.target import Target


class Callback:
    """Receives the events of a run, a diagnosis or a training. This base class ignores all of them.

    A subclass overrides the methods for the events it needs. They are called in the process and thread that does the
    work, which waits for them. An exception in a callback ends the work like any other error; finished shards are kept.

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
        """Surrounds the attacks of a run. runs: every pairing of the suite, finished or not; updated during the run."""
        yield

    def examining(self, defenses: Sequence[str]) -> None:
        """A run begins by building its defenses and looking at each, before it attacks anything. defenses: names."""

    def planned(self, outlook: Outlook) -> None:
        """The run knows what it has to do. outlook: says what is left, whenever it is asked while the run goes on."""

    def progressed(self, job: Job, progress: Progress) -> None:
        """An attack in another process is so far; told about once a second. job: the images that it is at."""

    def began(self, run: CellRun) -> None:
        """The computation of the missing shards of a pairing starts."""

    def watch(self, run: CellRun, target: Target) -> None:
        """An attack starts on a shard. target: its view of the defense, which counts the passes through it."""

    def finished(self, run: CellRun, records: Sequence[Record]) -> None:
        """A shard of a pairing is stored. records: one for each of its images."""

    def ended(self, root: Path) -> None:
        """A run has ended, and its results directory is complete, as far as attacks succeeded. root: the directory."""

    @contextmanager
    def diagnosing(self, defense: str, checks: int, passes: Callable[[], int]) -> Iterator[None]:
        """Surrounds the diagnosis of one defense.

        Args:
            defense: the name of the defense in the suite.
            checks: the number of findings to expect.
            passes: returns the number of images that were sent through the defense so far.
        """
        yield

    def checking(self, check: str) -> None:
        """A check of a diagnosis starts. check: its name."""

    def found(self, finding: Finding) -> None:
        """A check of a diagnosis has ended, now or in an earlier diagnosis whose findings are still valid."""

    @contextmanager
    def training(self, name: str, first: int, steps: int) -> Iterator[None]:
        """Surrounds the steps of a training.

        Args:
            name: the name of the recipe.
            first: the number of steps that an earlier call has done.
            steps: the total number of steps.
        """
        yield

    def stepped(self, step: int, loss: float) -> None:
        """A training step is done. step: the number of steps done so far; loss: the loss of the last one."""

    def measured(self, images: int, of: int) -> None:
        """The clean accuracy of a trained network was measured on so many images, of so many."""


class Callbacks(Callback):
    """Passes the events of a run on to several callbacks, in their order.

    Args:
        callbacks: any number of them.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = tuple(callbacks)

    def note(self, text: str) -> None:
        for callback in self._callbacks:
            callback.note(text)

    @contextmanager
    def running(self, runs: Sequence[CellRun]) -> Iterator[None]:
        with ExitStack() as stack:
            for callback in self._callbacks:
                stack.enter_context(callback.running(runs))
            yield

    def examining(self, defenses: Sequence[str]) -> None:
        for callback in self._callbacks:
            callback.examining(defenses)

    def planned(self, outlook: Outlook) -> None:
        for callback in self._callbacks:
            callback.planned(outlook)

    def progressed(self, job: Job, progress: Progress) -> None:
        for callback in self._callbacks:
            callback.progressed(job, progress)

    def began(self, run: CellRun) -> None:
        for callback in self._callbacks:
            callback.began(run)

    def watch(self, run: CellRun, target: Target) -> None:
        for callback in self._callbacks:
            callback.watch(run, target)

    def finished(self, run: CellRun, records: Sequence[Record]) -> None:
        for callback in self._callbacks:
            callback.finished(run, records)

    def ended(self, root: Path) -> None:
        for callback in self._callbacks:
            callback.ended(root)


SILENT = Callback()
"""Ignores all events: the default of every function that takes a callback."""
