"""The corruptions of CIFAR-10-C that move pixels or cover them.

glass_blur           blurred by a Gaussian of c_0, each pixel replaced by the one a step of 0 or 1 up and to the left of
                     it, c_1 times, and blurred again
elastic_transform    mapped affinely, as three points of a triangle are moved by up to c_2, and along a field: noise in
                     -1..1, smoothed by a Gaussian of c_1, times c_0; each c a share of the side
spatter              l = normal noise of mean c_0 and deviation c_1, smoothed by a Gaussian of c_2, 0 where below c_3
    water            x + c_4 (l / max l) turquoise
    mud              (1 - m) x + m brown,    m = [l > 0] smoothed by a Gaussian of c_4, 0 where below 0.8
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.randomness import fold, normal, uniform
from harness.threats.blurs import REACH, filtered, gaussian
from harness.threats.corruption import Corruption
from harness.threats.jpeg import LEVELS

ROUNDING = 1e-4
"""Of a 255th: what is nearer than this to a whole number of them is that number, which float32 cannot hold."""

FIELD_REACH = 3
"""Where the Gaussian that smooths a field is cut off, in its standard deviations."""

STAYS = 2
"""Rows and columns at the top and the left that a blur through glass leaves in their places."""

TURQUOISE, BROWN, LUMA = (175, 238, 238), (63, 42, 20), (0.299, 0.587, 0.114)
"""The colours of water and mud, in 255ths; and the weights of red, green and blue in grey."""

SOLID = 0.8
"""Mud that is thinner than this is none."""


class GlassBlur(Corruption):
    """Through frosted glass: pixels take the value of a neighbour."""

    name: ClassVar[str] = "glass_blur"
    levels = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))

    def corrupt(self, x: Tensor, level: Any, seeds: Tensor) -> Tensor:
        sigma, times = level
        x = (blurred(x, sigma) * LEVELS + ROUNDING).floor() / LEVELS
        for number in range(times):
            drawn = uniform(fold(seeds, number), (2, *x.shape[2:]), x.dtype) < 0.5
            x = from_neighbours(x, drawn[:, 0], drawn[:, 1])
        return blurred(x, sigma)


class ElasticTransform(Corruption):
    """Stretched and sheared as a whole, and a little here and there."""

    name: ClassVar[str] = "elastic_transform"
    levels = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))

    def corrupt(self, x: Tensor, level: Any, seeds: Tensor) -> Tensor:
        height, width = x.shape[2:]
        strength, sigma, jitter = (share * min(height, width) for share in level)
        third, middle = min(height, width) // 3, x.new_tensor([width // 2, height // 2])
        corners = middle + third * x.new_tensor([[1, 1], [1, -1], [-1, -1]])
        moved = corners + jitter * (2 * uniform(fold(seeds, 0), (3, 2), x.dtype) - 1)
        x = mapped(x, corners, moved)
        if not strength:
            return x
        return displaced(x, strength * smooth(2 * uniform(fold(seeds, 1), (2, height, width), x.dtype) - 1, sigma))


class Spatter(Corruption):
    """Drops of water, at severities 1 to 3, or mud."""

    name: ClassVar[str] = "spatter"
    levels = (
        (0.62, 0.1, 0.7, 0.7, 0.5, False),
        (0.65, 0.1, 0.8, 0.7, 0.5, False),
        (0.65, 0.3, 1.0, 0.69, 0.5, False),
        (0.65, 0.1, 0.7, 0.69, 0.6, True),
        (0.65, 0.1, 0.5, 0.68, 0.6, True),
    )

    def corrupt(self, x: Tensor, level: Any, seeds: Tensor) -> Tensor:
        mean, deviation, sigma, least, last, muddy = level
        liquid = blurred(mean + deviation * normal(seeds, (1, *x.shape[2:]), x.dtype), sigma)
        wet = liquid >= least
        if muddy:
            mud = blurred(wet.to(x.dtype), last)
            mud = torch.where(mud >= SOLID, mud, 0.0)
            return (1 - mud) * x + mud * coloured(BROWN, x)
        water = torch.where(wet, liquid, 0.0)
        highest = water.flatten(1).amax(1).view(-1, 1, 1, 1)
        return x + last * water / torch.where(highest > 0, highest, 1.0) * coloured(TURQUOISE, x)


def blurred(x: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of images (N, C, H, W), with the border repeated."""
    line = gaussian(sigma, int(REACH * sigma + 0.5), x)
    return filtered(x, line[:, None] * line[None], "replicate")


