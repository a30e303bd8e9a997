"""Does a defense, or an attack, keep its contract?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.process.lazy import lazy

if TYPE_CHECKING:
    from harness.checks.attack import check_attack
    from harness.checks.by_name import check_class
    from harness.checks.defense import Use, check_defense, gates
    from harness.checks.finding import Finding
    from harness.checks.output import misshapen
    from harness.checks.preprocessing import unlike_its_card
    from harness.checks.probe import LOOKED_AT

__all__ = [
    "LOOKED_AT",
    "Finding",
    "Use",
    "check_attack",
    "check_class",
    "check_defense",
    "gates",
    "misshapen",
    "unlike_its_card",
]

__getattr__ = lazy(
    __name__,
    {
        "LOOKED_AT": "harness.checks.probe",
        "Finding": "harness.checks.finding",
        "Use": "harness.checks.defense",
        "check_attack": "harness.checks.attack",
        "check_class": "harness.checks.by_name",
        "check_defense": "harness.checks.defense",
        "gates": "harness.checks.defense",
        "misshapen": "harness.checks.output",
        "unlike_its_card": "harness.checks.preprocessing",
    },
)
