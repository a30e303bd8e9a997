"""Messages between a driving process and a worker process, pickled, over a socket.

To a worker: `Call`. From a worker: `Ready` when it has started, `Note` at any time, `Progress` of the attack at work,
and `Done` for each call; in place of `Ready` or `Done`, `Refused` or `Raised`.
"""

from __future__ import annotations

import pickle
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any

WHERE = signal.SIGUSR1
"""At this signal a worker process prints where it is, whatever it is doing."""


@dataclass(frozen=True)
class Call:
    """Something for a worker to do. method: of `harness.evaluation.worker.Worker`; title: for messages."""

    method: str
    argument: Any
    title: str


@dataclass(frozen=True)
class Note:
    """A remark for the user."""

    text: str


@dataclass(frozen=True)
class Ready:
    """The worker process has started. nothing: None, as starting returns nothing."""

    nothing: None = None


@dataclass(frozen=True)
class Done:
    """A call returned this."""

    result: Any


@dataclass(frozen=True)
class Refused:
    """A call found a mistake of the user, which ends the run."""

    error: Exception


@dataclass(frozen=True)
class Raised:
    """A call ended in an exception that it should not have: in one line."""

    why: str


class Channel:
    """One end of a socket. Several threads may send."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._lock = Lock()

    def send(self, message: object) -> None:
        data = pickle.dumps(message)  # the connection's own pickling would hand tensors over in shared memory
        with self._lock:
            self.connection.send_bytes(data)

    def receive(self) -> Any:
        """The next message. Raises EOFError or OSError if the other end is closed."""
        return pickle.loads(self.connection.recv_bytes())
