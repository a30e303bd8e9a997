"""The unit of work that a run hands to an engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from harness.predict import Predictions
from harness.results.store import ShardRange


@dataclass(frozen=True)
class Job:
    """A shard to compute: everything that a process must know beyond the suite and its images.

    Args:
        pairing: its name, DEFENSE/ATTACK.
        bounds: the shard.
        values: the digest of the defense's values when it was examined, see `Examined`.
        clean: the defense's predictions on the clean images, where they are known already.
        source_images: the adversarial images of the attack's `source`, (N, C, H, W) on the CPU, where it has one.
        missing_sources: for each row without such an image, why: the source ended in an error.
    """

    pairing: str
    bounds: ShardRange
    values: str | None = None
    clean: Predictions | None = None
    source_images: Tensor | None = None
    missing_sources: dict[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.pairing}, images {self.bounds[0]} to {self.bounds[1] - 1}"
