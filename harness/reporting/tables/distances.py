"""Robust accuracy at every radius up to eps, from one run of a minimum-norm attack.

Such an attack returns the nearest misclassified image that it finds, whose distance d_i is in the record. At radius e,
image i is still right where it is robust, or where d_i > e + `TOLERANCE`. An image that was wrong before has d_i = 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from harness.quantity import TOLERANCE, Quantity
from harness.reporting.stats.accuracy import Estimate, accuracy
from harness.reporting.tables.outcomes import robust_successes
from harness.reporting.tables.table import Table

POINTS = 8
"""Equal parts of eps, at whose ends the accuracy is given; in L0, which counts, at the whole numbers below."""

DISTANCES = ("linf", "l2", "l1", "l0")
"""The distances of a record, by the name of the norm in small letters."""


@dataclass(frozen=True)
class Distances:
    """The curve of one pairing: radii, the first of which is 0, with the accuracy at each. norm: of the radii."""

    defense: str
    attack: str
    norm: str
    points: tuple[tuple[float, Estimate], ...]


def distances(table: Table) -> Iterator[Distances]:
    """Every finished pairing of a minimum-norm attack with a deterministic defense, row by row."""
    for row in table.rows:
        for column, entry in zip(table.columns, row.entries, strict=True):
            if entry.status != "final" or not entry.pairing or not entry.pairing.facts.nearest or row.stochastic:
                continue
            norm, _, eps = entry.pairing.facts.threat.partition(" ")
            if norm.lower() in DISTANCES:
                records = entry.pairing.columns
                robust, distance = robust_successes(records, table.rule), records.numbers(norm.lower())
                radii = [float(Quantity(eps)) * k / POINTS for k in range(POINTS + 1)]
                if norm == "L0":
                    radii = sorted({float(int(radius)) for radius in radii})
                still = [np.where((robust == 0) & (distance > radius + TOLERANCE), 1.0, robust) for radius in radii]
                points = tuple((radius, accuracy(each)) for radius, each in zip(radii, still, strict=True))
                yield Distances(row.label, column.label, norm, points)
