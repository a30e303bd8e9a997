"""The main program of a worker process of the engine `local`. It ends when the process that drives it ends.

Slow modules are imported late, so that a process notices the end of its driver from the start.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from harness.callback import Callback
from harness.errors import UserError, one_line
from harness.evaluation.engines.channel import WHERE, Call, Channel, Done, Note, Raised, Ready, Refused
from harness.evaluation.progress import Progress

if TYPE_CHECKING:
    from harness.attack import Attack
    from harness.evaluation.pending import CellRun
    from harness.evaluation.worker import Worker
    from harness.target import Target

PAUSE = 1.0
"""Seconds between two messages on how far an attack is."""


class Sender(Callback):
    """Sends remarks to the driver, for the user, and how far the attack at work is, once in a while.

    Args:
        channel: to the driver.
        pause: seconds between two messages on how far an attack is.
    """

    def __init__(self, channel: Channel, pause: float = PAUSE) -> None:
        self._channel, self._pause = channel, pause
        self._attack: tuple[Attack, Target] | None = None
        self._lock = threading.Lock()
        threading.Thread(target=self._report, daemon=True).start()

    def note(self, text: str) -> None:
        self._channel.send(Note(text))

    def watch(self, run: CellRun, target: Target) -> None:
        self._attack = run.attack, target

    def rest(self) -> None:
        """No attack is at work: there is nothing to say until the next one is."""
        with self._lock:
            self._attack = None

    def _report(self) -> None:
        while True:
            time.sleep(self._pause)
            with self._lock:
                if self._attack is not None:
                    attack, target = self._attack
                    with suppress(OSError):  # the driver has ended, and this process will
                        self._channel.send(Progress.of(target, attack))


def main(descriptor: int, parcel: str, device: str, threads: int) -> None:
    """Serves calls until the driver closes the connection.

    Args:
        descriptor: of this process's end of the connection.
        parcel: the path of a file with the run, see `harness.evaluation.engines.parcel`.
        device: where this process evaluates defenses; threads: of this process.
    """
    for number in (signal.SIGINT, signal.SIGHUP):  # the driver decides when to stop
        signal.signal(number, signal.SIG_IGN)
    faulthandler.register(WHERE, all_threads=False)
    channel = Channel(Connection(descriptor))
    calls: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(channel, calls), daemon=True).start()
    worker: list[Worker] = []
    sender = Sender(channel)
    if _answer(channel, lambda: worker.append(_worker(sender, Path(parcel), device, threads)), Ready):
        while True:
            call: Call = pickle.loads(calls.get())
            _answer(channel, lambda: _done(worker[0], sender, call), Done)  # noqa: B023


def _listen(channel: Channel, calls: SimpleQueue[bytes]) -> None:
    """Receives calls. Without a driver there is nothing left to do: the process ends, whatever it is computing."""
    while True:
        try:
            calls.put(channel.connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)


def _answer(channel: Channel, do: Callable[[], Any], message: type[Ready] | type[Done]) -> bool:
    """Does something, and sends what came of it. Returns whether it succeeded."""
    try:
        channel.send(message(do()))
        return True
    except UserError as error:
        channel.send(Refused(error))
    except BaseException as error:  # also what would end the process
        traceback.print_exc()
        channel.send(Raised(one_line(error)))
    return False


def _done(worker: Worker, sender: Sender, call: Call) -> Any:
    try:
        return getattr(worker, call.method)(call.argument)
    finally:
        sender.rest()


def _worker(sender: Sender, parcel: Path, device: str, threads: int) -> Worker:
    from harness.evaluation.engines.parcel import unpack
    from harness.evaluation.worker import Worker

    return Worker(unpack(parcel.read_bytes(), device, threads, sender))
