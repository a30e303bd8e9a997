"""The unit of work that a run hands to an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from harness.predict import Predictions
from harness.results.store import ShardRange


@dataclass(frozen=True)
class Job:
    """Shards to compute: everything that a process must know beyond the suite and its images.

    Args:
        pairing: its name, DEFENSE/ATTACK.
        shards: those that are attacked together, in a row, see `harness.evaluation.together`.
        wanted: those of them that are not stored yet; by default all.
        values: the digest of the defense's values when it was examined, see `Examined`.
        clean: the defense's predictions on the clean images of some shards, where they are known already.
        source_images: the adversarial images of the attack's `source`, (N, C, H, W) on the CPU, where it has one.
        missing_sources: for each row without such an image, why: the source ended in an error.
    """

    pairing: str
    shards: tuple[ShardRange, ...]
    wanted: tuple[ShardRange, ...] = ()
    values: str | None = None
    clean: Mapping[ShardRange, Predictions] = field(default_factory=dict)
    source_images: Tensor | None = None
    missing_sources: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "wanted", self.wanted or self.shards)

    @property
    def bounds(self) -> ShardRange:
        """The first of its images, and the one after the last."""
        return self.shards[0][0], self.shards[-1][1]

    @property
    def images(self) -> int:
        """How many are attacked."""
        return self.bounds[1] - self.bounds[0]

    def __str__(self) -> str:
        return f"{self.pairing}, images {self.bounds[0]} to {self.bounds[1] - 1}"
