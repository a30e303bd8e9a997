"""A question put to a defense or an attack, and its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Literal, TypeVar

from harness.errors import blame
from harness.foreign import contained

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


def rule(name: str) -> Callable[[Callable[[Subject], Judgement]], Callable[[Subject], Verdict]]:
    """Makes a function of the subject a rule. Whatever the user's code raises in it is a failure of that rule."""

    def named(look: Callable[[Subject], Judgement]) -> Callable[[Subject], Verdict]:
        @wraps(look)
        def judge(subject: Subject) -> Verdict:
            try:
                with contained():
                    return Verdict(name, *look(subject))
            except Exception as error:
                return Verdict(name, "failed", f"it raises {blame(error)}")

        return judge

    return named
