"""Snow: bright flakes, blurred by the wind (Kang et al., 2019).

    x' = clip(x + min(eps, sum_k flakes_k * streak_k)),    0 <= z <= eps,  mean z <= 0.2 eps

Seven layers of flakes fall on the points of a lattice of 4 pixels, each layer on a shifted one. A streak is a line with
soft edges, of the layer's own length and thickness; the wind's direction, the lengths and the thicknesses follow from
the image's own pixels. The attacker chooses how bright each flake is, and all of them together are bounded too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.randomness import fold, uniform
from harness.threats.parametric import Parametric, image_seeds

LATTICE, KERNEL, RATE = 4, 13, 0.2
"""The distance of flakes in a layer, the side of a streak's image, and the largest mean of z as a share of eps."""

SHIFTS = ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (3, 0))
"""By how much the lattice of each layer is shifted down and to the right."""

THICKNESS, LENGTHS, TILT = (1.0, 3.0), (5.0, 13.0), 0.35
"""Of streaks in pixels, between two bounds; and by how much a layer's direction differs from the wind's, in radians."""


@dataclass(frozen=True)
class Snow(Parametric):
    """Snow whose every flake is chosen.

    Args:
        eps: the brightness of the brightest flake, in pixel values.

    Source:
        Kang et al., 2019 (arXiv:1908.08016). They draw streaks at random for each batch, raise brightnesses to the
        fourth power, bound their mean in each 8 x 8 block of them, and whiten the whole image by a quarter, which no
        parameter decides; here it is not whitened.

    Example:
        >>> Snow.name, streaks(torch.tensor([5])).shape
        ('Snow', torch.Size([1, 7, 13, 13]))
    """

    name: ClassVar[str] = "Snow"
    source: ClassVar[str] = "arXiv:1908.08016"
    signed: ClassVar[bool] = False

    def shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        """(7, H/4, W/4), rounded up: the brightness of each flake of each layer."""
        return len(SHIFTS), *(math.ceil(side / LATTICE) for side in image[1:])

    def project(self, z: Tensor) -> Tensor:
        """Clips, then dims all flakes alike, until both bounds hold."""
        clipped = super().project(z)
        mean = clipped.flatten(1).mean(1).clamp(min=torch.finfo(z.dtype).tiny)
        kept = (RATE * float(self.eps) / mean).clamp(max=1)
        return clipped * kept.view(-1, *[1] * (z.dim() - 1))

    def used(self, z: Tensor) -> Tensor:
        return torch.maximum(super().used(z), z.double().flatten(1).mean(1).to(z.dtype) / RATE)

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        height, width = x.shape[2:]
        falling = z.double()
        layers = []
        for layer, (down, right) in enumerate(SHIFTS):
            flakes = F.pad(falling[:, layer, :, None, :, None], (0, LATTICE - 1, 0, 0, 0, LATTICE - 1))
            flakes = flakes.flatten(3).flatten(1, 2)
            layers.append(F.pad(flakes, (right, 0, down, 0))[:, :height, :width])
        flakes = torch.stack(layers, 1).flatten(0, 1)[None]
        kernels = streaks(image_seeds(x)).flatten(0, 1)[:, None]
        snow = F.conv2d(flakes, kernels, padding=KERNEL // 2, groups=len(kernels))[0].unflatten(0, (len(x), -1)).sum(1)
        return (x + snow[:, None].clamp(max=float(self.eps))).clamp(0, 1).to(x.dtype)


def streaks(seeds: Tensor) -> Tensor:
    """What the wind makes of a flake in each layer, (N, 7, 13, 13) float64, at most 1. seeds: (N,) int64."""
    drawn = uniform(fold(seeds, 3), (1 + 3 * len(SHIFTS),), torch.float64)
    own = drawn[:, 1:].unflatten(1, (3, len(SHIFTS)))[..., None, None]
    angle = math.pi * drawn[:, 0].view(-1, 1, 1, 1) + TILT * (2 * own[:, 0] - 1)
    length = LENGTHS[0] + (LENGTHS[1] - LENGTHS[0]) * own[:, 1]
    thickness = THICKNESS[0] + (THICKNESS[1] - THICKNESS[0]) * own[:, 2]
    line = torch.arange(KERNEL, dtype=torch.float64, device=seeds.device) - KERNEL // 2
    down, right = torch.meshgrid(line, line, indexing="ij")
    along, beside = right * angle.cos() + down * angle.sin(), right * angle.sin() - down * angle.cos()
    return ((length + 1) / 2 - along.abs()).clamp(0, 1) * ((thickness + 1) / 2 - beside.abs()).clamp(0, 1)
