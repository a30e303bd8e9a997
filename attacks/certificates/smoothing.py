"""Randomized smoothing (Cohen et al., 2019): draws of the base classifier under Gaussian noise, counted by class.

    y_j = argmax_c f(x + sigma e_j)_c,    e_j ~ N(0, I)      n0 draws select a class, n further ones estimate its p

The noise of each draw, and the base classifier's own, comes from the image's seed and the number of the draw: the
counts depend neither on the batch nor on the other images.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from harness.certification.certificate import Certificate
from harness.certification.smoothed import SmoothedDefense, smoothing_noise
from harness.predict import exactly, query
from harness.randomness import derive, fold
from harness.target import Target

DRAW = derive("draw of a certificate")
"""Makes the draws of a certificate differ from all others from the same seeds."""


class Smoothing(Certificate):
    """Certifies a smoothed defense in L2 by randomized smoothing. It adds the noise itself, to unclipped images.

    Args:
        n0: draws that select a class.
        n: draws that estimate its probability; they bound the largest radius, see `Certificate`.
        alpha: the probability, for each image, that its radius is too large.

    Source:
        Cohen, Rosenfeld and Kolter, 2019 (arXiv:1902.02918), Algorithm 1.
    """

    method: ClassVar[str] = "randomized smoothing"
    independent = True

    def __init__(self, n0: int = 100, n: int = 1000, alpha: float = 0.001) -> None:
        super().__init__(n0, n, alpha)

    @torch.no_grad()
    def counts(self, target: Target, x: Tensor) -> Tensor:
        defense = target.defense
        assert isinstance(defense, SmoothedDefense)  # `unsuitable` has refused every other
        parts = [_counted(defense, target, x, part, draws) for part, draws in enumerate((self.n0, self.n))]
        return torch.stack(parts, 1)


def _counted(defense: SmoothedDefense, target: Target, x: Tensor, part: int, draws: int) -> Tensor:
    """How often each class was given in so many draws of each image, (N, K) int64."""
    counts: Tensor | None = None
    every = torch.arange(len(x) * draws, device=x.device)  # image i's draw j is number i draws + j
    for numbers in every.split(target.batch_size):
        images, draw = numbers // draws, numbers % draws
        seeds = fold(target.seeds[images], DRAW, part, draw)
        noisy = x[images] + float(defense.sigma) * smoothing_noise(seeds, x)
        with exactly():
            logits = query(defense, noisy, seeds, defense.from_noisy).float()
        if counts is None:
            counts = torch.zeros(len(x), logits.shape[1], dtype=torch.int64, device=x.device)
        finite = torch.isfinite(logits).all(1).long()
        counts.index_put_((images, logits.nan_to_num().argmax(1)), finite, accumulate=True)
        target.count(images)
    assert counts is not None  # there is an image, and a draw
    return counts
