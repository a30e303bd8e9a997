"""What verification found in one cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["holds", "fails", "not checked", "not replayed", "nothing there"]


@dataclass
class Report:
    """One pairing, as far as it was examined.

    Attributes:
        name: `DEFENSE/ATTACK`.
        threat: its budget, as the manifest writes it.
        total: images that the cell has, or that were asked for.
        images: those examined so far; within: of these, the ones within budget and honestly measured.
        equal, borderline, contradictions: images replayed, by how their votes compare with the recorded ones.
        errors: images that ended in an error, which have no vote to replay.
        recorded: images robust by their records; replayed: those robust in the replay.
        moved: largest difference between a recorded and a replayed margin, as a share of the logits' size.
        problems: what is wrong, one line each; none where all holds.
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
    unchecked: str | None = None
    unreplayed: str | None = None
    environment: tuple[str, ...] = ()

    @property
    def asked(self) -> int:
        """Images that were replayed."""
        return self.equal + self.borderline + self.contradictions

    @property
    def outcome(self) -> Outcome:
        if self.problems:
            return "fails"
        if self.unchecked:
            return "not checked"
        if not self.images:
            return "nothing there"
        return "not replayed" if self.unreplayed else "holds"
