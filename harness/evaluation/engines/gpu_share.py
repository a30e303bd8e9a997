"""The part of a GPU that a job takes: all of it, until the memory of its pairing has been measured on a job.

    share = 1 / k,  k = floor(memory of the GPU / (SAFETY x largest memory measured + CONTEXT)),  1 <= k <= MOST

So k jobs of such a pairing fill a GPU. What is measured is what PyTorch has reserved there, the defense included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from harness.results.record import Record

SAFETY = 1.25
"""Times as much memory as the largest that was measured: other images of the pairing may take more."""

CONTEXT = 1 << 30
"""Bytes that a process takes on a GPU beyond what PyTorch reserves: the CUDA context and its libraries."""

MOST = 8
"""The largest number of jobs that share a GPU."""


@dataclass(frozen=True)
class GpuMemory:
    """What a call took of a GPU. peak: the largest number of bytes reserved at a time; total: bytes of the GPU."""

    peak: int
    total: int


def begin_measuring(device: str) -> None:
    """Forgets what this process reserved earlier. device: "cpu", or "cuda:1" for the second GPU."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)


def measured(device: str) -> GpuMemory | None:
    """What this process has reserved at most since `begin_measuring`; None on a CPU."""
    if device == "cpu":
        return None
    return GpuMemory(torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory)


def share_of(peak: int, total: int) -> float:
    """The part of a GPU for a job, such that a whole number of such jobs fills it.

    Args:
        peak: the largest memory measured, in bytes; total: of the GPU.

    Example:
        >>> share_of(peak=20 << 30, total=80 << 30)
        0.3333
        >>> share_of(peak=70 << 30, total=80 << 30)
        1.0
    """
    together = int(total / (SAFETY * peak + CONTEXT))
    return int(10_000 / max(1, min(together, MOST))) / 10_000  # Ray counts in ten-thousandths


class Shares:
    """The share of each pairing.

    Args:
        known: by pairing, the largest memory that was measured, in bytes. It is kept up to date.
        given: a share that the user has chosen for all jobs, or None.
    """

    def __init__(self, known: dict[str, int], given: float | None = None) -> None:
        self._known, self._given = known, given
        self._total: int | None = None

    def learn(self, memory: GpuMemory, pairing: str | None = None, records: Sequence[Record] = ()) -> None:
        """Takes in a measurement.

        Of a pairing, it counts if an image of the job was attacked: one that is misclassified from the start takes
        little. If memory ran out, the pairing gets GPUs of its own from then on.

        Args:
            pairing: if shards were computed, with their records.
        """
        self._total = min(memory.total, self._total or memory.total)
        if pairing is None:
            return
        if any("out of memory" in (record.error or "") for record in records):
            self._known[pairing] = memory.total
        elif any(record.label in record.clean_votes and not record.error for record in records):
            self._known[pairing] = max(memory.peak, self._known.get(pairing, 0))

    def of(self, pairing: str | None) -> float:
        """The part of a GPU for a job of a pairing, or for another call."""
        if self._given is not None:
            return self._given
        if pairing not in self._known or self._total is None:
            return 1.0
        return share_of(self._known[pairing], self._total)

    @property
    def smallest(self) -> float:
        """The smallest share of any pairing."""
        return min([self.of(None), *map(self.of, self._known)])
