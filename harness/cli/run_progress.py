"""The display of a run: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.callback import Callback
from harness.certification.certificate import Certificate
from harness.evaluation.job import Job
from harness.evaluation.outlook import Outlook
from harness.evaluation.pending import CellRun
from harness.evaluation.progress import Progress
from harness.results.columns import SIDES, Columns, Side, columns_of
from harness.results.record import Record
from harness.results.store import ShardRange
from harness.target import Target

SILENCE = 60.0
"""Seconds without a line, where there is no terminal, after which the display says how far the run is."""

LONG = 180.0
"""Seconds left from which on it is said that workers may shorten them."""


class Display(Callback):
    """Shows the current pairing, its progress, the accuracies so far, images per second and the time left.

    Where there is no terminal, it prints a line for each shard, and one whenever `silence` seconds have passed without.
    Where one process has several cores, it says once that workers would use them better, if the run is a long one.

    Args:
        silence: seconds.
        cores: that the networks share in one process.
    """

    def __init__(self, console: Console, silence: float = SILENCE, cores: int = 1) -> None:
        self.console, self._silence, self._told = console, silence, time.monotonic()
        self._cores = cores
        self._outlook: Outlook | None = None
        self._runs: Sequence[CellRun] = []
        self._tallies: dict[str, Tally] = {}
        self._current: CellRun | None = None
        self._target: Target | None = None

    def note(self, text: str) -> None:
        """Prints a remark that stays on the screen."""
        self.console.print(escape(text), highlight=False)

    @contextmanager
    def running(self, runs: Sequence[CellRun]) -> Iterator[None]:
        """Shows the progress of these pairings while the block runs."""
        self._runs, self._tallies = runs, {}
        if not self.console.is_terminal:
            with self._never_silent_for_long():
                yield
            return
        with Live(get_renderable=self._render, console=self.console, refresh_per_second=4):
            yield

    def examining(self, defenses: Sequence[str]) -> None:
        """Says what a run does before the first attack, which may take a while."""
        count = f"{len(defenses)} defense{'s' if len(defenses) > 1 else ''}"
        line = f"Building and examining {count}: {', '.join(defenses)}"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def planned(self, outlook: Outlook) -> None:
        self._outlook = outlook

    def progressed(self, job: Job, progress: Progress) -> None:
        """Follows an attack in another process."""
        if self._outlook:
            self._outlook.progressed(job, progress)

    def began(self, run: CellRun) -> None:
        self._current, self._target = run, None

    def watch(self, run: CellRun, target: Target) -> None:
        """Follows the passes that an attack uses."""
        self._current, self._target = run, target

    def finished(self, run: CellRun, records: Sequence[Record]) -> None:
        """Reports a stored shard."""
        self._target = None
        if self._cores > 1 and self._outlook and (self._outlook.left() or 0) > LONG:
            self.note(
                f"One process has all {self._cores} cores, which small networks hardly use. With --workers "
                f"{self._cores} the same command may take a fraction of the time; it continues from here."
            )
            self._cores = 1  # once is enough
        if not self.console.is_terminal:
            self._tell(run)

    def _tell(self, run: CellRun) -> None:
        """Prints a line on a pairing."""
        self._look()
        tally, total = self._tally(run), max(b for _, b in run.shards)
        state = [
            f"{tally.images}/{total} images",
            _told(run, tally),
            self._speed(run),
            self._left(),
            *self._at_work(run),
        ]
        line = f"{run.name}: {', '.join(part for part in state if part)}"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._told = time.monotonic()

    @contextmanager
    def _never_silent_for_long(self) -> Iterator[None]:
        """While the block runs, prints a line on the current pairing whenever none came for a while."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(max(0.0, self._told + self._silence - time.monotonic())):
                if self._current is not None and time.monotonic() - self._told >= self._silence:
                    self._tell(self._current)
                elif self._current is None:
                    self._told = time.monotonic()

        self._told = time.monotonic()
        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _look(self) -> None:
        """Takes in how far the attack is that runs in this process, if one does."""
        target, run, outlook = self._target, self._current, self._outlook
        if target is not None and run is not None and outlook is not None:
            for job, _ in outlook.at_work():
                outlook.progressed(job, Progress.of(target, run.attack))

    def _at_work(self, run: CellRun) -> list[str]:
        """How far the attacks on images of a pairing are."""
        jobs = self._outlook.at_work() if self._outlook else []
        return [
            f"images {job.bounds[0]} to {job.bounds[1] - 1}: {share:.0%} of the attack"
            for job, share in jobs
            if job.pairing == run.name and share is not None
        ]

    def _attacked(self, run: CellRun) -> float:
        """How many images of a pairing the attacks at work have done, by the passes that these take at most."""
        jobs = self._outlook.at_work() if self._outlook else []
        return sum((share or 0) * sum(b - a for a, b in job.wanted) for job, share in jobs if job.pairing == run.name)

    def _speed(self, run: CellRun) -> str:
        speed = self._outlook.speed(run.name) if self._outlook else None
        several = self._outlook is not None and self._outlook.workers > 1
        return f"{speed:.3g} images/s{' per worker' if several else ''}" if speed else ""

    def _tally(self, run: CellRun) -> Tally:
        """The counts of a pairing so far; each shard is counted once, however often this is asked for."""
        return self._tallies.setdefault(run.name, Tally()).update(run.shards)

    def _left(self) -> str:
        """The time left; more than a guess as soon as an image of each pairing is done."""
        left = self._outlook.left() if self._outlook else None
        if left is None or self._outlook is None:
            return "unknown time left"
        unmeasured = self._outlook.unmeasured()
        pairings = "1 pairing is" if unmeasured == 1 else f"{unmeasured} pairings are"
        return f"{words(left)} left" + (f" (a guess: {pairings} not measured yet)" if unmeasured else "")

    def _render(self) -> RenderableType:
        self._look()
        table = Table.grid(padding=(0, 1))
        for _ in range(5):
            table.add_column(no_wrap=True)
        for run in self._visible():
            style = "bold" if run is self._current else "" if run.missing else "green"
            tally, total = self._tally(run), max(b for _, b in run.shards)
            bar = ProgressBar(total, tally.images + self._attacked(run), width=10)
            counts = f"{tally.images}/{total}"
            table.add_row(Text(run.name, style=style), bar, counts, _told(run, tally), self._speed(run))
        state = [self._left(), *(self._at_work(self._current) if self._current else [])]
        return Group(table, Text(", ".join(state), style="dim", no_wrap=True, overflow="ellipsis"))

    def _visible(self) -> Sequence[CellRun]:
        """The pairings that fit on the terminal, including the current one."""
        room = max(1, self.console.height - 2)
        at = next((i for i, run in enumerate(self._runs) if run is self._current), 0)
        start = max(0, min(at - room // 2, len(self._runs) - room))
        return self._runs[start : start + room]


class Tally:
    """Counts of the records of one pairing, to which shards are added one by one.

    Attributes:
        images: all of them. classified: those with predictions on the clean image. errors: those without a verdict.
        clean, robust: sums over images of the share of draws that are right, on the clean and on the adversarial image.
    """

    def __init__(self) -> None:
        self.images = self.classified = self.errors = 0
        self.clean = self.robust = 0.0
        self._counted: set[ShardRange] = set()

    def update(self, shards: Mapping[ShardRange, Sequence[Record] | None]) -> Tally:
        """Adds the shards that are done and were not added before."""
        for bounds, records in shards.items():
            if records is not None and bounds not in self._counted:
                self._counted.add(bounds)
                self.add(records)
        return self

    def add(self, records: Sequence[Record]) -> Tally:
        """Adds some records."""
        columns = columns_of(records)
        failed = columns.failed
        clean, adv = (_shares_right(columns, side) for side in SIDES)
        self.images += len(columns)
        self.classified += int((columns.draws("clean") > 0).sum())
        self.errors += int(failed.sum())
        self.clean += float(clean.sum())
        self.robust += float(adv[~failed].sum())
        return self

    def __str__(self) -> str:
        """Clean and robust accuracy so far, the mean over draws. With errors, robust accuracy is an interval."""
        return self.told("robust")

    def told(self, measured: str | None) -> str:
        """As above, with another word for robust accuracy; None leaves it out."""
        texts, evaluated = [], self.images - self.errors
        if self.classified:
            texts.append(f"clean {self.clean / self.classified:.1%}")
        if evaluated and measured:
            most = f"–{(self.robust + self.errors) / self.images:.1%}" if self.errors else ""
            texts.append(f"{measured} {self.robust / self.images:.1%}{most}")
        if self.errors:
            errors = f"{self.errors} error{'s' * (self.errors != 1)}"
            texts.append(errors if evaluated else f"failed: {errors}")
        return ", ".join(texts)


def _told(run: CellRun, tally: Tally) -> str:
    """A certificate leaves images as they are: their accuracy is not robust accuracy."""
    return tally.told(None if isinstance(run.attack, Certificate) else "robust")


def _shares_right(columns: Columns, side: Side) -> NDArray[np.float64]:
    """The share of each record's draws that are right, (N,); 0 where it has none."""
    right = columns.votes(side) == columns.numbers("label")[:, None]
    shares: NDArray[np.float64] = right.sum(axis=1) / np.maximum(columns.draws(side), 1)
    return shares


def words(seconds: float) -> str:
    """A time as it is said.

    Example:
        >>> words(34.4), words(754), words(7500)
        ('34 s', '13 min', '2 h 05 min')
    """
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
