"""JPEG: a change of the coefficients that JPEG stores (Shin & Song, 2017; Kang et al., 2019).

    x' = clip(D(E(x) + z)),    |z| <= eps

E turns an image into Y Cb Cr, takes the cosine transform of each block of 8 x 8 pixels, and divides by the quantisation
table of the standard's Annex K at quality 50; D undoes it. So eps is in steps of the quantiser, where 1/2 is as much as
rounding can do. Coefficients are not rounded, as in the published code: without a change, the image stays as it is.

    E(x) = (C x C^T) / Q,    D(c) = C^T (c Q) C,    C_uv = a_u cos((2 v + 1) u pi / 16),    a_0 = sqrt(1/8), a_u = 1/2
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.threats.parametric import Parametric

BLOCK, LEVELS, CENTRE = 8, 255, 128

TIE = 1e-9
"""By which values halfway between two steps are pushed up, so that rounding is the same on every device."""

LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Table K.1 of ITU-T T.81: rows are vertical frequencies."""

CHROMA_CORNER = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))
"""Table K.2: the lowest frequencies; 99 elsewhere."""

TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""RGB to Y Cb Cr, as JFIF does."""


@dataclass(frozen=True)
class JPEG(Parametric):
    """A change of the coefficients of JPEG.

    Args:
        eps: the largest change of a coefficient, in steps of the quantiser at quality 50.

    Source:
        Kang et al., 2019 (arXiv:1908.08016). Their code halves eps, so that theirs is twice this one, and averages
        colour over 2 x 2 pixels, which would change every image; here it keeps its resolution.

    Example:
        >>> from harness.quantity import Quantity
        >>> threat, x = JPEG(Quantity("0.25")), torch.rand(1, 1, 10, 12)
        >>> threat.shape((1, 10, 12))
        (1, 16, 16)
        >>> bool((threat.render(x, torch.zeros(1, 1, 16, 16)) - x).abs().max() < 1e-6)
        True
    """

    name: ClassVar[str] = "JPEG"
    source: ClassVar[str] = "arXiv:1908.08016"

    def shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        """(C, H, W) with sides rounded up to whole blocks; in each block, vertical frequencies from the top."""
        return image[0], *(BLOCK * math.ceil(side / BLOCK) for side in image[1:])

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        table = tables(x.shape[1], x.device)
        return decoded(encoded(x) / table + blocks(z.double()), table, x)


def tables(channels: int, device: torch.device, quality: int = 50) -> Tensor:
    """The steps of the quantiser, (C, 1, 1, 8, 8) float64, at a quality as libjpeg scales them."""
    luma = torch.tensor(LUMA, dtype=torch.float64, device=device)
    chroma = torch.full_like(luma, 99)
    chroma[:4, :4] = torch.tensor(CHROMA_CORNER, dtype=torch.float64, device=device)
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = ((torch.stack([luma, chroma, chroma][:channels]) * scale + 50) / 100).floor().clamp(1, LEVELS)
    return steps[:, None, None]


def encoded(x: Tensor) -> Tensor:
    """The cosine coefficients of images in [0, 1], (N, C, H/8, W/8, 8, 8) float64; their last pixels are repeated."""
    height, width = (-side % BLOCK for side in x.shape[2:])
    padded = F.pad(x.double(), (0, width, 0, height), mode="replicate") * LEVELS
    if x.shape[1] == len(TO_YCC):
        padded = _mixed(padded, _matrix(x))
        padded = torch.cat([padded[:, :1] - CENTRE, padded[:, 1:]], dim=1)
    else:
        padded = padded - CENTRE
    basis = _basis(x.device)
    return basis @ blocks(padded) @ basis.T


def decoded(coefficients: Tensor, table: Tensor, x: Tensor) -> Tensor:
    """The images of coefficients in steps of `table`, (N, C, H, W) in [0, 1]. x: images of the shape wanted."""
    basis = _basis(x.device)
    pixels = joined(basis.T @ (coefficients * table) @ basis)
    pixels = torch.cat([pixels[:, :1] + CENTRE, pixels[:, 1:]], dim=1)
    if x.shape[1] == len(TO_YCC):
        pixels = _mixed(pixels, _matrix(x).inverse())
    return (pixels[..., : x.shape[2], : x.shape[3]] / LEVELS).clamp(0, 1).to(x.dtype)


def blocks(images: Tensor) -> Tensor:
    """(N, C, H, W), of whole blocks, as blocks (N, C, H/8, W/8, 8, 8)."""
    return images.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).transpose(3, 4)


def joined(parts: Tensor) -> Tensor:
    """The inverse of `blocks`: (N, C, H/8, W/8, 8, 8) as (N, C, H, W)."""
    return parts.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def compressed(x: Tensor, quality: int) -> Tensor:
    """What a JPEG file of images (N, C, H, W) in [0, 1] holds, float64, before it is clipped; colour is halved.

    Args:
        quality: as for libjpeg, 1 to 100.
    """
    table = tables(x.shape[1], x.device, quality)
    if x.shape[1] == 1:
        return (_quantised(x * LEVELS - CENTRE, table[0]) + CENTRE) / LEVELS
    colours = _mixed(x * LEVELS, _matrix(x))
    luma = _quantised(colours[:, :1] - CENTRE, table[0]) + CENTRE
    height, width = x.shape[2:]
    whole = F.pad(colours[:, 1:], (0, -width % (2 * BLOCK), 0, -height % (2 * BLOCK)), mode="replicate")
    halved = _quantised(F.avg_pool2d(whole, 2), table[1])[..., : (height + 1) // 2, : (width + 1) // 2]
    chroma = F.interpolate(halved, scale_factor=2, mode="bilinear")[..., :height, :width]
    return _mixed(torch.cat([luma, chroma], 1), _matrix(x).inverse()) / LEVELS


def _quantised(planes: Tensor, steps: Tensor) -> Tensor:
    """Planes (N, C, H, W) around 0, whose coefficients are rounded to whole steps (1, 1, 8, 8)."""
    height, width = planes.shape[2:]
    basis = _basis(planes.device)
    whole = F.pad(planes, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
    coefficients = basis @ blocks(whole) @ basis.T / steps
    rounded = (coefficients + 0.5 + TIE).floor() * steps
    return joined(basis.T @ rounded @ basis)[..., :height, :width]


def _mixed(images: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("dc,nchw->ndhw", matrix, images)


def _matrix(like: Tensor) -> Tensor:
    return torch.tensor(TO_YCC, dtype=torch.float64, device=like.device)


def _basis(device: torch.device) -> Tensor:
    """C of the module's head, (8, 8) float64, orthogonal."""
    places = torch.arange(BLOCK, dtype=torch.float64, device=device)
    basis = 0.5 * torch.cos((2 * places[None] + 1) * places[:, None] * math.pi / (2 * BLOCK))
    basis[0] /= math.sqrt(2)
    return basis
