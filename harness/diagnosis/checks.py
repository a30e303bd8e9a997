"""All checks, in order: those of gradients first, then attacks, from the cheapest to the most expensive."""

from __future__ import annotations

from harness.checks.finding import Check
from harness.diagnosis import attack_checks, compression, gradient_checks, loss_surface
from harness.diagnosis.subject import Subject

CHECKS: tuple[Check[Subject], ...] = (
    gradient_checks.present,
    gradient_checks.randomness,
    loss_surface.surface,
    compression.compression,
    attack_checks.one_step,
    attack_checks.unbounded,
    attack_checks.noise,
    attack_checks.transfer,
    attack_checks.budgets,
    attack_checks.iterations,
    attack_checks.draws,
    attack_checks.square,
)
