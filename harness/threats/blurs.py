"""The corruptions of CIFAR-10-C that blur, in pixels of images of 32 x 32.

gaussian_blur    a Gaussian of c pixels
defocus_blur     a disk of radius c_0, its edge softened by a Gaussian of c_1 on 3 x 3 pixels
motion_blur      the mean along a line of 2 c_0 + 1 pixels to one side, weighed by a Gaussian of c_1
zoom_blur        the mean of the image and of zooms into it, from 1 in steps of 0.01
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.randomness import uniform
from harness.threats.corruption import Corruption

DISK, STEEPEST, ZOOM_STEP, REACH = 8, math.pi / 4, 0.01, 4
"""Of a defocus disk, the pixels to each side; of motion, the largest angle to the horizontal; of zooms, the step; and
of a Gaussian, where it is cut off, in its standard deviations."""


class GaussianBlur(Corruption):
    """A Gaussian blur, with the border repeated."""

    name: ClassVar[str] = "gaussian_blur"
    levels = (0.4, 0.6, 0.7, 0.8, 1.0)

    def corrupt(self, x: Tensor, level: Any, seeds: Tensor) -> Tensor:
        line = gaussian(level, int(REACH * level + 0.5), x)
        return filtered(x, line[:, None] * line[None], "replicate")


class DefocusBlur(Corruption):
    """Out of focus: a disk, with the border reflected."""

    name: ClassVar[str] = "defocus_blur"
    levels = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))

    def corrupt(self, x: Tensor, level: Any, seeds: Tensor) -> Tensor:
        radius, softness = level
        line = torch.arange(-DISK, DISK + 1, dtype=x.dtype, device=x.device)
        disk = ((line[:, None].square() + line[None].square()) <= radius**2).to(x.dtype)
        edge = gaussian(softness, 1, x)
        soft = filtered((disk / disk.sum())[None, None], edge[:, None] * edge[None], "constant")[0, 0]
        reach = math.floor(radius) + 1
        kept = soft[DISK - reach : DISK + reach + 1, DISK - reach : DISK + reach + 1]
        return filtered(x, kept, "reflect")


class MotionBlur(Corruption):
    """The camera moves during the exposure, at up to 45 degrees to the horizontal."""

    name: ClassVar[str] = "motion_blur"
    levels = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))

    def corrupt(self, x: Tensor, level: Any, seeds: Tensor) -> Tensor:
        radius, width = level
        angle = STEEPEST * (2 * uniform(seeds, (1,), x.dtype) - 1)[:, 0]
        weights = gaussian(width, 2 * radius, x)[2 * radius :]
        weights, moved = weights / weights.sum(), torch.zeros_like(x)
        for step, weight in enumerate(weights.tolist()):
            moved = moved + weight * sampled(x, shift=(step * angle.cos(), step * angle.sin()))
        return moved


class ZoomBlur(Corruption):
    """The lens zooms in during the exposure."""

    name: ClassVar[str] = "zoom_blur"
    levels = (6, 11, 16, 21, 26)

    def corrupt(self, x: Tensor, level: Any, seeds: Tensor) -> Tensor:
        zooms = [sampled(x, zoom=1 + ZOOM_STEP * step) for step in range(level)]
        return (x + torch.stack(zooms).sum(0)) / (level + 1)


def gaussian(sigma: float, reach: int, like: Tensor) -> Tensor:
    """A normalised Gaussian on 2 reach + 1 pixels."""
    places = torch.arange(-reach, reach + 1, dtype=like.dtype, device=like.device)
    line = (-0.5 * (places / sigma).square()).exp()
    return line / line.sum()


def filtered(x: Tensor, kernel: Tensor, border: str) -> Tensor:
    """Every channel of x (N, C, H, W) filtered by a kernel of odd sides, (k, k)."""
    reach = len(kernel) // 2
    padded = F.pad(x, (reach,) * 4, mode=border)
    return F.conv2d(padded.flatten(0, 1)[:, None], kernel[None, None])[:, 0].unflatten(0, x.shape[:2])


def sampled(x: Tensor, zoom: float = 1.0, shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Images zoomed about their middle, or moved by pixels (N,) to the left and up; bilinear, the border repeated."""
    height, width = x.shape[2:]
    down, right = ((2 * torch.arange(side, dtype=x.dtype, device=x.device) + 1) / side - 1 for side in (height, width))
    rows, columns = torch.meshgrid(down / zoom, right / zoom, indexing="ij")
    grid = torch.stack([columns, rows], -1).expand(len(x), -1, -1, -1)
    if shift is not None:
        grid = grid + torch.stack([2 * shift[0] / width, 2 * shift[1] / height], -1)[:, None, None]
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
