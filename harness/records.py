"""What is kept of each image and pairing, and what follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

SCHEMA_VERSION = 2

NO_CLASS = -1
"""Stands for a class where there is none: in a draw whose logits were not finite, or of votes that decide for none."""

Verdict = Literal["robust", "fooled", "error"]


@dataclass(frozen=True)
class Record:
    """One image under one attack on one defense.

    Attributes:
        index: the image's index in its dataset split.
        label: its true class.
        verdict: "robust" if `vote` of the votes on the adversarial image is the true class, "fooled" if not, "error" if
            the attack or the defense failed; an error counts as neither.
        clean_votes, adv_votes: predicted class in each draw, on the clean and on the adversarial image; `NO_CLASS` if
            the logits were not finite. One draw for a deterministic defense; empty where an error kept the defense from
            answering.
        clean_margins, adv_margins: true-class logit minus the largest other, by draw.
        linf, l2, l1, flow: distance from the clean to the adversarial image; no flow unless the attack moves pixels.
        violation: excess over the budget, 0 within it. A violating image is discarded: the adversarial columns then
            speak of the clean image, as the attack found nothing valid.
        forwards, backwards: passes of this image through the defense that the attack spent.
        seconds: the image's share of the time its shard took.
        seed: seed of the image's randomness in the attack.
        flags: remarks of the harness or of the attack.
        error: the failure in one line, for verdict "error".
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
    ]
)


def vote(votes: Sequence[int]) -> int:
    """The class with more votes than any other, or `NO_CLASS`: classes that tie for the lead are not told apart.

    With two votes, or any even number, ties are frequent; with an odd number they need three classes or more.
    """
    counts = Counter(votes)
    most = max(counts.values(), default=0)
    leaders = [choice for choice, count in counts.items() if count == most]
    return leaders[0] if len(leaders) == 1 else NO_CLASS
