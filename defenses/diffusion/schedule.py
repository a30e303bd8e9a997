"""Noise schedules: how much of an image and how much noise there is at each timestep (paper Eq. 1).

    x_t = sqrt(alpha_t) x + sigma_t eps,    alpha_t = prod_{s <= t} (1 - beta_s),    sigma_t^2 = 1 - alpha_t

Timesteps are the paper's, 1..T; images are in [-1, 1]. Everything is float64: at small t, 1 - alpha_t cancels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Schedule:
    """A variance-preserving schedule.

    Args:
        alphas: alpha_1..alpha_T, (T,) float64, falling, in (0, 1).
    """

    alphas: Tensor

    def __len__(self) -> int:
        return len(self.alphas)

    def signal(self, timesteps: Tensor) -> Tensor:
        """sqrt(alpha_t), float64. timesteps: int64 in 1..T."""
        return self.alphas[timesteps - 1].sqrt()

    def sigma(self, timesteps: Tensor) -> Tensor:
        """sigma_t, float64. timesteps: int64 in 1..T."""
        return (1 - self.alphas[timesteps - 1]).sqrt()


def discrete_vp(steps: int = 1000, beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """The VP diffusion of score-SDE in `steps` steps, beta_t rising linearly from beta_min/T to beta_max/T."""
    betas = torch.linspace(beta_min / steps, beta_max / steps, steps, dtype=torch.float64)
    return Schedule((1 - betas).cumprod(0))
