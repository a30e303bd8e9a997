"""Radii against the counts that they follow from, counts against new draws, and certificates against attacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.certification.certificate import Certificate
from harness.certification.smoothing import certify, fault_of
from harness.datasets.batch import Images
from harness.defense import Defense
from harness.results.bounds import bounds
from harness.results.facts import CellFacts, DefenseFacts
from harness.results.load import read_run
from harness.results.record import Record
from harness.target import Target

RELATIVE, ABSOLUTE = 1e-5, 1e-6
"""Differences between a recorded and a computed radius that float32 explains."""

FLIPPED = 2e-3
"""The share of an image's draws whose class may change by rounding, as on another machine: one draw at least."""


def misstated_radii(
    facts: CellFacts, defense: DefenseFacts, records: list[Record], tensors: dict[str, Tensor]
) -> Iterator[str]:
    """What is wrong with the counts or the radii of a shard, without asking the defense."""
    if facts.certificate is None:
        if "counts" in tensors:
            yield "there are counts of a certificate, and the manifest describes none"
        return
    if "counts" not in tensors:
        yield from (f"image {r.index}: it has no counts, and no error" for r in records if r.verdict != "error")
        return
    counts, numbers = tensors["counts"].numpy(), facts.certificate
    if fault := fault_of(counts, numbers.n0, numbers.n):
        yield fault
        return
    sigma, alpha = defense.smoothing_sigma or 0.0, numbers.alpha
    right = certify(counts.astype(np.int64), numbers.n, sigma=sigma, alpha=alpha).radii
    for record, said, radius in zip(records, tensors["radii"].tolist(), right.tolist(), strict=True):
        if not abs(said - radius) <= ABSOLUTE + RELATIVE * radius:
            yield f"image {record.index}: the recorded radius is {said:.6g}, its counts make it {radius:.6g}"


def redrawn(
    certificate: Certificate,
    defense: Defense,
    images: Images,
    seeds: Tensor,
    records: list[Record],
    counts: Tensor,
    batch_size: int,
) -> Iterator[tuple[str, bool]]:
    """The images whose counts come out otherwise, with whether rounding can explain it.

    Args:
        defense: on the device of the images.
        seeds: of the certificate, (N,) int64.
        counts: as they were stored, (N, 2, K).
    """
    target = Target(defense, images.x, seeds, batch_size=batch_size)
    now = certificate.counts(target, images.x).cpu().to(counts)
    moved = (now - counts).abs().sum(2) / 2 if now.shape == counts.shape else torch.full(counts.shape[:2], torch.inf)
    for record, (first, second) in zip(records, moved.tolist(), strict=True):
        if record.verdict != "error" and (first or second):
            explained = first <= _most(certificate.n0) and second <= _most(certificate.n)
            yield (
                f"image {record.index}: new draws have another class than the recorded ones, {first:g} of "
                f"{certificate.n0} and {second:g} of {certificate.n}",
                explained,
            )


def contradicted(root: Path, facts: CellFacts) -> Iterator[str]:
    """The images on which an attack of the run contradicts a certificate of it."""
    for found in bounds(read_run(root)):
        if (found.defense, found.certificate) == (facts.defense, facts.attack):
            yield from (f"FAULT: {fault.describe()}" for fault in found.faults)


def _most(draws: int) -> float:
    return max(1.0, FLIPPED * draws)
