"""The outcomes of a pairing's images: records -> successes, draws, errors.

Every array has an entry per record, which is NaN where the image ended in an error.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.guard.doubt import of_part
from harness.process.visible_text import visible
from harness.quantity import TOLERANCE
from harness.reporting.stats.accuracy import Successes
from harness.reporting.stats.worst import Draws
from harness.results.columns import ABSENT, Columns, Side
from harness.results.record import NO_CLASS, Rule

VIOLATION = "violation"
"""The record's flag of an image outside the budget, which the report counts instead of repeating."""

LONGEST_REASON = 160
"""Characters of an error's message in a remark."""


def robust_successes(records: Columns, rule: Rule) -> Successes:
    """Successes on the adversarial images, (n,)."""
    successes = _successes(records, "adv", rule)
    successes[records.failed] = np.nan
    return successes


def clean_successes(records: Columns, rule: Rule) -> Successes:
    """Successes on the clean images under the same draws, (n,)."""
    return _successes(records, "clean", rule)


def robust_draws(records: Columns) -> Draws:
    """Whether each draw on the adversarial image is right, (n, v); v is 1 where no image has finite logits."""
    return _draws(records, "adv", answered(records, "adv") & ~records.failed)


def clean_draws(records: Columns) -> Draws:
    """Whether each draw on the clean image is right, (n, v)."""
    return _draws(records, "clean", answered(records, "clean"))


def answered(records: Columns, side: Side) -> NDArray[np.bool_]:
    """Which images have a draw, and finite logits in each, (n,)."""
    known: NDArray[np.bool_] = (records.draws(side) > 0) & (records.votes(side) != NO_CLASS).all(axis=1)
    return known


def errors(records: Columns) -> int:
    """The number of images that ended in an error under the attack."""
    return int(records.failed.sum())


def unanswered(records: Columns) -> Columns:
    """The records of images for which the defense has no finite logits without an attack."""
    return records.take(np.flatnonzero(~answered(records, "clean")))


def violations(records: Columns) -> int:
    """The number of images outside the budget, on which the attack failed."""
    return int((~records.failed & (records.numbers("violation") > TOLERANCE)).sum())


def reason(records: Columns) -> str:
    """The first error's message, shortened, after a colon; nothing where there is no message."""
    text = next((" ".join(visible(error).split()) for error in records.errors() if error), "")
    short = text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 1]}…"
    return f": {short}" if short else ""


def remarks_told(records: Columns) -> list[str]:
    """What the records remark of all images, once each; then one sentence of what they remark of some, with counts."""
    flagged: dict[str, int] = {}
    for flag, count in records.flag_counts().items():
        if flag != VIOLATION:
            flagged[visible(flag)] = flagged.get(visible(flag), 0) + count
    some = [of_part(images_told(count), flag) for flag, count in flagged.items() if count < len(records)]
    return [flag for flag, count in flagged.items() if count == len(records)] + ["; ".join(some)] * bool(some)


def images_told(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _successes(records: Columns, side: Side, rule: Rule) -> Successes:
    votes, labels, known = records.votes(side), records.numbers("label"), answered(records, side)
    counts, right = records.draws(side), votes == labels[:, None]
    successes = np.full(len(votes), np.nan)
    if not votes.shape[1]:
        return successes
    often = right.sum(axis=1)
    if rule == "single":
        successes[known] = right[known, 0]
    elif rule == "mean":
        successes[known] = often[known] / counts[known]
    elif rule == "worst":
        successes[known] = often[known] == counts[known]
    else:
        successes[known] = often[known] > _largest_group(np.where(right, ABSENT, votes)[known])
    return successes


def _largest_group(votes: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often the most frequent class appears in each row, (N, V) -> (N,); `ABSENT` is none."""
    ordered, places = np.sort(votes, axis=1), np.arange(votes.shape[1])
    begins = np.ones(votes.shape, dtype=bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    length = places + 1 - np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    largest: NDArray[np.int64] = np.where(ordered == ABSENT, 0, length).max(axis=1)
    return largest


def _draws(records: Columns, side: Side, known: NDArray[np.bool_]) -> Draws:
    """The number of draws is the smallest of any image that has draws."""
    votes, labels = records.votes(side), records.numbers("label")
    if not known.any():
        return np.full((len(votes), 1), np.nan)
    count = int(records.draws(side)[known].min())
    draws = np.full((len(votes), count), np.nan)
    draws[known] = votes[known, :count] == labels[known, None]
    return draws
