"""Commands of the harness in processes of their own: bounded in time and memory, killed where that is the trial.

A child is a fork of this process, which has imported torch already, so that a thousand commands take minutes.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SPARE = 4 << 30
"""Address space that a command may take beyond what this process has: a bomb ends there, and not with the machine."""


@dataclass(frozen=True)
class Attempt:
    """What came of a command.

    Attributes:
        status: its exit status; 128 + signal where it was killed, as shells say it; None where it ran out of time.
        out: what it printed, both streams together.
        seconds: from its start to its end.
        grown: MiB by which its peak of resident memory exceeded what it started with.
    """

    status: int | None
    out: str
    seconds: float
    grown: float

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.out


def preload() -> None:
    """Imports what every command needs, once, with one thread, as a fork keeps no others."""
    import torch

    torch.set_num_threads(1)
    import matplotlib.pyplot
    import pyarrow.parquet
    import sklearn.datasets

    import attacks.autoattack
    import defenses.undefended
    import harness.cli
    import harness.datasets
    import harness.reporting
    import harness.verification

    assert all((matplotlib.pyplot, pyarrow.parquet, sklearn.datasets, attacks.autoattack, defenses.undefended))
    assert all((harness.cli, harness.datasets, harness.reporting, harness.verification))


def run(
    arguments: list[str], folder: Path, *, limit: float = 60, kill: tuple[float, signal.Signals] | None = None
) -> Attempt:
    """Runs `harness ARGUMENTS` in a folder.

    Args:
        limit: seconds after which it is ended.
        kill: strike after so many seconds, with this signal.
    """
    with tempfile.TemporaryFile() as sink:
        began = time.perf_counter()
        child = os.fork()
        if child == 0:
            _child(arguments, folder, sink.fileno())
        status, usage = _wait(child, began, limit, kill)
        seconds = time.perf_counter() - began
        sink.seek(0)
        out = sink.read(10_000_000).decode(errors="replace")
    start = int(out.rpartition("resident ")[2].split()[0]) if "resident " in out[:30] else usage
    return Attempt(status, out.partition("\n")[2], seconds, (usage - start) / 1024)


def _wait(child: int, began: float, limit: float, kill: tuple[float, signal.Signals] | None) -> tuple[int | None, int]:
    struck = timed_out = False
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return None if timed_out else code if code >= 0 else 128 - code, usage.ru_maxrss
        now = time.perf_counter() - began
        if kill and not struck and now >= kill[0]:
            os.kill(child, kill[1])
            struck = True
        if not timed_out and now >= limit:
            os.kill(child, signal.SIGKILL)
            timed_out = True
        time.sleep(0.002)


def _child(arguments: list[str], folder: Path, sink: int) -> None:
    """Never returns."""
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    print(f"resident {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}", flush=True)
    os.chdir(folder)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (held + SPARE, held + SPARE))
    code = 70
    try:
        from harness.cli import main

        main(arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
