"""The diffusion model of data whose classes are Gaussian, which is known in closed form.

x~ ~ N(mu_y, s^2 I) gives E[x~ | x_l] = mu_y + s^2 / (s^2 + l^2) (x_l - mu_y), with x_l = x~ + l e, and
p_l(x_l | y) = N(mu_y, (s^2 + l^2) I).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from defenses.diffusion.denoiser import NO_CLASS
from defenses.diffusion.schedule import Process


class GaussianDenoiser(nn.Module):
    """eps* of such data. Without a class it is the model of a Gaussian of mean 0 instead of the mixture.

    Args:
        means: mu_y, (K, C, H, W) on the scale of [-1, 1].
        s: the standard deviation of each class.
        process: the diffusion that times are of.
    """

    means: Tensor

    def __init__(self, means: Tensor, s: float, process: Process) -> None:
        super().__init__()
        self.register_buffer("means", torch.cat([means, torch.zeros_like(means[:1])]))  # NO_CLASS picks the last
        self.s, self.process = s, process

    def estimate(self, x_l: Tensor, level: Tensor, y: Tensor) -> Tensor:
        """E[x~ | x_l], (M, C, H, W). level: (M,)."""
        share = (self.s**2 / (self.s**2 + level.square())).to(x_l)[:, None, None, None]
        return torch.lerp(self.means[y], x_l, share)

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        y = torch.full((len(x_t),), NO_CLASS) if y is None else y
        signal, level = self.process.signal(t), self.process.level(t)
        x_l = x_t / signal.to(x_t)[:, None, None, None]
        return (x_l - self.estimate(x_l, level, y)) / level.to(x_t)[:, None, None, None]
