"""The stored record of each image and pairing, and the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import pyarrow as pa

SCHEMA_VERSION = 2

NO_CLASS = -1
"""The value for "no class": for a draw with logits that are not finite, or for votes without a clear winner."""

Verdict = Literal["robust", "fooled", "error"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Record:
    """The result of one attack on one defense for one image.

    Attributes:
        index: the image's index in its dataset split.
        label: the true class of the image.
        verdict: made by `verdict_of`: "robust" if the `vote` on the adversarial image is the true class, "fooled" if
            the image is misclassified, "error" if the attack or the defense failed; an error counts as neither.
        clean_votes, adv_votes: predicted class in each draw, on the clean and on the adversarial image; `NO_CLASS` if
            the logits were not finite. One draw for a deterministic defense; empty if an error prevented the
            predictions.
        clean_margins, adv_margins: true-class logit minus the largest other, by draw.
        linf, l2, l1, flow: distance from the clean to the adversarial image; flow is None unless the attack moves
            pixels.
        violation: excess over the budget, 0 within it. A violating image is discarded: the adversarial columns then
            describe the clean image, because the attack has no valid result.
        forwards, backwards: passes through the defense that the attack used for this image.
        seconds: the image's share of the time its shard took.
        seed: seed of the image's randomness in the attack.
        flags: remarks of the harness or of the attack.
        error: the failure in one line, for verdict "error".
        l0: how many values changed; None unless the threat model counts them.
    """

    index: int
    label: int
    verdict: Verdict
    clean_votes: list[int]
    adv_votes: list[int]
    clean_margins: list[float]
    adv_margins: list[float]
    linf: float
    l2: float
    l1: float
    flow: float | None
    violation: float
    forwards: int
    backwards: int
    seconds: float
    seed: int
    flags: list[str] = field(default_factory=list)
    error: str | None = None
    l0: float | None = None


SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("label", pa.int64()),
        ("verdict", pa.string()),
        ("clean_votes", pa.list_(pa.int64())),
        ("adv_votes", pa.list_(pa.int64())),
        ("clean_margins", pa.list_(pa.float32())),
        ("adv_margins", pa.list_(pa.float32())),
        ("linf", pa.float32()),
        ("l2", pa.float32()),
        ("l1", pa.float32()),
        ("flow", pa.float32()),
        ("violation", pa.float32()),
        ("forwards", pa.int64()),
        ("backwards", pa.int64()),
        ("seconds", pa.float32()),
        ("seed", pa.int64()),
        ("flags", pa.list_(pa.string())),
        ("error", pa.string()),
        ("l0", pa.float32()),
    ]
)

LATER = ("l0",)
"""Columns that earlier versions do not know. A file has one only where it says something, and hashes leave it out where
it does not, so that all other files are as they were."""


def vote(votes: Sequence[int]) -> int:
    """The class with more votes than any other, or `NO_CLASS` if the largest number of votes is tied.

    With two votes, or any even number, ties are frequent; with an odd number they need three classes or more.
    """
    counts = Counter(votes)
    most = max(counts.values(), default=0)
    leaders = [choice for choice, count in counts.items() if count == most]
    return leaders[0] if len(leaders) == 1 else NO_CLASS


def verdict_of(votes: Sequence[int], label: int, error: str | None = None) -> Verdict:
    """The verdict on an image. This is the only place where verdicts are made.

    Args:
        votes: predicted class in each draw on the adversarial image.
        label: the image's true class.
        error: the reason why the attack or the defense failed on it, or None.

    Example:
        >>> verdict_of([3, 3, 5], 3), verdict_of([3, 5], 3), verdict_of([3], 3, "the attack failed")
        ('robust', 'fooled', 'error')
    """
    if error is not None:
        return "error"
    return "robust" if vote(votes) == label else "fooled"


Rule = Literal["single", "mean", "majority", "worst"]


RULES: tuple[Rule, ...] = get_args(Rule)
