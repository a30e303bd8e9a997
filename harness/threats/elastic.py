"""Elastic: pixels move along a smooth field (Kang et al., 2019).

    x'(p) = x(p + (G * z)(p)),    |z| <= eps pixels per component

G is a normalised Gaussian of 3 pixels, or of 3/32 of the side where that is less, cut off at four times that; the field
is reflected at the border, and images are sampled bilinearly, black outside. So no pixel moves by more than eps either
way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.threat import warp
from harness.threats.parametric import Parametric

SIGMA, SHARE, REACH = 3.0, 3 / 32, 4


@dataclass(frozen=True)
class Elastic(Parametric):
    """A smooth field of displacements.

    Args:
        eps: the largest displacement before smoothing, of each component, in pixels.

    Source:
        Kang et al., 2019 (arXiv:1908.08016), whose Gaussian has 3 pixels at every size, on 25 x 25 pixels.

    Example:
        >>> from harness.quantity import Quantity
        >>> threat, x = Elastic(Quantity("0.5")), torch.rand(1, 3, 8, 8)
        >>> z = threat.random(torch.rand(1, *threat.shape((3, 8, 8))))
        >>> threat.violation(x, threat.render(x, z), z).item(), threat.violation(x, x * 0.5, z).item()
        (0.0, inf)
    """

    name: ClassVar[str] = "Elastic"
    source: ClassVar[str] = "arXiv:1908.08016"

    def shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        """(2, H, W): by how much to the right and down, in pixels."""
        return 2, *image[1:]

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        height, width = x.shape[2:]
        field = smoothed(z.double(), min(SIGMA, SHARE * min(height, width)))
        right, down = field.unbind(1)
        return warp(x, torch.stack([right * (2 / width), down * (2 / height)], -1)).clamp(0, 1)


def smoothed(field: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of each channel, reflected at the border. field: (N, C, H, W)."""
    reach = max(1, round(REACH * sigma))
    places = torch.arange(-reach, reach + 1, device=field.device, dtype=field.dtype)
    kernel = (-0.5 * (places / sigma).square()).exp()
    kernel = (kernel / kernel.sum()).view(1, 1, -1, 1)
    for _ in range(2):
        index = reflected(field.shape[2], reach, field.device)
        rows = F.conv2d(field[:, :, index].flatten(0, 1)[:, None], kernel)
        field = rows.unflatten(0, field.shape[:2])[:, :, 0].transpose(2, 3)
    return field


def reflected(length: int, reach: int, device: torch.device | None = None) -> Tensor:
    """Indices of a row of pixels, and of `reach` more at each end, in which the row is reflected, (length + 2 reach,).

    Example:
        >>> reflected(3, 4).tolist()
        [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]
    """
    period = max(1, 2 * (length - 1))
    places = torch.arange(-reach, length + reach, device=device) % period
    return torch.minimum(places, period - places)
