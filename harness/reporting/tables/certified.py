"""Certified and attacked accuracy of smoothed defenses by radius, from the bounds of `harness.results.bounds`.

Certified accuracy at radius r is the share of images with lower > r; attacked accuracy, that of images with upper > r.
Both compare with r + `TOLERANCE`: an image at the edge of its budget is stored in float32, a little inside or outside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.quantity import TOLERANCE, Quantity
from harness.reporting.stats.accuracy import Estimate, accuracy
from harness.results.bounds import Bounds
from harness.results.load import Run

STEPS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
MOST_STEPS = 6
"""Radii of a table: multiples of the smallest of `STEPS` that reaches the largest radius in `MOST_STEPS`."""

MOST_FAULTS = 5
"""The largest number of faults of a defense that a sentence describes."""


def certified_accuracy(found: Bounds, radius: float) -> Estimate:
    """The share of images that are certified to be classified right beyond a radius."""
    return accuracy((found.lower > radius + TOLERANCE).astype(np.float64))


def attacked_accuracy(found: Bounds, radius: float) -> Estimate:
    """The share of images that no attack misclassified, beyond doubt, within a radius."""
    return accuracy((found.upper > radius + TOLERANCE).astype(np.float64))


def radii(found: Sequence[Bounds], run: Run) -> list[float]:
    """The radii of a table: 0, round ones up to the largest certified one, and the L2 budgets of the attacks."""
    largest = max((float(each.lower.max()) for each in found), default=0.0)
    step = next((step for step in STEPS if largest <= step * MOST_STEPS), STEPS[-1])
    regular = {round(step * k, 6) for k in range(min(MOST_STEPS, math.ceil(largest / step)) + 1)}
    smoothed = {each.defense for each in found}
    threats = {cell.facts.threat for (defense, _), cell in run.pairings.items() if defense in smoothed}
    budgets = {float(Quantity(threat.partition(" ")[2])) for threat in threats if threat.startswith("L2 ")}
    return sorted(regular | budgets)


def faults_told(found: Bounds) -> str:
    """The contradictions of a defense's certificates, a sentence without its full stop; empty where there is none."""
    if not found.faults:
        return ""
    told = "; ".join(fault.describe() for fault in found.faults[:MOST_FAULTS])
    more = f"; and {len(found.faults) - MOST_FAULTS} more" if len(found.faults) > MOST_FAULTS else ""
    return f"FAULT: {found.label} was attacked below what {found.certificate} certifies: {told}{more}"
