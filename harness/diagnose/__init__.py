"""Are a defense's gradients an attacker's guide, or does its robustness come from their being hidden?"""

from __future__ import annotations

from harness.diagnose.checks import CHECKS
from harness.diagnose.diagnosis import Options, diagnose
from harness.diagnose.finding import Finding
from harness.diagnose.subject import Settings, Subject

__all__ = ["CHECKS", "Finding", "Options", "Settings", "Subject", "diagnose"]
