"""How far an attack is, by the passes that its images have taken so far."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.attack import Attack
    from harness.target import Target

STANDING = 0.5
"""Of the passes of the image that took most: the attack is done with an image that has less than this share of them."""


@dataclass(frozen=True)
class Progress:
    """How far the attack on some images is.

    Args:
        passes: forward and backward passes so far, over all images.
        share: of the attack that is done, from 0 to 1; None where the attack does not say how many passes it takes.
    """

    passes: int
    share: float | None

    @classmethod
    def of(cls, target: Target, attack: Attack) -> Progress:
        """The share is the mean over images of passes taken / passes at most (`Attack.cost_on`), and 1 for one that the
        attack is done with, since it takes no more of them. target: the attack's view of the defense.
        """
        spent = (target.forwards + target.backwards).double().cpu()
        passes, most = int(spent.sum()), cls._most(target, attack)
        if most is None:
            return cls(passes, None)
        share = (spent / most).clamp(max=1)
        share[spent < STANDING * spent.max()] = 1
        return cls(passes, float(share.mean()))

    @staticmethod
    def _most(target: Target, attack: Attack) -> float | None:
        from harness.attack import UNKNOWN_CLASSES

        with suppress(Exception):  # a user's method; it only decides what a display shows
            cost = attack.cost_on(target.defense, target.defense.num_classes or UNKNOWN_CLASSES)
            most = float(cost.forwards + cost.backwards)
            return most if 0 < most < float("inf") else None
        return None
