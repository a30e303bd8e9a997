"""A check, and its finding: what `harness check`, `harness diagnose` and `harness doctor` are made of.

This module imports no torch: a doctor must work where torch cannot be imported.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from harness.errors import one_line
from harness.process.foreign_code import contained

Status = Literal["passed", "warned", "failed", "skipped"]

COLOURS: dict[Status, str] = {"passed": "green", "warned": "yellow", "failed": "red", "skipped": "dim"}
"""How a terminal shows each status."""

Subject = TypeVar("Subject")

Outcome = tuple[Status, str]
"""Status and message of a finding."""

Measured = tuple[Status, str, dict[str, Any]]
"""Status, message and data of a finding."""


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Args:
        name: of the check, a few words.
        status: `passed`: all is well; `warned`: something needs care, the message says what; `failed`: something is
            broken, or the check could not be completed; `skipped`: the check does not apply.
        message: what was seen, with its numbers.
        remedy: a shell command that repairs it, where there is one.
        source: the publication that the check is from, if it is from one.
        data: the numbers behind the message, for plots; JSON.
        seconds: how long the check took.

    Example:
        >>> Finding("torch", "passed", "2.4.1").status
        'passed'
    """

    name: str
    status: Status
    message: str
    remedy: str | None = None
    source: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class Skip(Exception):
    """Raised inside a check that does not apply to its subject. The message says why."""


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """A function that examines a subject, and the name of what it examines.

    Args:
        name: a few words, the name of every finding.
        examine: gives status, message and, where there are numbers to keep, data.
        source: the publication that it is from.
        passes: what it costs, in forward passes of all images that are looked at, beside those that other checks need
            as well; None for a check that only `harness check` makes, as a run does not need it or has no time for it.
    """

    name: str
    examine: Callable[[Subject], Outcome | Measured]
    source: str = ""
    passes: float | None = None

    def __call__(self, subject: Subject) -> Finding:
        """The finding. Whatever the user's code raises meanwhile makes it `failed`, never `passed`."""
        began = time.perf_counter()
        data: dict[str, Any] = {}
        try:
            with contained():
                status, message, *numbers = self.examine(subject)
                data = dict(*numbers)
        except Skip as reason:
            status, message = "skipped", str(reason)
        except Exception as error:
            status, message = "failed", f"it raises {one_line(error)}"
        return Finding(self.name, status, message, None, self.source, data, time.perf_counter() - began)


def check(
    name: str, *sources: str, passes: float | None = None
) -> Callable[[Callable[[Subject], Outcome | Measured]], Check[Subject]]:
    """Makes a check of a function.

    Args:
        name: of the check, a few words.
        sources: the publications that it is from.
        passes: see `Check`.

    Example:
        >>> @check("positive")
        ... def positive(number: float) -> Outcome:
        ...     return ("passed" if number > 0 else "failed"), f"{number} is the number"
        >>> positive(2.0).status, positive(-1.0).status
        ('passed', 'failed')
    """
    return lambda examine: Check(name, examine, "; ".join(sources), passes)
