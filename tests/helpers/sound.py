"""A defense that keeps its contract, for tests to plant faults in, and two that are random, one by the rules."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor, nn

from harness.defense import Defense
from harness.randomness import normal


class Good(Defense):
    """A small smooth network on images of 2 x 5 x 4 pixels, behind a purifier that lowers contrast."""

    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(40, 16, generator=generator) / 6, requires_grad=False)
        self.last = nn.Parameter(torch.randn(16, 3, generator=generator), requires_grad=False)

    def purify(self, x: Tensor) -> Tensor:
        return 0.1 + 0.8 * x

    def classify(self, x: Tensor) -> Tensor:
        return torch.tanh((x - 0.5).flatten(1) @ self.first) @ self.last


class Noisy(Good):
    """Takes its noise from the seeds that it is given."""

    stochastic = True

    def purify(self, x: Tensor) -> Tensor:
        return (x + 0.1 * normal(self.seeds_for(x), x.shape[1:])).clamp(0, 1)


class GloballyNoisy(Good):
    """Takes its noise from every global generator."""

    stochastic = True

    def purify(self, x: Tensor) -> Tensor:
        return (x + 0.1 * torch.randn_like(x) + 0.01 * np.random.randn() + 0.01 * random.random()).clamp(0, 1)
