"""A benchmark of defended image classifiers: defenses, attacks, and the robust accuracy between them.

    import harness

    results = harness.evaluate(model, attacks="quick", data="cifar10", size=64)
    results.table()

Importing this package is cheap: torch is loaded by the names that need it, when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.process import compat
from harness.process.lazy import lazy

if TYPE_CHECKING:
    from harness.api.evaluate import evaluate
    from harness.api.functions import compare, diagnose, load_results, report, run, summarise, verify
    from harness.api.results import Results
    from harness.api.training import train
    from harness.attack import Adversarial, Attack, Cost
    from harness.callback import Callback
    from harness.defense import Defense
    from harness.errors import UserError
    from harness.quantity import Quantity
    from harness.suite.nested import InnerAttack, InnerDefense
    from harness.suite.plan import load_suite
    from harness.target import Target
    from harness.threat import L0, L1, L2, Flow, Linf
    from harness.weights.checkpoint import Checkpoint

__version__ = "0.2.0"

_PLACES = {
    "harness.api.evaluate": ("evaluate",),
    "harness.api.functions": ("compare", "diagnose", "load_results", "report", "run", "summarise", "verify"),
    "harness.api.results": ("Results",),
    "harness.api.training": ("train",),
    "harness.attack": ("Adversarial", "Attack", "Cost"),
    "harness.callback": ("Callback",),
    "harness.defense": ("Defense",),
    "harness.errors": ("UserError",),
    "harness.quantity": ("Quantity",),
    "harness.suite.nested": ("InnerAttack", "InnerDefense"),
    "harness.suite.plan": ("load_suite",),
    "harness.target": ("Target",),
    "harness.threat": ("L0", "L1", "L2", "Flow", "Linf"),
    "harness.weights.checkpoint": ("Checkpoint",),
}

__all__ = [
    "L0",
    "L1",
    "L2",
    "Adversarial",
    "Attack",
    "Callback",
    "Checkpoint",
    "Cost",
    "Defense",
    "Flow",
    "InnerAttack",
    "InnerDefense",
    "Linf",
    "Quantity",
    "Results",
    "Target",
    "UserError",
    "compare",
    "diagnose",
    "evaluate",
    "load_results",
    "load_suite",
    "report",
    "run",
    "summarise",
    "train",
    "verify",
]

__getattr__ = lazy(__name__, {name: module for module, names in _PLACES.items() for name in names})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


compat.install()
