"""What ends this process from outside: Ctrl-C (SIGINT), a polite kill (SIGTERM), a terminal that closes (SIGHUP).

By default at once, in one line. While modules are imported there is nothing to leave in order, and an exception could
be swallowed on its way. Work that keeps files or a terminal in order asks for an exception instead, by `stoppable`.

The status is 128 + the signal's number, as shells have it: 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal arrived while the work was `stoppable`."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def status_of(stop: KeyboardInterrupt) -> int:
    """What the process should end with."""
    return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)


class _State:
    """Of this process. soft: whether a signal raises; arrived: the last signal that did."""

    soft: bool = False
    arrived: int | None = None


_state = _State()


def install() -> None:
    """Takes over the signals that end this process, but for those that it was told to ignore (by nohup, say)."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


@contextmanager
def handled() -> Iterator[None]:
    """The same, for as long as the block lasts."""
    before = {number: signal.getsignal(number) for number in ENDING}
    install()
    try:
        yield
    finally:
        _state.arrived = None
        for number, handler in before.items():
            if handler is not None:  # None: it was installed by something else than Python
                signal.signal(number, handler)


@contextmanager
def stoppable() -> Iterator[None]:
    """A signal raises `Stopped` while the block lasts, where `install` was called."""
    before, _state.soft = _state.soft, True
    try:
        yield
    finally:
        _state.soft = before


def arrived() -> int | None:
    """The signal that raised `Stopped`, if one did."""
    return _state.arrived


def refuse_to_go_on() -> None:
    """Raises `Stopped` again, should code in between have swallowed it."""
    if _state.arrived is not None:
        raise Stopped(_state.arrived)


def from_outside(error: BaseException) -> bool:
    """Whether an exception is a signal's doing, and not raised by the code that it came through."""
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return isinstance(error, Stopped) or (isinstance(error, KeyboardInterrupt) and default)


def _end(number: int, frame: FrameType | None) -> None:
    if _state.soft:
        _state.arrived = number
        raise Stopped(number)
    with suppress(OSError):  # nobody may be there to read it
        os.write(2, b"Stopped.\n")
    os._exit(128 + number)
