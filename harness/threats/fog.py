"""Fog: a fractal haze before the image (Kang et al., 2019; the formula of Hendrycks & Dietterich, 2019).

    x' = (x + f) m / (m + max f),    m = max x,    0 <= f <= eps

f is a height map by the diamond-square algorithm on a torus: from one point of height 0, each round puts a point into
the middle of every square (the mean of its four corners, plus w z) and of every edge (the mean of its two ends and the
two new points beside it, plus w z); w halves from round to round. Kang et al. let the attacker choose z where the
algorithm draws at random. Here 0 <= z <= eps, and w makes the largest height that is possible equal to eps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.threats.parametric import Parametric

DECAY = 2.0
"""By which w shrinks from round to round."""

TINY = 1e-12
"""Of a black image, in place of m."""


@dataclass(frozen=True)
class Fog(Parametric):
    """Fog whose every wisp is chosen.

    Args:
        eps: the largest height of the fog, in pixel values.

    Source:
        Kang et al., 2019 (arXiv:1908.08016). Their fog is stretched to reach both 0 and eps, and thickest, eps,
        somewhere in every image; here it is no thicker than its parameters make it.

    Example:
        >>> Fog.name, heights(torch.ones(1, 15)).shape
        ('Fog', torch.Size([1, 4, 4]))
    """

    name: ClassVar[str] = "Fog"
    source: ClassVar[str] = "arXiv:1908.08016"
    signed: ClassVar[bool] = False

    def shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        """(S^2 - 1,), S the side rounded up to a power of 2: the new points of each round, one round after another."""
        return (map_side(image) ** 2 - 1,)

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        fog = heights(z.double()) / heights(torch.ones_like(z[:1], dtype=torch.float64)).amax()
        fog = fog[:, None, : x.shape[2], : x.shape[3]]
        brightest = x.double().flatten(1).amax(1).view(-1, 1, 1, 1) + TINY
        kept = brightest / (brightest + fog.flatten(1).amax(1).view(-1, 1, 1, 1))
        return ((x + fog) * kept).clamp(0, 1).to(x.dtype)


def map_side(image: tuple[int, ...]) -> int:
    """The side of the height map of an image (C, H, W): a power of 2."""
    return 1 << max(1, math.ceil(math.log2(max(image[1:]))))


def heights(z: Tensor, decay: float = DECAY) -> Tensor:
    """The height map of parameters (N, S^2 - 1) by the diamond-square algorithm on a torus: (N, S, S).

    decay: by which w shrinks from round to round.
    """
    points, start, weight = z.new_zeros(len(z), 1, 1), 0, 1.0
    while start < z.shape[1]:
        side = points.shape[1]
        size = side * side
        own = [z[:, start + part * size : start + (part + 1) * size].view(-1, side, side) for part in range(3)]
        right, below = points.roll(-1, 2), points.roll(-1, 1)
        middles = (points + right + below + below.roll(-1, 2)) / 4 + weight * own[0]
        across = (points + right + middles + middles.roll(1, 1)) / 4 + weight * own[1]
        down = (points + below + middles + middles.roll(1, 2)) / 4 + weight * own[2]
        rows = torch.stack([torch.stack([points, across], 3).flatten(2), torch.stack([down, middles], 3).flatten(2)], 2)
        points, start, weight = rows.flatten(1, 2), start + 3 * size, weight / decay
    return points
