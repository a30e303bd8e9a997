"""Gabor: noise of stripes, laid at a few places of the image (Kang et al., 2019).

    x' = clip(x + g min(1, eps / max |g|)),    g = k * z,    |z| <= eps

k is a Gabor function, exp(-|p|^2 / (2 s^2)) cos(2 pi p.u / l), summed over `sides` directions u and scaled to k(0) = 1.
Its width s, its wavelength l, its directions, and the places where z counts, one of 14 pixels, follow from the image's
own pixels. The attacker chooses the values of z at these places; no pixel changes by more than eps.
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

KERNEL, WAVES, WIDTHS, MOST_SIDES, SPACING = 23, (3.0, 5.75), (0.1, 0.4), 10, 14
"""The kernel's side; its number of waves across, and its width as a share of it, each between two bounds; the largest
number of directions; and the number of pixels for each place. All as published."""


@dataclass(frozen=True)
class Gabor(Parametric):
    """Noise of stripes.

    Args:
        eps: the largest change of a pixel, in pixel values.

    Source:
        Kang et al., 2019 (arXiv:1908.08016). They draw places and stripes at random for each batch, and stretch the
        noise to fill [0, eps] whatever its parameters.

    Example:
        >>> Gabor.name, places(torch.rand(2, 1, 14, 28)).flatten(1).sum(1).tolist()
        ('Gabor', [28.0, 28.0])
    """

    name: ClassVar[str] = "Gabor"
    source: ClassVar[str] = "arXiv:1908.08016"

    def shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        """(H, W): the strength at each pixel; it counts at the places of `places`."""
        return tuple(image[1:])

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        kernels = stripes(image_seeds(x))
        laid = (z.double() * places(x)).unsqueeze(0)
        noise = F.conv2d(laid, kernels[:, None], padding=KERNEL // 2, groups=len(x))[0][:, None]
        largest = noise.abs().flatten(1).amax(1).view(-1, 1, 1, 1)
        eps = float(self.eps)
        return (x + noise * (eps / largest.clamp(min=eps))).clamp(0, 1).to(x.dtype)


def places(x: Tensor) -> Tensor:
    """1 where noise is laid, 0 elsewhere, (N, H, W) float64: an exact number of places, drawn for each image."""
    height, width = x.shape[2:]
    drawn = uniform(fold(image_seeds(x), 1), (height * width,), torch.float64)
    count = max(1, round(height * width / SPACING))
    chosen = drawn.argsort(dim=1, stable=True)[:, :count]  # stable: equal draws come in one order on every device
    return torch.zeros_like(drawn).scatter(1, chosen, 1.0).unflatten(1, (height, width))


def stripes(seeds: Tensor) -> Tensor:
    """The kernel k of each image, (N, 23, 23) float64. seeds: (N,) int64."""
    drawn = uniform(fold(seeds, 2), (4,), torch.float64)
    line = torch.linspace(-0.5, 0.5, KERNEL, dtype=torch.float64, device=seeds.device)
    down, right = torch.meshgrid(line, line, indexing="ij")
    width = (WIDTHS[0] + (WIDTHS[1] - WIDTHS[0]) * drawn[:, 0]).view(-1, 1, 1)
    waves = (WAVES[0] + (WAVES[1] - WAVES[0]) * drawn[:, 1]).view(-1, 1, 1)
    sides = (1 + (MOST_SIDES * drawn[:, 3]).floor()).view(-1, 1, 1)
    kernel = torch.zeros_like(width)
    for side in range(MOST_SIDES):
        angle = math.pi * (drawn[:, 2].view(-1, 1, 1) + side / sides)
        wave = torch.cos(2 * math.pi * waves * (right * angle.cos() + down * angle.sin()))
        kernel = kernel + torch.where(side < sides, wave, 0.0)
    return torch.exp(-0.5 * (right.square() + down.square()) / width.square()) * kernel / sides
