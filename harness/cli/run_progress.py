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
from harness.evaluation.pending import CellRun
from harness.results.columns import ABSENT, SIDES, Columns, Side, columns_of
from harness.results.record import Record
from harness.results.store import ShardRange
from harness.target import Target

SILENCE = 60.0
"""Seconds without a line, where there is no terminal, after which the display says how far the run is."""


class Display(Callback):
    """Shows the current pairing, its progress, the accuracies so far, images per second and the time left.

    Where there is no terminal, it prints a line for each shard, and one whenever `silence` seconds have passed without.
    """

    def __init__(self, console: Console, silence: float = SILENCE) -> None:
        self.console, self._silence, self._told = console, silence, time.monotonic()
        self._clock = _Clock()
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
        self._clock, self._runs, self._tallies = _Clock(), runs, {}
        if not self.console.is_terminal:
            with self._never_silent_for_long():
                yield
            return
        with Live(get_renderable=self._render, console=self.console, refresh_per_second=4):
            yield

    def began(self, run: CellRun) -> None:
        self._current, self._target = run, None

    def watch(self, run: CellRun, target: Target) -> None:
        """Follows the passes that an attack uses."""
        self._current, self._target = run, target

    def finished(self, run: CellRun, records: Sequence[Record]) -> None:
        """Reports a stored shard."""
        self._clock.add(run, len(records))
        self._target = None
        if not self.console.is_terminal:
            self._tell(run)

    def _tell(self, run: CellRun) -> None:
        """Prints a line on a pairing."""
        tally, total = self._tally(run), max(b for _, b in run.shards)
        state = [f"{tally.images}/{total} images", _told(run, tally), self._clock.speed(run), f"{self._left()} left"]
        line = f"{run.name}: {', '.join(part for part in [*state, self._passes()] if part)}"
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

    def _passes(self) -> str:
        """How far the attack on a shard is, where it runs in this process."""
        target = self._target
        return f"{int(target.forwards.sum()):,} forward passes in this shard" if target else ""

    def _tally(self, run: CellRun) -> Tally:
        """The counts of a pairing so far; each shard is counted once, however often this is asked for."""
        return self._tallies.setdefault(run.name, Tally()).update(run.shards)

    def _left(self) -> str:
        return _duration(self._clock.left(self._runs))

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        for _ in range(5):
            table.add_column(no_wrap=True)
        for run in self._visible():
            style = "bold" if run is self._current else "" if run.missing else "green"
            tally, total = self._tally(run), max(b for _, b in run.shards)
            bar = ProgressBar(total, tally.images, width=10)
            counts = f"{tally.images}/{total}"
            table.add_row(Text(run.name, style=style), bar, counts, _told(run, tally), self._clock.speed(run))
        return Group(table, Text(", ".join(filter(None, [f"{self._left()} left", self._passes()])), style="dim"))

    def _visible(self) -> Sequence[CellRun]:
        """The pairings that fit on the terminal, including the current one."""
        room = max(1, self.console.height - 2)
        at = next((i for i, run in enumerate(self._runs) if run is self._current), 0)
        start = max(0, min(at - room // 2, len(self._runs) - room))
        return self._runs[start : start + room]


class _Clock:
    """The speed of each pairing, and an estimate of the remaining time."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._spent: dict[str, tuple[int, float]] = {}

    def add(self, run: CellRun, images: int) -> None:
        now = time.monotonic()
        count, seconds = self._spent.get(run.name, (0, 0.0))
        self._spent[run.name] = count + images, seconds + now - self._last
        self._last = now

    def speed(self, run: CellRun) -> str:
        count, seconds = self._spent.get(run.name, (0, 0.0))
        return f"{count / seconds:.3g} images/s" if seconds else ""

    def left(self, runs: Sequence[CellRun]) -> float | None:
        """The remaining time in seconds. Pairings without a measured speed count with the average speed."""
        if not self._spent:
            return None
        average = sum(s for _, s in self._spent.values()) / sum(n for n, _ in self._spent.values())
        per_image = {name: seconds / count for name, (count, seconds) in self._spent.items()}
        return sum(per_image.get(run.name, average) * (b - a) for run in runs for a, b in run.missing)


class Tally:
    """Counts of the records of one pairing, to which shards are added one by one.

    Attributes:
        images: all of them. classified: those with predictions on the clean image. errors: those without a verdict.
        clean, robust: those of which the first draw is right, on the clean and on the adversarial image.
    """

    def __init__(self) -> None:
        self.images = self.classified = self.errors = self.clean = self.robust = 0
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
        failed, labels = columns.failed, columns.numbers("label")
        clean, adv = (_first_draws(columns, side) for side in SIDES)
        self.images += len(columns)
        self.classified += int((columns.draws("clean") > 0).sum())
        self.errors += int(failed.sum())
        self.clean += int((clean == labels).sum())
        self.robust += int((~failed & (adv == labels)).sum())
        return self

    def __str__(self) -> str:
        """Clean and robust accuracy so far, for a single draw. With errors, robust accuracy is an interval."""
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
            texts.append(f"{self.errors} errors" if evaluated else f"failed: {self.errors} errors")
        return ", ".join(texts)


def _told(run: CellRun, tally: Tally) -> str:
    """A certificate leaves images as they are: their accuracy is not robust accuracy."""
    return tally.told(None if isinstance(run.attack, Certificate) else "robust")


def _first_draws(columns: Columns, side: Side) -> NDArray[np.int64]:
    """The first predicted class of each record, (N,); `ABSENT` where it has none."""
    votes = columns.votes(side)
    return votes[:, 0] if votes.shape[1] else np.full(len(votes), ABSENT)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
