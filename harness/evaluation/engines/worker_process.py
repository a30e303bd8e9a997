"""A worker process as the driving process sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from harness.evaluation.engines.channel import Call, Channel, Raised, Ready
from harness.process.visible_text import visible

LAST_WORDS = 300
"""Characters of a lost process's output that an error quotes."""

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
        self._process.wait()
        self.channel.connection.close()

    def last_words(self) -> str:
        """The end of what the process printed, in one line; empty if it printed nothing."""
        with open(self._log, "rb") as log:
            log.seek(max(0, os.path.getsize(self._log) - 4 * LAST_WORDS))
            return visible(" ".join(log.read().decode(errors="replace").split())[-LAST_WORDS:])

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
        return f"its process {how}" + (f"; the last it printed: {words}" if words else "")
