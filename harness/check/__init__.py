"""Does a defense, or an attack, keep its contract?"""

from __future__ import annotations

from harness.check.attack import check_attack
from harness.check.defense import Use, check, gates
from harness.check.output import misshapen
from harness.check.preprocessing import unlike_its_card
from harness.check.probe import LOOKED_AT
from harness.check.user import check_class
from harness.check.verdict import Verdict

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
