"""What a diffusion loss does to an image, and what it compares a noise predictor with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Corruption(Protocol):
    """From images and noise to noisy images and the noise that is wanted."""

    @property
    def per_image(self) -> int:
        """How many images, side by side in the channels, are given for each."""

    def __call__(self, x: Tensor, eps: Tensor, signal: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The target and the noisy images.

        Args:
            x: images on the scale of [0, 1], (P, per_image C, H, W).
            eps: standard normal noise, (P, J, C, H, W).
            signal, sigma: of the timesteps, (J,) or (P, J).

        Returns:
            Both (P, J, C, H, W).
        """


@dataclass(frozen=True)
class Plain:
    """x_t = sqrt(alpha_t) x~ + sigma_t eps, and eps is wanted."""

    per_image: int = 1

    def __call__(self, x: Tensor, eps: Tensor, signal: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return eps, images(signal) * (2 * x - 1)[:, None] + images(sigma) * eps


PLAIN = Plain()


def images(values: Tensor) -> Tensor:
    """(*B,) -> (*B, 1, 1, 1)."""
    return values[..., None, None, None]
