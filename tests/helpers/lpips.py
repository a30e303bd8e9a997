"""The LPIPS distance by its definition, pixel by pixel."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


def distance(network: Any, x: Tensor, x_adv: Tensor) -> float:
    """Of two images, (1, C, H, W), to a network that sees them as 2 x - 1."""
    pairs = zip(network.activations(2 * x - 1), network.activations(2 * x_adv - 1), strict=True)
    total = 0.0
    for a, b in pairs:
        pixels = a.shape[2] * a.shape[3]
        for row in range(a.shape[2]):
            for column in range(a.shape[3]):
                one, other = a[0, :, row, column], b[0, :, row, column]
                difference = one / one.norm().clamp(min=1e-12) - other / other.norm().clamp(min=1e-12)
                total += difference.square().sum().item() / pixels
    return math.sqrt(total)
