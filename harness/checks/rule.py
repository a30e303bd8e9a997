"""A question put to a defense or an attack, and its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from harness.errors import one_line
from harness.process.foreign_code import contained

Status = Literal["passed", "failed", "warned"]
Subject = TypeVar("Subject")
Judgement = tuple[Status, str]


@dataclass(frozen=True)
class Verdict:
    """The answer to one rule.

    Args:
        name: the rule, a few words.
        status: `failed`: the contract is broken, and numbers would mean nothing; `warned`: they need care.
        message: what was seen, with its numbers, and what to do where it is not as it should be.
    """

    name: str
    status: Status
    message: str


@dataclass(frozen=True)
class Rule(Generic[Subject]):
    """A question, and how it is asked. Whatever the user's code raises in it is a failure of that rule.

    Args:
        passes: what it costs, in forward passes of all images that are looked at, beside those that other rules need
            as well; None for a rule that only `harness check` asks, as a run has no need of it or no time for it.
    """

    name: str
    look: Callable[[Subject], Judgement]
    passes: float | None = None

    def __call__(self, subject: Subject) -> Verdict:
        try:
            with contained():
                return Verdict(self.name, *self.look(subject))
        except Exception as error:
            return Verdict(self.name, "failed", f"it raises {one_line(error)}")


def rule(name: str, passes: float | None = None) -> Callable[[Callable[[Subject], Judgement]], Rule[Subject]]:
    """Makes a function of the subject a rule."""
    return lambda look: Rule(name, look, passes)
