"""The display of a diagnosis: each finding when it is made and, on a terminal, a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeElapsedColumn
from rich.text import Text

from harness.callback import Callback
from harness.checks.finding import COLOURS, Finding
from harness.process.console import plain_column


class Display(Callback):
    """Shows the current check, and the findings."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(console=console)
        self._task = self._progress.add_task("")

    @contextmanager
    def diagnosing(self, defense: str, checks: int, passes: Callable[[], int]) -> Iterator[None]:
        """Shows the progress of the checks while the block runs."""
        self.console.print(f"\n[bold]{escape(defense)}[/]", highlight=False)
        columns = (
            plain_column(),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(
            *columns,
            _Passes(passes),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._progress.add_task(defense, total=checks)
        with self._progress:
            yield

    def checking(self, check: str) -> None:
        self._progress.update(self._task, description=check)

    def found(self, finding: Finding) -> None:
        status = f"[{COLOURS[finding.status]}]{finding.status}[/]"
        self.console.print(f"{status}  {escape(f'{finding.name}: {finding.message}')}", highlight=False)
        self._progress.advance(self._task)


class _Passes(ProgressColumn):
    """The number of images sent through the defense so far, updated during a check."""

    def __init__(self, count: Callable[[], int]) -> None:
        super().__init__()
        self._count = count

    def render(self, task: Task) -> Text:
        return Text(f"{self._count():,} forward passes", style="dim")
