"""Defenses and attacks of a user who knows nothing of this repository's own."""

import time

import torch
from torch import Tensor

from harness import datasets
from harness.attack import Attack, Cost, Target
from harness.defense import Defense
from harness.quantity import Quantity
from harness.randomness import fold, normal, uniform
from harness.threat import Linf


class NearestMean(Defense):
    """Logits are minus the squared distances to the classes' mean training images."""

    num_classes = 10

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        train = datasets.load("digits", "train")
        means = torch.stack([train.images[train.labels == k].mean(0) for k in range(10)])
        self.register_buffer("means", strength * means)

    def classify(self, x: Tensor) -> Tensor:
        return -(x[:, None] - self.means).square().flatten(2).sum(2)


class Noisy(NearestMean):
    """The same behind Gaussian noise."""

    stochastic = True

    def purify(self, x: Tensor) -> Tensor:
        return (x + 0.1 * normal(self.seeds_for(x), x.shape[1:])).clamp(0, 1)


class Noise(Attack):
    """Uniform noise within the budget, after a pause."""

    def __init__(self, eps: Quantity = Quantity("1/4"), pause: float = 0.0) -> None:
        super().__init__()
        self.threat, self.pause = Linf(eps), pause

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        time.sleep(self.pause)
        noise = 2 * uniform(fold(target.seeds, 1), x.shape[1:]) - 1
        return self.threat.project(x, x + float(self.threat.eps) * noise)

    def cost(self, num_classes: int) -> Cost:
        return Cost(0, 0)


class Crash(Noise):
    """Fails on every image."""

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("planted failure")
