"""What a classifier expects its images to look like, when its checkpoint does not hold that itself.

z = (x - mean) / std,   x in [0, 1]
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Preprocessing(NamedTuple):
    """Normalisation of images in [0, 1]: one mean and std per channel, or one for all channels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Normalised images, (N, C, H, W), from images in [0, 1] of that shape, dtype and device."""
        mean, std = (x.new_tensor(values)[:, None, None] for values in self)
        return (x - mean) / std
