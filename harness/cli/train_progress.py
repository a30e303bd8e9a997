"""The display of a training: a progress bar on a terminal, occasional lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from harness.callback import Callback
from harness.cli.run_progress import words
from harness.process.console import plain_column

LINE_EVERY = 20.0
"""Seconds between lines if there is no terminal."""


class Display(Callback):
    """Shows the step, the smoothed loss, steps per second and the time left."""

    def __init__(self, console: Console) -> None:
        self.console, self.name, self.steps = console, "", 0
        self._loss: float | None = None
        self._began = self._last_line = time.monotonic()
        self._first = 0
        self._bar: Progress | None = None

    @contextmanager
    def training(self, name: str, first: int, steps: int) -> Iterator[None]:
        """Shows progress from step `first` while the block runs."""
        self.name, self.steps = name, steps
        self._first, self._began = first, time.monotonic()
        if not self.console.is_terminal:
            yield
            return
        columns = (
            plain_column(self.name),
            BarColumn(),
            MofNCompleteColumn(),
            plain_column(),
        )
        with Progress(*columns, TimeRemainingColumn(), console=self.console) as self._bar:
            self._task = self._bar.add_task("", total=self.steps, completed=first)
            yield

    def stepped(self, step: int, loss: float) -> None:
        """Shows the number of steps done, and the smoothed loss."""
        self._loss = loss if self._loss is None else 0.98 * self._loss + 0.02 * loss
        if self._bar:
            self._bar.update(self._task, completed=step, description=f"loss {self._loss:.4f}")
        elif step == self.steps or time.monotonic() - self._last_line > LINE_EVERY:
            self._last_line = time.monotonic()
            speed = (step - self._first) / max(1e-9, self._last_line - self._began)
            left = words((self.steps - step) / speed)
            pace = f"{speed:.1f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s a step"
            self.note(f"{self.name}: step {step}/{self.steps}, loss {self._loss:.4f}, {pace}, {left} left")

    def measured(self, images: int, of: int) -> None:
        """Says every `LINE_EVERY` seconds how far the measurement of the accuracy is."""
        if images < of and time.monotonic() - self._last_line > LINE_EVERY:
            self._last_line = time.monotonic()
            self.note(f"{self.name}: measuring the clean accuracy, {images}/{of} test images")

    def note(self, text: str) -> None:
        """Prints a remark that stays on the screen."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
