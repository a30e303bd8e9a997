"""Are the gradients of a defense useful to an attacker, or does its robustness come from gradient masking?"""

from __future__ import annotations

from harness.diagnosis.checks import CHECKS
from harness.diagnosis.run import Options, diagnose
from harness.diagnosis.subject import Settings, Subject

__all__ = ["CHECKS", "Options", "Settings", "Subject", "diagnose"]
