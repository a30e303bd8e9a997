"""Does a defense, or an attack, keep its contract?"""

from __future__ import annotations

from harness.checks.attack import check_attack
from harness.checks.by_name import check_class
from harness.checks.defense import Use, check, gates
from harness.checks.output import misshapen
from harness.checks.preprocessing import unlike_its_card
from harness.checks.probe import LOOKED_AT
from harness.checks.rule import Verdict

__all__ = [
    "LOOKED_AT",
    "Use",
    "Verdict",
    "check",
    "check_attack",
    "check_class",
    "gates",
    "misshapen",
    "unlike_its_card",
]
