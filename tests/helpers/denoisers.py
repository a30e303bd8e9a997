"""A noise predictor small enough to differentiate without our machinery, and the diffusion loss spelled out."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from defenses.diffusion.loss import DiffusionLoss

NUM_CLASSES = 10


class ToyDenoiser(nn.Module):
    """Two convolutions, a class table whose last row means no class, and counters of what was asked."""

    def __init__(self, channels: int, num_classes: int = NUM_CLASSES) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.read, self.write = nn.Conv2d(channels, 6, 3, padding=1), nn.Conv2d(6, channels, 3, padding=1)
        self.classes = nn.Parameter(torch.empty(num_classes + 1, 6))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
        self.rows = self.largest = 0

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.rows, self.largest = self.rows + len(x_t), max(self.largest, len(x_t))
        embedding = self.classes[y] * (t / 500)[:, None]
        return self.write(torch.tanh(self.read(x_t) + embedding[:, :, None, None]))


def naive_loss(loss: DiffusionLoss, x: Tensor, classes: Tensor, seeds: Tensor) -> Tensor:
    """The mean-reduced loss, one network evaluation at a time, in one graph: (N, K)."""
    alpha, alphas = 1.0, []
    for step in range(1000):
        alpha *= 1 - (0.1 + (20 - 0.1) * step / 999) / 1000
        alphas.append(alpha)
    rows = []
    for image, seed in zip(x, seeds, strict=True):
        for y in classes:
            terms = []
            for t in loss.grid.timesteps:
                for sample in torch.arange(loss.samples):
                    draw = (seed[None], y[None], t[None], sample[None])
                    eps = loss.noise(*draw, image.shape, x.dtype)
                    a = alphas[int(t) - 1]
                    x_t = math.sqrt(a) * (2 * image[None] - 1) + math.sqrt(1 - a) * eps
                    terms.append(((loss.denoiser.eps(x_t, t[None], y[None]) - eps) ** 2).mean())
            rows.append(torch.stack(terms).mean())
    return torch.stack(rows).view(len(x), len(classes))
