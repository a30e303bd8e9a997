"""The outcomes of a pairing's images: records -> successes, draws, errors.

`records` is a table with the fields of `Record` as columns, as in `harness.results.load.CellResults`. Every array has
an entry per image, in the run's order, which is NaN where the image ended in an error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pandas as pd

from harness.guard.doubt import of_part
from harness.reporting.stats.accuracy import Successes, success
from harness.reporting.stats.worst import Draws
from harness.results.record import NO_CLASS, Rule
from harness.threat import TOLERANCE

VIOLATION = "violation"
"""The record's flag of an image outside the budget, which the report counts instead of repeating."""

LONGEST_REASON = 160
"""Characters of an error's message in a remark."""


def robust_successes(records: pd.DataFrame, rule: Rule) -> Successes:
    """Successes on the adversarial images, (n,)."""
    return _successes(_robust_votes(records), records["label"], rule)


def clean_successes(records: pd.DataFrame, rule: Rule) -> Successes:
    """Successes on the clean images under the same draws, (n,)."""
    return _successes(records["clean_votes"], records["label"], rule)


def robust_draws(records: pd.DataFrame) -> Draws:
    """Whether each draw on the adversarial image is right, (n, v); v is 1 where no image has finite logits."""
    return _draws(_robust_votes(records), records["label"])


def clean_draws(records: pd.DataFrame) -> Draws:
    """Whether each draw on the clean image is right, (n, v)."""
    return _draws(records["clean_votes"], records["label"])


def errors(records: pd.DataFrame) -> int:
    """The number of images that ended in an error under the attack."""
    return int((records["verdict"] == "error").sum())


def unanswered(records: pd.DataFrame) -> pd.DataFrame:
    """The records of images for which the defense has no finite logits without an attack."""
    return records[[not votes or NO_CLASS in votes for votes in records["clean_votes"]]]


def violations(records: pd.DataFrame) -> int:
    """The number of images outside the budget, on which the attack failed."""
    return int(((records["verdict"] != "error") & (records["violation"].astype(float) > TOLERANCE)).sum())


def reason(records: pd.DataFrame) -> str:
    """The first error's message, shortened, after a colon; nothing where there is no message."""
    text = next((" ".join(error.split()) for error in records["error"] if isinstance(error, str) and error), "")
    short = text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 1]}…"
    return f": {short}" if short else ""


def remarks_told(records: pd.DataFrame) -> list[str]:
    """What the records remark, once each, behind the number of images that it is about where these are not all."""
    flagged = Counter(flag for flags in records["flags"] for flag in flags if flag != VIOLATION)
    return [flag if count == len(records) else of_part(images_told(count), flag) for flag, count in flagged.items()]


def images_told(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _robust_votes(records: pd.DataFrame) -> list[list[int]]:
    pairs = zip(records["adv_votes"], records["verdict"], strict=True)
    return [[] if verdict == "error" else votes for votes, verdict in pairs]


def _successes(votes: Iterable[list[int]], labels: Iterable[int], rule: Rule) -> Successes:
    each = [success(given, label, rule) for given, label in zip(votes, labels, strict=True)]
    return np.array(each, dtype=np.float64)


def _draws(votes: Iterable[list[int]], labels: Iterable[int]) -> Draws:
    """The number of draws is the smallest of any image that has draws."""
    given = [[] if NO_CLASS in each else each for each in votes]
    count = min((len(each) for each in given if each), default=1)
    rows = [
        [float(guess == label) for guess in each[:count]] if each else [math.nan] * count
        for each, label in zip(given, labels, strict=True)
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), count)
