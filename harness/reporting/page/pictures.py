"""Tensors as pictures that a page can hold.

difference    1/2 + k (x' - x) per channel: grey where nothing changed, and cut off beyond the ends of the scale
flow          an arrow per pixel (or block of pixels), from where its value was taken to where it went
"""

from __future__ import annotations

import base64
import io
import math

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from harness.threat import identity_grid

ARROWS = 16
"""The largest number of arrows along each side."""


def png(image: Tensor) -> str:
    """A data URI. image: (C, H, W) in [0, 1], C = 1 or 3; NaN is shown as black."""
    levels = (image.detach().cpu().nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = levels[0].numpy() if len(levels) == 1 else levels.permute(1, 2, 0).contiguous().numpy()
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()


def gain_of(largest: float) -> int:
    """The largest k of 1, 2, 5, 10, ... for which differences of that size still fit the scale; at least 1."""
    if not 0 < largest < math.inf:
        return 1
    room = 0.5 / largest
    steps = (factor * 10**power for power in range(4) for factor in (1, 2, 5))
    return max((step for step in steps if step <= room * (1 + 1e-6)), default=1)


def difference(x: Tensor, x_adv: Tensor, gain: int) -> Tensor:
    """The picture of a difference, (C, H, W) in [0, 1]; see the module's head. x, x_adv: (C, H, W) in [0, 1]."""
    return (0.5 + gain * (x_adv - x)).clamp(0, 1)


def arrows(flow: Tensor) -> list[list[float]]:
    """Arrows [x, y, dx, dy] in pixels: (x, y) is where a value went, and it was taken at (x + dx, y + dy).

    Args:
        flow: (H, W, 2), last axis (x, y), in units of half the image's width and height.
    """
    height, width = flow.shape[:2]
    block = -(-max(height, width) // ARROWS)
    half = torch.tensor([width / 2, height / 2])
    places = (identity_grid(flow[None])[0].float().cpu() + 1) * half
    moves = flow.detach().cpu().float() * half
    both = torch.cat([places, moves], dim=2).permute(2, 0, 1)[None]
    means = F.avg_pool2d(both, block, ceil_mode=True)[0].flatten(1).T
    return [[round(value, 2) for value in arrow] for arrow in means.tolist()]
