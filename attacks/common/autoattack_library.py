"""What it takes to run `pyautoattack` inside another program: its side effects undone, its warnings kept."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pyautoattack import checks

from harness.guard.doubt import in_doubt

REMARKS = {
    "randomized defense": "autoattack: the defense seems randomised",
    "probability distribution": "autoattack: the outputs seem to be probabilities, not logits",
    "zero gradient": "autoattack: zero gradients",
    "dynamic defense": "autoattack: the defense seems to optimise at test time",
    "Square Attack has decreased": "autoattack: square fooled images that the gradient attacks did not",
}
"""The library's warnings, by a phrase of each, as the flags that records carry: each puts its number in doubt."""


@contextmanager
def library_fence() -> Iterator[list[str]]:
    """Code inside may call the library. Yields a list to which the library's warnings are added, as flags.

    Not thread-safe: the trace function and the logger belong to the whole process.
    """
    with _tracing_restored(), _warnings() as flags:
        yield flags


@contextmanager
def _tracing_restored() -> Iterator[None]:
    """The library's check for dynamic defenses counts calls with a trace function of its own.

    It removes the trace function of a debugger or a coverage tool, and never resets its counts: what it counted for one
    defense would be reported of the next defense in the same process.
    """
    previous = sys.gettrace()
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    try:
        yield
    finally:
        sys.settrace(previous)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collects the library's warnings as flags, and keeps them off the terminal."""
    flags: list[str] = []
    logger = logging.getLogger("auto-attack")
    handler = _Collector(flags)
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield flags
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class _Collector(logging.Handler):
    def __init__(self, flags: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.flags = flags

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        known = [in_doubt(flag) for phrase, flag in REMARKS.items() if phrase in message]
        self.flags.extend(known or [f"autoattack: {message}"])
