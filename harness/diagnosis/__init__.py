"""Are a defense's gradients an attacker's guide, or does its robustness come from their being hidden?"""

from __future__ import annotations

from harness.diagnosis.checks import CHECKS
from harness.diagnosis.run import Options, diagnose
from harness.diagnosis.subject import Settings, Subject

__all__ = ["CHECKS", "Options", "Settings", "Subject", "diagnose"]
