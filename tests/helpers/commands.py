"""`harness` commands, and functions, in processes of their own that start at once.

A server has imported torch and the package already, with one thread, and forks itself for each: a new interpreter would
take seconds before its first line. What a test wants to know of the start itself needs a new one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["helpers.preloaded"])


class Process:
    """A process that was started, with what tests use of `subprocess.Popen`.

    Args:
        target: what it does, with these arguments.
        environment: variables that it gets besides ours.
    """

    def __init__(self, target: Callable[..., object], *arguments: object, environment: Mapping[str, str] = {}) -> None:
        descriptor, path = tempfile.mkstemp(prefix="harness-test-")
        os.close(descriptor)
        self._printed = Path(path)
        weakref.finalize(self, self._printed.unlink)
        given = (path, os.getcwd(), {**os.environ, **environment}, target, arguments)
        self._process = SERVER.Process(target=_child, args=given)
        self._process.start()
        self.pid = int(self._process.pid or 0)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = 300) -> int:
        """The exit status, or minus the signal that killed it."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"it is not done after {timeout} s; it printed:\n{self.printed()}"
        return self._process.exitcode

    def printed(self) -> str:
        """What it has printed so far, both streams together."""
        return self._printed.read_text()


def command(*arguments: str, environment: Mapping[str, str] = {}) -> Process:
    """Starts `harness ARGUMENTS`."""
    return Process(_command, arguments, environment=environment)


def _command(arguments: tuple[str, ...]) -> None:
    sys.argv = ["harness", *arguments]
    from harness.__main__ import main  # installs the handlers of signals

    main()


def _child(path: str, folder: str, environment: dict[str, str], target: Callable[..., object], arguments: Any) -> None:
    with open(path, "wb") as sink:
        for descriptor in (1, 2):
            os.dup2(sink.fileno(), descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    target(*arguments)
