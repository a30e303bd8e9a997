"""All checks, in order: those of gradients first, then attacks from the cheapest to the dearest."""

from __future__ import annotations

from harness.diagnose import gradients, strength, surface
from harness.diagnose.finding import Check

CHECKS: tuple[Check, ...] = (
    gradients.present,
    gradients.randomness,
    surface.surface,
    strength.one_step,
    strength.unbounded,
    strength.noise,
    strength.transfer,
    strength.budgets,
    strength.iterations,
    strength.draws,
    strength.square,
)
