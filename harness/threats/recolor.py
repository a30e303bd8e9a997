"""ReColorAdv: one function of colours for the whole image (Laidlaw & Feizi, 2019).

    x'(p) = LUV^-1(c + t(c)),  c = LUV(x(p)),    |t| <= eps per component

t is interpolated trilinearly between the points of a grid of 16 x 32 x 32 colours in CIE L*u*v*, whose components are
brought to [0, 1]: L / 100, (u + 100) / 200, (v + 100) / 200. Pixels of one colour keep one colour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.threats.parametric import Parametric

GRID = (16, 32, 32)
"""Points of the grid in L, u and v."""

TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9504))
"""Linear sRGB to CIE XYZ."""

GAMMA, OFFSET, LINEAR, KNEE = 2.4, 0.055, 12.92, 0.04045
"""Of sRGB: v / 12.92 up to the knee, ((v + 0.055) / 1.055)^2.4 beyond."""

DARK, LEAST = 8.0, 1e-4
"""L* up to which it is proportional to Y; and the least of the divisors L* and v'."""


@dataclass(frozen=True)
class ReColorAdv(Parametric):
    """One change of colours for all pixels.

    Args:
        eps: the largest change of each component, on the [0, 1] scale above.

    Source:
        Laidlaw & Feizi, 2019 (arXiv:1906.00299), who use 0.06. Their attack also keeps neighbouring colours together,
        by a term of its loss; that is no bound, and no part of the threat model.

    Example:
        >>> ReColorAdv.channels, ReColorAdv.shape(ReColorAdv, (3, 32, 32))
        ((3,), (16, 32, 32, 3))
    """

    name: ClassVar[str] = "ReColorAdv"
    source: ClassVar[str] = "arXiv:1906.00299"
    channels: ClassVar[tuple[int, ...]] = (3,)

    def shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        """(16, 32, 32, 3): at each point of the grid, the changes of L, u and v."""
        return *GRID, 3

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        colours = to_luv(x.double())
        return from_luv(colours + interpolated(z.double(), colours)).to(x.dtype)


def interpolated(z: Tensor, colours: Tensor) -> Tensor:
    """The changes of colours (N, 3, H, W) in [0, 1], trilinearly between points z (N, 16, 32, 32, 3)."""
    sizes = torch.tensor(GRID, device=z.device)
    places = (colours.flatten(2).transpose(1, 2).clamp(0, 1) * (sizes - 1)).detach()
    low = torch.minimum(places.floor().long(), sizes - 2)
    share = places - low
    points, total = z.flatten(1, 3), torch.zeros_like(places)
    for corner in torch.cartesian_prod(*[torch.arange(2, device=z.device)] * 3):
        index = low + corner
        flat = (index[..., 0] * GRID[1] + index[..., 1]) * GRID[2] + index[..., 2]
        weight = torch.where(corner == 1, share, 1 - share).prod(2, keepdim=True)
        total = total + weight * points.gather(1, flat[..., None].expand(-1, -1, 3))
    return total.transpose(1, 2).unflatten(2, colours.shape[2:])


def to_luv(rgb: Tensor) -> Tensor:
    """sRGB in [0, 1] to L / 100, (u + 100) / 200, (v + 100) / 200. Both (N, 3, H, W)."""
    linear = torch.where(rgb <= KNEE, rgb / LINEAR, ((rgb.clamp(min=KNEE) + OFFSET) / (1 + OFFSET)) ** GAMMA)
    x, y, z = torch.einsum("dc,nchw->dnhw", _matrix(rgb), linear)
    white_u, white_v = _white()
    total = (x + 15 * y + 3 * z).clamp(min=1e-12)
    lightness = torch.where(y <= (6 / 29) ** 3, (29 / 3) ** 3 * y, 116 * y.clamp(min=1e-12) ** (1 / 3) - 16)
    u, v = 13 * lightness * (4 * x / total - white_u), 13 * lightness * (9 * y / total - white_v)
    return torch.stack([lightness / 100, (u + 100) / 200, (v + 100) / 200], dim=1)


def from_luv(luv: Tensor) -> Tensor:
    """The inverse of `to_luv`, clipped to [0, 1]."""
    lightness = 100 * luv[:, 0].clamp(min=0)
    white_u, white_v = _white()
    divisor = 13 * lightness.clamp(min=LEAST)
    u = (200 * luv[:, 1] - 100) / divisor + white_u
    v = ((200 * luv[:, 2] - 100) / divisor + white_v).clamp(min=LEAST)
    y = torch.where(lightness <= DARK, lightness * (3 / 29) ** 3, ((lightness + 16) / 116) ** 3)
    xyz = torch.stack([y * 9 * u / (4 * v), y, y * (12 - 3 * u - 20 * v) / (4 * v)])
    linear = torch.einsum("dc,cnhw->ndhw", _matrix(luv).inverse(), xyz).clamp(0, 1)
    bright = (1 + OFFSET) * linear.clamp(min=KNEE / LINEAR) ** (1 / GAMMA) - OFFSET
    return torch.where(linear <= KNEE / LINEAR, LINEAR * linear, bright).clamp(0, 1)


def _matrix(like: Tensor) -> Tensor:
    return torch.tensor(TO_XYZ, dtype=like.dtype, device=like.device)


def _white() -> tuple[float, float]:
    """u' and v' of white."""
    x, y, z = (math.fsum(row) for row in TO_XYZ)
    return 4 * x / (x + 15 * y + 3 * z), 9 * y / (x + 15 * y + 3 * z)
