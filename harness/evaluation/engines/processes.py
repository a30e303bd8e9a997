"""Several worker processes on this machine: `harness run SUITE --workers 2`, or `--devices cuda:0,cuda:1`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from harness.callback import Callback
from harness.errors import UserError
from harness.evaluation.context import RunContext
from harness.evaluation.engines.calling import CallingEngine, Limit
from harness.evaluation.engines.channel import Call, Done, Note, Raised, Ready, Refused
from harness.evaluation.engines.engine import TRIES, Lost
from harness.evaluation.engines.parcel import pack
from harness.evaluation.engines.worker_process import WorkerProcess
from harness.evaluation.progress import Progress

LOOK = 1.0
"""Seconds between two looks at processes that have nothing to say, and may hang."""


class Processes(CallingEngine):
    """Computes in several processes, each with a device and a part of the threads.

    A process that is killed, raises, hangs or runs out of memory is replaced, and its job begun again, up to `TRIES`
    times.
    The processes end when this one does, however it ends.

    Args:
        devices: one for each process, such as ("cuda:0", "cuda:1") or ("cpu", "cpu").
        threads: of each process; by default those of this process, divided among them.

    Example:
        >>> Processes(["cpu", "cpu"], threads=1).describe()
        {'engine': 'local', 'workers': ['cpu', 'cpu'], 'worker_threads': 1}
    """

    def __init__(self, devices: Sequence[str], threads: int | None = None) -> None:
        self._devices = list(devices)
        self._threads = threads or max(1, torch.get_num_threads() // len(self._devices))
        self._pool: _Pool | None = None

    def workers(self) -> int:
        return len(self._devices)

    def describe(self) -> dict[str, Any]:
        return {"engine": "local", "workers": self._devices, "worker_threads": self._threads}

    @contextmanager
    def working(self, context: RunContext) -> Iterator[None]:
        with TemporaryDirectory(prefix="harness-workers-") as folder:
            (Path(folder) / "parcel").write_bytes(pack(context))
            self._pool = _Pool(Path(folder), self._threads, context.callback)
            try:
                self._pool.start(self._devices)
                yield
            finally:
                self._pool.kill()
                self._pool = None

    def call(self, take: Callable[[], Call | None], limit: Limit) -> Iterator[tuple[Call, Any]]:
        return self._at_work().run(take, limit)

    def _at_work(self) -> _Pool:
        if self._pool is None:
            raise RuntimeError("the engine is used outside of its `working` block")
        return self._pool


@dataclass(eq=False)
class _Task:
    """A call, how often a process was lost over it, and when the present one began (None: it has not started yet)."""

    call: Call
    losses: int = 0
    began: float | None = None


class _Pool:
    """The worker processes of a run.

    Args:
        folder: holds the run as the file `parcel`, and gets what the processes print.
        threads: of each process.
        callback: is given the remarks of the processes, each once, though every process may make it, and how far they
            are.
    """

    def __init__(self, folder: Path, threads: int, callback: Callback) -> None:
        self._folder, self._threads, self._callback = folder, threads, callback
        self._notes: set[str] = set()
        self._processes: list[WorkerProcess] = []
        self._tasks: dict[WorkerProcess, _Task] = {}
        self._started = self._failed_starts = 0

    def start(self, devices: Sequence[str]) -> None:
        """Starts a process for each device."""
        for device in devices:
            log = self._folder / f"{self._started}.log"
            self._processes.append(WorkerProcess(self._folder / "parcel", device, self._threads, log))
            self._started += 1

    def kill(self) -> None:
        """Ends all processes."""
        for process in self._processes:
            process.kill()

    def run(self, take: Callable[[], Call | None], limit: Limit) -> Iterator[tuple[Call, Any]]:
        """Hands calls to idle processes until there are no more, and yields what each returned, or `Lost`.

        Args:
            limit: of each call, after which its process is ended.

        Raises:
            UserError: a call refused to go on, or no process can be started.
        """
        again: list[_Task] = []
        while True:
            for process in self._processes:
                if process in self._tasks:
                    continue
                if not again and (call := take()):
                    again.append(_Task(call))
                if again:
                    self._begin(process, again.pop())
            if not self._tasks:
                return
            for process, message in self._messages(limit):
                if isinstance(message, Note):
                    self._tell(message.text)
                elif isinstance(message, Progress):
                    self._callback.progressed(self._tasks[process].call.argument, message)
                elif isinstance(message, Refused):
                    raise message.error
                elif isinstance(message, Ready):
                    self._failed_starts = 0
                    self._tasks[process].began = time.monotonic()
                elif isinstance(message, Done):
                    yield self._tasks.pop(process).call, message.result
                elif task := self._replace(process, message):
                    again.append(task)
                    if task.losses == TRIES:
                        yield again.pop().call, Lost(f"{TRIES} processes were lost over it: {message.why}")

    def _begin(self, process: WorkerProcess, task: _Task) -> None:
        task.began = time.monotonic() if process.ready else None
        self._tasks[process] = task
        process.begin(task.call)

    def _messages(self, limit: Limit) -> Iterator[tuple[WorkerProcess, Any]]:
        """What the processes at work have to say by now; of one that takes too long, `Raised`."""
        by_connection = {process.channel.connection: process for process in self._tasks}
        for connection in wait(list(by_connection), LOOK):
            process = by_connection[connection]  # type: ignore[index]  # `wait` returns some of what it is given
            yield process, process.receive()
        for process, task in list(self._tasks.items()):
            most = None if task.began is None else limit(task.call)
            if task.began is None or most is None or time.monotonic() - task.began < most:
                continue
            if not process.channel.connection.poll():  # else it has answered meanwhile
                found = process.whereabouts()
                yield process, Raised(f"not done after {most:.0f} s, its limit" + (f"; {found}" if found else ""))

    def _replace(self, process: WorkerProcess, message: Raised) -> _Task:
        """Starts another process in the place of one that ended or raised. Returns what it was to do."""
        task = self._tasks.pop(process)
        process.kill()
        self._processes.remove(process)
        if process.ready:
            task.losses += 1
            if task.losses < TRIES:
                self._callback.note(f"{task.call.title}: {message.why}; beginning it again")
        else:
            self._failed_starts += 1
            if self._failed_starts == TRIES:
                raise UserError(
                    f"a worker process on {process.device} cannot start: {message.why}",
                    remedy="Try without --workers and --devices, which shows the fault where it arises",
                )
        self.start([process.device])
        return task

    def _tell(self, text: str) -> None:
        if text not in self._notes:
            self._notes.add(text)
            self._callback.note(text)
