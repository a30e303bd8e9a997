"""Errors that a user can correct, reported in one paragraph: what was wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.process import foreign_code
from harness.process.visible_text import visible


@dataclass(frozen=True)
class Place:
    """A line of a file that the user wrote."""

    file: Path
    line: int | None = None

    def __str__(self) -> str:
        return str(self.file) if self.line is None else f"{self.file}:{self.line}"


class UserError(Exception):
    """An error that the user can correct. The command line prints it without a traceback and exits with status 2.

    Args:
        message: what was wrong, with the offending value, as a sentence without a full stop.
        remedy: what to do about it, as a sentence without a full stop.
        where: the file (and line) the value came from.

    Example:
        >>> print(UserError("eps is -1", remedy="Give a positive number", where=Place(Path("suite.yaml"), 7)))
        suite.yaml:7: eps is -1. Give a positive number.
    """

    def __init__(self, message: str, *, remedy: str | None = None, where: Place | None = None) -> None:
        self.message, self.remedy, self.where = message, remedy, where
        super().__init__(message)

    def __str__(self) -> str:
        start = f"{self.where}: " if self.where else ""
        sentences = [text if text.endswith("?") else f"{text}." for text in (self.message, self.remedy) if text]
        return visible(start + " ".join(sentences))

    def at(self, where: Place | None) -> UserError:
        """The same error with a place, unless it already has one."""
        return type(self)(self.message, remedy=self.remedy, where=self.where or where)

    def about(self, subject: str, where: Place | None) -> UserError:
        """The same error, its kind included, of something that the message names first: "'eps' of attack 'a': ..."."""
        return type(self)(f"{subject}: {self.message}", remedy=self.remedy, where=self.where or where)


class Failed(UserError):
    """The code of a defense or an attack failed. A run skips the pairings that need it; other commands stop."""


def one_line(error: BaseException, at: str | None = None) -> str:
    """An exception from code outside this project in one line: its type, its text, and the line that raised it.

    Args:
        at: the line to name if no line of the user's code raised it (see `foreign_code.definition`).
    """
    place = foreign_code.line_of(error) if foreign_code.is_theirs(error) or at is None else at
    description = f"{foreign_code.kind(error)}: {' '.join(str(error).split())[:300]}"
    return visible(description + (f" ({place})" if place else ""))


def nearest(name: str, choices: Iterable[str]) -> str:
    """A remedy that names the most similar valid choice, or all choices if none is similar."""
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Valid names: {', '.join(known) or 'none'}"
