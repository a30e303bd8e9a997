"""Handling of the signals that end this process: Ctrl-C (SIGINT), SIGTERM, and a closed terminal (SIGHUP).

By default a signal ends the process at once, with one line of output: while modules are imported there is nothing to
clean up, and an exception might be swallowed. Code that has to clean up files or the terminal uses `stoppable` to get
an exception instead.

The exit status is 128 + the signal's number, as in shells: 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal arrived inside a `stoppable` block."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def status_of(stop: KeyboardInterrupt) -> int:
    """The exit status after an interruption."""
    return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)


class _State:
    """The state of this process. soft: whether a signal raises `Stopped`; arrived: the last signal that did."""

    soft: bool = False
    arrived: int | None = None


_state = _State()


def install() -> None:
    """Installs handlers for the signals that end this process, except for ignored ones (for example by nohup)."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


@contextmanager
def handled() -> Iterator[None]:
    """Installs the handlers for the duration of the block."""
    before = {number: signal.getsignal(number) for number in ENDING}
    install()
    try:
        yield
    finally:
        _state.arrived = None
        for number, handler in before.items():
            if handler is not None:  # None means that it was not installed by Python
                signal.signal(number, handler)


@contextmanager
def stoppable() -> Iterator[None]:
    """Makes signals raise `Stopped` inside the block, if `install` was called."""
    before, _state.soft = _state.soft, True
    try:
        yield
    finally:
        _state.soft = before


def arrived() -> int | None:
    """The last signal that raised `Stopped`, or None."""
    return _state.arrived


def refuse_to_go_on() -> None:
    """Raises `Stopped` again, in case code in between has swallowed it."""
    if _state.arrived is not None:
        raise Stopped(_state.arrived)


def from_outside(error: BaseException) -> bool:
    """Whether an exception was caused by a signal, and not raised by the code that it passed through."""
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return isinstance(error, Stopped) or (isinstance(error, KeyboardInterrupt) and default)


def _end(number: int, frame: FrameType | None) -> None:
    if _state.soft:
        _state.arrived = number
        raise Stopped(number)
    with suppress(OSError):  # the output may be closed
        os.write(2, b"Stopped.\n")
    os._exit(128 + number)
