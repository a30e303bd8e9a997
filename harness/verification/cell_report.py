"""What verification found in one pairing, or in the manifest itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["holds", "fails", "in part", "not checked", "not replayed", "no images"]


@dataclass
class CellReport:
    """One pairing, as far as it was examined; or the manifest, which has no images.

    Attributes:
        name: `DEFENSE/ATTACK`, or `run.json`.
        threat: its budget, as the manifest writes it.
        total: images that the pairing has, or as many as `limit` allows.
        images: those examined so far; within: of these, the ones within budget and honestly measured.
        equal, borderline, contradictions: images replayed, by how their votes compare with the recorded ones.
        errors: images that ended in an error, which prove nothing.
        recorded: images robust by their records; replayed: those robust in the replay.
        moved: largest difference between a recorded and a replayed margin, as a share of the logits' size.
        problems: what is wrong, one line each; none where all holds.
        gaps: what could not be verified, likewise.
        remarks: what is no fault, and should be known.
        unchecked, unreplayed: why nothing was examined, or why nothing was replayed.
        environment: versions and hardware that were others when the results were made.
    """

    name: str
    threat: str
    total: int
    images: int = 0
    within: int = 0
    equal: int = 0
    borderline: int = 0
    contradictions: int = 0
    errors: int = 0
    recorded: int = 0
    replayed: int = 0
    moved: float = 0.0
    problems: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    unchecked: str | None = None
    unreplayed: str | None = None
    environment: tuple[str, ...] = ()

    @property
    def answered(self) -> int:
        """Images that were replayed."""
        return self.equal + self.borderline + self.contradictions

    @property
    def outcome(self) -> Outcome:
        if self.problems:
            return "fails"
        if self.unchecked:
            return "not checked"
        if self.total and not self.images:
            return "no images"
        if self.unreplayed:
            return "not replayed"
        return "in part" if self.gaps or self.errors or self.images < self.total else "holds"