def from_neighbours(x: Tensor, up: Tensor, left: Tensor) -> Tensor:
    """Each pixel of x (N, C, H, W), or the one above it, to its left, or both, where up and left, (N, H, W), say so."""
    height, width = x.shape[2:]
    rows = torch.arange(height, device=x.device)[:, None].expand(height, width)
    columns = torch.arange(width, device=x.device)[None].expand(height, width)
    moves = (rows >= STAYS) & (columns >= STAYS)
    index = (rows - (up & moves).long()) * width + columns - (left & moves).long()
    return x.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, x.shape[1], -1)).view_as(x)


def mapped(x: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """x under the affine map that takes three points to three others; bilinear, reflected at the outermost pixels.

    Args:
        x: (N, C, H, W).
        here: (3, 2), and there: (N, 3, 2), in pixels to the right and down.
    """
    height, width = x.shape[2:]
    ones = torch.ones_like(here[:, :1])
    back = torch.linalg.solve(torch.cat([there, ones.expand(len(there), 3, 1)], 2), here.expand(len(there), 3, 2))
    places = places_of(x).flatten(0, 1)
    found = torch.cat([places, torch.ones_like(places[:, :1])], 1) @ back  # (N, H W, 2)
    grid = 2 * found / found.new_tensor([max(1, width - 1), max(1, height - 1)]) - 1
    return F.grid_sample(
        x, grid.view(-1, height, width, 2), mode="bilinear", padding_mode="reflection", align_corners=True
    )


def displaced(x: Tensor, field: Tensor) -> Tensor:
    """x (N, C, H, W) sampled a field (N, 2, H, W) of pixels to the right and down; bilinear, reflected at the edges."""
    height, width = x.shape[2:]
    found = places_of(x) + field.permute(0, 2, 3, 1)
    grid = (2 * found + 1) / found.new_tensor([width, height]) - 1
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def places_of(x: Tensor) -> Tensor:
    """The pixels' places, to the right and down, (H, W, 2)."""
    down, right = (torch.arange(side, dtype=x.dtype, device=x.device) for side in x.shape[2:])
    return torch.stack(torch.meshgrid(right, down, indexing="xy"), -1)


def smooth(field: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of a field (N, C, H, W), reflected at its edges."""
    reach = int(FIELD_REACH * sigma + 0.5)
    line = gaussian(sigma, reach, field)
    for _ in range(2):
        index = edge_reflected(field.shape[2], reach).to(field.device)
        rows = F.conv2d(field[:, :, index].flatten(0, 1)[:, None], line.view(1, 1, -1, 1))
        field = rows.unflatten(0, field.shape[:2])[:, :, 0].transpose(2, 3)
    return field


def edge_reflected(length: int, reach: int) -> Tensor:
    """Indices of a row of pixels, and of `reach` more at each end, in which it is reflected, the last pixel twice.

    Example:
        >>> edge_reflected(3, 4).tolist()
        [2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0]
    """
    places = torch.arange(-reach, length + reach) % (2 * length)
    return torch.minimum(places, 2 * length - 1 - places)


def coloured(colour: tuple[int, ...], like: Tensor) -> Tensor:
    """A colour in 255ths, (C, 1, 1) in [0, 1]; of grey images, its grey."""
    rgb = like.new_tensor(colour) / LEVELS
    return (rgb if like.shape[1] == len(colour) else (rgb * like.new_tensor(LUMA)).sum(0, keepdim=True)).view(-1, 1, 1)
