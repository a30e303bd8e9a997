"""A linear classifier whose gradient carries Gaussian noise: the cosine of two draws is known in closed form."""

import torch
from torch import Tensor

from harness.defense import Defense
from harness.randomness import normal


class NoisyGradient(Defense):
    """z = (0, 20 mean (w + n)(x - 1/2)) with w = 1 in each pixel, and a fresh n ~ N(0, sigma^2) in each draw.

    A margin's gradient is w + n up to a factor, and rho = E||n||^2 / ||w||^2 = sigma^2: two draws have the expected
    cosine 1 / (1 + sigma^2), in the limit of many pixels.
    """

    stochastic = True
    num_classes = 2

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma
        self.asked = 0

    def classify(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        weights = 1 + self.sigma * normal(self.seeds_for(x), x.shape[1:])
        z = 20 * (weights * (x - 0.5)).flatten(1).mean(1)
        return torch.stack([torch.zeros_like(z), z], dim=1)
