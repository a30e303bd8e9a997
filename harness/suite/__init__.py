"""Suites: a YAML file that lists defenses, attacks and their pairings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.process.lazy import lazy

if TYPE_CHECKING:
    from harness.suite.plan import Cell, Plan, check, load_suite

__all__ = ["Cell", "Plan", "check", "load_suite"]

__getattr__ = lazy(
    __name__,
    {
        "Cell": "harness.suite.plan",
        "Plan": "harness.suite.plan",
        "check": "harness.suite.plan",
        "load_suite": "harness.suite.plan",
    },
)
