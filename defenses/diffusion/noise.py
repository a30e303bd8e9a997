"""The eps of each (image, class, timestep, sample), a pure function of the image's seed.

Nothing is stored: a backward pass regenerates what its forward pass drew. Drawing eps anew for every term is the
paper's setting (Sec. 3.5); sharing it is the ablation of Sec. 4.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from harness.defense import Defense
from harness.randomness import fold, normal

Share = Literal["none", "classes", "timesteps", "both"]


FIXED_SEED = 0
"""The seed of every image's noise where the noise is fixed."""


def seeds_of(defense: Defense, x: Tensor, fresh: bool) -> Tensor:
    """Seeds of a call's noise, (N,) int64: the call's own, or the same for all images and calls."""
    return defense.seeds_for(x) if fresh else torch.full((len(x),), FIXED_SEED, device=x.device)


class NoiseSource(Protocol):
    """Draws eps; equal arguments give equal draws."""

    def __call__(
        self,
        seeds: Tensor,
        classes: Tensor,
        timesteps: Tensor,
        samples: Tensor,
        shape: Sequence[int],
        dtype: torch.dtype,
    ) -> Tensor:
        """Noise of (*B, *shape), B the common shape of four broadcastable int64 tensors: image seeds, y, t, sample."""


@dataclass(frozen=True)
class GaussianNoise:
    """Independent standard normal noise, or the same over classes, over timesteps, or over both.

    A draw depends on the class and the timestep themselves, not on which others are evaluated beside them.
    """

    share: Share = "none"

    def __call__(
        self,
        seeds: Tensor,
        classes: Tensor,
        timesteps: Tensor,
        samples: Tensor,
        shape: Sequence[int],
        dtype: torch.dtype,
    ) -> Tensor:
        if self.share in ("classes", "both"):
            classes = torch.zeros_like(classes)
        if self.share in ("timesteps", "both"):
            timesteps = torch.zeros_like(timesteps)
        keys = fold(seeds, classes, timesteps, samples)
        if keys.device.type != "cpu":  # drawing what is shared again is quicker than waiting for how many differ
            return normal(keys.flatten(), shape, dtype).view(*keys.shape, *shape)
        distinct, place = keys.unique(return_inverse=True)
        return normal(distinct, shape, dtype)[place]


def with_common_classes(noise: NoiseSource) -> NoiseSource:
    """The same source with one draw for all classes, as far as it knows how."""
    if not isinstance(noise, GaussianNoise):
        return noise
    return replace(noise, share="both" if noise.share in ("timesteps", "both") else "classes")
