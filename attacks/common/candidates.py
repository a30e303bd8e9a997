"""The image to keep of each original: of all that a search came upon, the one that is misclassified most often.

A search on a stochastic defense sees one draw, or the mean of a few, at each iterate. The iterate of largest loss seen
is then the one of the luckiest draw, and not the strongest. Here draws that no search has seen decide:

    rate(x')  =  #{draws i : argmax z_i(x') != y} / draws          the defense's own logits z_i, fresh noise

A challenger takes the place of the image kept if its rate is higher, or as high and its mean bounded margin higher.
What wins by a few draws was lucky in them, and would stay for that alone: so each round begins with fresh draws of the
image kept, and only those are compared with what challengers get. The bounded margin of a draw is

    tanh((max_{j != y} z_j - z_y) / s),    s = mean |max_{j != y} z_j - z_y| over draws of the original

a smooth stand-in for whether it is misclassified, that no draw of huge logits outweighs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.common.losses import margin
from harness.process import waits
from harness.target import Target

CLEAN = -1
"""In place of the number of a search, of an image that none was better than."""

ROUNDING = 1e-5
"""Margins below this share of the largest logit may change sign with the batch size: no misclassification."""


@dataclass(frozen=True)
class Score:
    """What fresh draws said of an image each, (M,): how many there were, how many were misclassified, and the sum of
    their bounded margins.
    """

    draws: Tensor
    wrong: Tensor
    bounded: Tensor

    @classmethod
    def of(cls, judge: Target, images: Tensor, y: Tensor, rows: Tensor, draws: int, scale: Tensor) -> Score:
        """Fresh draws of the defense itself.

        Args:
            judge: a view of the defense with its own forward values.
            images: (M, C, H, W), of the clean images `rows` (M,), with labels y (M,).
            scale: s of the module's head, (M,).
        """
        return cls.read(judge.sample(images, rows, draws), y, scale)

    @classmethod
    def read(cls, drawn: Tensor, y: Tensor, scale: Tensor) -> Score:
        """The same, of logits (draws, M, K)."""
        margins = torch.stack([margin(draw, y) for draw in drawn])
        wrong = (margins > ROUNDING * drawn.abs().amax(2)).sum(0)
        return cls(torch.full_like(wrong, len(drawn)), wrong, (margins / scale).tanh().sum(0))

    @property
    def rate(self) -> Tensor:
        """Share of misclassified draws, (M,) float64: equal counts give equal rates."""
        return self.wrong.double() / self.draws

    @property
    def level(self) -> Tensor:
        """Mean bounded margin, (M,) in [-1, 1]."""
        return self.bounded / self.draws

    def above(self, other: Score) -> Tensor:
        """Which images have a higher rate than the other's, or as high a one and a higher level: (M,) bool."""
        same = self.rate == other.rate
        return (self.rate > other.rate) | (same & (self.level > other.level))

    def take(self, which: Tensor) -> Score:
        """Of some of the images."""
        return Score(*(part[which] for part in self._parts()))

    def copy(self) -> Score:
        return Score(*(part.clone() for part in self._parts()))

    def put(self, rows: Tensor, other: Score) -> None:
        """The other's scores in place of those of the images `rows` (R,)."""
        for mine, others in zip(self._parts(), other._parts(), strict=True):
            mine[rows] = others

    def __add__(self, other: Score) -> Score:
        """Over the draws of both."""
        return Score(*(mine + others for mine, others in zip(self._parts(), other._parts(), strict=True)))

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.draws, self.wrong, self.bounded


class Candidates:
    """The image kept of each original, and what fresh draws said of it.

    Args:
        judge: a view with the defense's own forward values.
        x: the originals, (N, C, H, W), which are the first candidates; y: labels, (N,).
        least: draws of an image that must all be misclassified before the search lets it be.
    """

    def __init__(self, judge: Target, x: Tensor, y: Tensor, least: int) -> None:
        self.judge, self.y, self.least = judge, y, least if judge.defense.stochastic else 1
        self.images = x.clone()
        drawn = judge.sample(x, torch.arange(len(x), device=x.device), self.least)
        scale = torch.stack([margin(draw, y) for draw in drawn]).abs().mean(0)
        self.scale = torch.where(scale > 0, scale, 1)
        self.score = Score.read(drawn, y, self.scale)
        self.total = self.score.copy()
        """Over all draws of the image kept."""
        self.source = torch.full_like(y, CLEAN)
        """By which search the image kept was found, (N,), a number that the caller gives; `CLEAN` is the original."""

    def standing(self) -> Tensor:
        """Images of which some draw was classified correctly, or that few draws were made of, (S,)."""
        return waits.rows((self.total.wrong < self.total.draws) | (self.total.draws < self.least))

    def renew(self, rows: Tensor, draws: int) -> None:
        """Scores the images kept by fresh draws. A deterministic defense would only repeat itself."""
        if self.judge.defense.stochastic and len(rows):
            fresh = self._scored(self.images[rows], rows, draws)
            self.score.put(rows, fresh)
            self.total.put(rows, self.total.take(rows) + fresh)

    def challenge(self, images: Tensor, rows: Tensor, draws: int, source: int) -> Score:
        """Puts each challenger in the place of the image kept, if fresh draws prefer it.

        Args:
            images: (M, C, H, W), a challenger for each of the originals `rows` (M,).
            draws: of each challenger.
            source: the number of the search that found them.

        Returns:
            The challengers' scores.
        """
        score = self._scored(images, rows, draws if self.judge.defense.stochastic else 1)
        won = waits.rows(score.above(self.score.take(rows)))
        self.images[rows[won]] = images[won]
        self.score.put(rows[won], score.take(won))
        self.total.put(rows[won], score.take(won))
        self.source[rows[won]] = source
        return score

    def _scored(self, images: Tensor, rows: Tensor, draws: int) -> Score:
        return Score.of(self.judge, images, self.y[rows], rows, draws, self.scale[rows])
