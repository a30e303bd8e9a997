"""The defense classifies the images again, and its predictions are compared with the recorded ones.

With z the replayed logits of a draw, v the recorded vote and s = max_k |z_k| their size, rounding explains a vote that
came out otherwise if both

    max_k z_k - z_v <= ROUNDING s        the recorded class nearly won, and
    |m - m_recorded| <= ROUNDING s       the margin m is, but for rounding, the recorded one.

Rounding goes with the size of the logits, not with their spread: a diffusion classifier's may lie around -3000 and
within 10 of each other. The first condition rests on nothing recorded, so no edited record is excused by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.datasets.batch import Images
from harness.defense import Defense
from harness.predict import draw_logits, predictions
from harness.results.record import Record

ROUNDING = 1e-4
"""Share of the logits' size that float32 explains. Other batch sizes on one CPU were seen to move a margin by 7e-7."""

MISSTATED = 1e-2
"""Share of the logits' size that no defense was seen to move a margin by on the machine that made the results. In
between lies what a defense makes of rounding that takes many steps, or the sign of a number."""

Sameness = Literal["equal", "borderline", "contradiction"]


@dataclass(frozen=True)
class ReplayedPredictions:
    """Of a replay. votes, margins: (draws, N); logits: (draws, N, K), float32, on the CPU."""

    votes: Tensor
    margins: Tensor
    logits: Tensor


@dataclass(frozen=True)
class VoteComparison:
    """How the draws of one image compare. moved: see `CellReport`. message: what differs most."""

    sameness: Sameness
    moved: float
    message: str = ""


def replay_votes(
    defense: Defense, images: Images, seeds: Tensor, *, votes: int, batch_size: int
) -> ReplayedPredictions:
    """As `harness.predict.predict_votes`, which gives the verdicts, with the logits that they come from.

    Args:
        images: on the defense's device; seeds: (N,) int64.
    """
    logits = draw_logits(defense, images.x, seeds, votes=votes, batch_size=batch_size)
    replayed = predictions(logits, images.y)
    return ReplayedPredictions(replayed.votes, replayed.margins, logits)


def compared(record: Record, replayed: ReplayedPredictions, row: int, *, clean: bool = False) -> VoteComparison:
    """One image's recorded votes against the replayed ones, draw by draw.

    Args:
        row: of the image in `replayed`.
        clean: compare the votes on the clean image instead of those on the adversarial one.
    """
    votes, margins = (record.clean_votes, record.clean_margins) if clean else (record.adv_votes, record.adv_margins)
    what = "clean image" if clean else "adversarial image"
    again, margins_again = replayed.votes[:, row].tolist(), replayed.margins[:, row].tolist()
    if not len(votes) == len(margins) == len(again):
        message = f"{what}: {len(votes)} votes and {len(margins)} margins are recorded, {len(again)} were replayed"
        return VoteComparison("contradiction", 0.0, message)
    sizes = replayed.logits[:, row].abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny).tolist()
    moved = [_moved(m, n) / s for m, n, s in zip(margins, margins_again, sizes, strict=True)]
    flips = [draw for draw, vote in enumerate(votes) if vote != again[draw]]
    largest = max(moved, default=0.0)
    if not flips:
        return VoteComparison("equal", largest, _describe(what, margins, margins_again, moved))
    excused = all(
        moved[d] <= ROUNDING and _gap(replayed.logits[d, row], votes[d]) <= ROUNDING * sizes[d] for d in flips
    )
    draw = flips[0]
    message = (
        f"{what}: voted {votes} with margin {margins[draw]:.4g}, replayed {again} with margin {margins_again[draw]:.4g}"
    )
    return VoteComparison("borderline" if excused else "contradiction", largest, message)


def _moved(margin: float, again: float) -> float:
    """How far apart two margins are; the one without a number is infinitely far from any other."""
    if math.isnan(margin) or math.isnan(again):
        return 0.0 if math.isnan(margin) and math.isnan(again) else math.inf
    return 0.0 if margin == again else abs(margin - again)


def _describe(what: str, margins: list[float], again: list[float], moved: list[float]) -> str:
    """The margin that moved most."""
    draw = moved.index(max(moved)) if moved else None
    return "" if draw is None else f"{what}: margin {margins[draw]:.4g}, replayed {again[draw]:.4g}"


def _gap(logits: Tensor, vote: int) -> float:
    """How far a class is from winning, (K,) -> float; infinite for a class that there is not."""
    if not 0 <= vote < len(logits):
        return torch.inf
    return (logits.max() - logits[vote]).item()
