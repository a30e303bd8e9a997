"""Common corruptions at five severities (Hendrycks & Dietterich, 2019): what no attacker chooses.

    x' = corrupt(x, c_s, seed),    1 <= s <= eps

The constants c_s are those of CIFAR-10-C, in pixels of images of 32 x 32, and are used at every size. Severity and seed
are stored beside the image; the seed decides what is random.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.quantity import Quantity
from harness.randomness import fold
from harness.threats.parametric import Parametric

SEVERITIES, SEEDS = 5, 1 << 24
"""The number of severities; and of seeds, which float32 holds exactly as fractions."""


@dataclass(frozen=True)
class Corruption(Parametric):
    """A corruption of at most a severity.

    A subclass writes `corrupt`, and gives `levels`, the constants of each severity.

    Args:
        eps: the severity, 1 to 5.

    Source:
        Hendrycks & Dietterich, 2019 (arXiv:1903.12261).
    """

    source: ClassVar[str] = "arXiv:1903.12261"
    levels: ClassVar[tuple[Any, ...]] = ()

    @abstractmethod
    def corrupt(self, x: Tensor, level: Any, seeds: Tensor) -> Tensor:
        """Corrupted images, before they are clipped to [0, 1].

        Args:
            x: images, (N, C, H, W) float64 in [0, 1].
            level: the constants of the severity, from `levels`.
            seeds: of what is random, (N,) int64.
        """

    def shape(self, image: tuple[int, ...]) -> tuple[int, ...]:
        """(2,): the severity, and the seed as a fraction of 2^24."""
        return (2,)

    def parameters(self, seeds: Tensor) -> Tensor:
        """The parameters of images at severity eps, (N, 2) float32. seeds: any, (N,) int64."""
        share = (seeds % SEEDS).double() / SEEDS
        return torch.stack([torch.full_like(share, float(self.eps)), share], dim=1).float()

    def project(self, z: Tensor) -> Tensor:
        severity = z[:, 0].round().clamp(0, float(self.eps))
        return torch.stack([severity, (z[:, 1].clamp(0, 1 - 1 / SEEDS) * SEEDS).floor() / SEEDS], dim=1)

    def used(self, z: Tensor) -> Tensor:
        """The severity; inf where that is no whole number of 0 to 5, or the seed none of 0 to 2^24 - 1."""
        largest = type(self)(Quantity(SEVERITIES))
        return torch.where((largest.project(z) == z).all(1), z[:, 0], torch.inf)

    def random(self, uniform: Tensor) -> Tensor:
        return self.project(torch.stack([torch.full_like(uniform[:, 0], float(self.eps)), uniform[:, 1]], dim=1))

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        seeds, result = fold((z[:, 1].double() * SEEDS).round().long(), 4), x.double()
        for severity, level in enumerate(self.levels, 1):
            if bool((own := z[:, 0] == severity).any()):
                corrupted = self.corrupt(x.double(), level, seeds).clamp(0, 1)
                result = torch.where(own.view(-1, 1, 1, 1), corrupted, result)
        return result.to(x.dtype)
