"""A worker process as the driving process sees it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from harness.evaluation.engines.channel import WHERE, Call, Channel, Raised, Ready
from harness.process.visible_text import visible

LAST_WORDS, READ = 300, 8192
"""Characters of a lost process's output that an error quotes, and bytes of it that are read for that."""

CALL = re.compile(r'File "([^"]+)", line (\d+) in (\S+)')
"""A call in what a process prints at the signal `WHERE`."""

SECONDS_TO_ANSWER, SECONDS_TO_END = 3.0, 30.0
"""How long a process may take to say where it hangs, and to end when it is killed."""

CODE = """
import sys
sys.path[:] = {path!r}
from harness.evaluation.engines.worker_main import main
main({descriptor}, {parcel!r}, {device!r}, {threads})
"""


class WorkerProcess:
    """A process that was started.

    It is a program of its own and not a copy of this process, which may have threads and a GPU in use; and it does not
    run the user's script again, as processes of `multiprocessing` do.

    Attributes:
        ready: whether the process has started.

    Args:
        parcel: a file with the run, see `harness.evaluation.engines.parcel`.
        device: where the process evaluates defenses; threads: of the process.
        log: a file for what the process prints.
    """

    def __init__(self, parcel: Path, device: str, threads: int, log: Path) -> None:
        self.device, self.ready = device, False
        self._log = log
        here, there = Pipe()
        self.channel = Channel(here)
        code = CODE.format(path=sys.path, descriptor=there.fileno(), parcel=str(parcel), device=device, threads=threads)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        with there, open(log, "wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                pass_fds=[there.fileno()],
                start_new_session=True,  # Ctrl-C reaches the driver alone, which then ends its workers
            )

    def begin(self, call: Call) -> None:
        """Sends a call. If the process has ended, `receive` will say so."""
        with suppress(OSError):
            self.channel.send(call)

    def receive(self) -> Any:
        """The next message; `Raised`, with the reason, if the process has ended."""
        try:
            message = self.channel.receive()
        except (EOFError, OSError):
            return Raised(self._end())
        self.ready |= isinstance(message, Ready)
        return message

    def kill(self) -> None:
        """Ends the process and those that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # the kernel cannot end one that waits for a dead disk or GPU
            self._process.wait(SECONDS_TO_END)
        self.channel.connection.close()

    def whereabouts(self) -> str:
        """Where a process is that does not answer, innermost call first; else the last it printed; else nothing.

        It answers even while it runs native code, which is where most processes hang.
        """
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, WHERE)
        limit = time.monotonic() + SECONDS_TO_ANSWER
        while time.monotonic() < limit:
            if calls := CALL.findall(self._printed().rpartition("(most recent call first)")[2])[:3]:
                return "it was in " + ", called by ".join(
                    visible(f"{name} ({file}:{line})") for file, line, name in calls
                )
            time.sleep(0.05)
        return self.last_words()

    def last_words(self) -> str:
        """The end of what the process printed, in one line; empty if it printed nothing."""
        words = visible(" ".join(self._printed().split())[-LAST_WORDS:])
        return words and f"the last it printed: {words}"

    def _printed(self) -> str:
        """The end of what the process printed."""
        with open(self._log, "rb") as log:
            log.seek(max(0, os.path.getsize(self._log) - READ))
            return log.read().decode(errors="replace")

    def _end(self) -> str:
        """How the process ended."""
        status = self._process.wait()
        if status == -signal.SIGKILL:
            how = "was killed (SIGKILL), by hand or because the machine ran out of memory"
        elif status < 0:
            how = f"was killed by the signal {signal.Signals(-status).name}"
        else:
            how = f"ended with status {status}"
        words = self.last_words()
        return f"its process {how}" + (f"; {words}" if words else "")
