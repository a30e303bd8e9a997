"""A search without gradients, for images of which no view has any: random windows, judged by fresh draws.

    x'     =  project(x_i + 2 eps steepest(noise in a window of one sign per channel)),     x_{i+1} = x' if
    mean margin of x' over `DRAWS` fresh draws  >  that of x_i, else x_i

as Square does (Andriushchenko et al., 2020), whose windows shrink likewise: their side is sqrt(p) of the image's, with
p from 0.8 down to one pixel. What was won by a lucky mean is judged again by the caller.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.common.losses import margin
from harness.randomness import fold, rademacher, uniform
from harness.target import Target
from harness.threat import Pixels

DRAWS = 4
"""Of each proposal, and of the image it is held against."""

LARGEST = 0.8


def propose(
    judge: Target, x: Tensor, start: Tensor, rows: Tensor, y: Tensor, threat: Pixels, count: int, seeds: Tensor
) -> Tensor:
    """The best of `count` proposals, one after another, (M, C, H, W).

    Args:
        judge: a view with the defense's own forward values.
        x, start: the clean images and where to start, (M, C, H, W).
        rows: which images of the view they are, (M,); y: their labels, (M,); seeds: of their proposals, (M,).
    """

    def mean_margin(images: Tensor) -> Tensor:
        return torch.stack([margin(draw, y) for draw in judge.sample(images, rows, DRAWS)]).mean(0)

    best, level = start, mean_margin(start)
    for number in range(count):
        noise = _window(fold(seeds, number), x, LARGEST * (1 - number / count) ** 2)
        moved = threat.project(x, best + 2 * float(threat.eps) * threat.steepest(noise, best))
        found = mean_margin(moved)
        better = found > level
        best = torch.where(better[:, None, None, None], moved, best)
        level = torch.where(better, found, level)
    return best


def _window(seeds: Tensor, x: Tensor, share: float) -> Tensor:
    """One sign per channel within a window at random of each image, 0 outside, like x."""
    height, width = x.shape[-2:]
    sides = [max(1, min(length, round(length * share**0.5))) for length in (height, width)]
    corners = uniform(fold(seeds, 0), (2,), torch.float64)
    inside = torch.ones(len(x), 1, height, width, dtype=torch.bool, device=x.device)
    for axis, (length, side) in enumerate(zip((height, width), sides, strict=True)):
        first = (corners[:, axis] * (length - side + 1)).long()[:, None]
        place = torch.arange(length, device=x.device)[None]
        within = (place >= first) & (place < first + side)
        inside &= within[:, None, :, None] if axis == 0 else within[:, None, None, :]
    return rademacher(fold(seeds, 1), (x.shape[1], 1, 1), x.dtype) * inside
