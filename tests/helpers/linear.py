"""Linear classifiers, whose worst case is known, and the target that the harness would hand to an attack on them."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.attack import Attack
from harness.defense import Defense
from harness.randomness import normal
from harness.target import Target


class Linear(Defense):
    """z = W x + b. weights: (K, D); bias: (K,)."""

    def __init__(self, weights: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(weights)
        self.register_buffer("bias", torch.zeros(len(weights)) if bias is None else bias)
        self.num_classes = len(weights)

    def classify(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weights.T + self.bias


class NoisyLinear(Linear):
    """A linear classifier whose logits carry noise of a given size."""

    stochastic = True

    def __init__(self, weights: Tensor, bias: Tensor | None = None, noise: float = 1.0) -> None:
        super().__init__(weights, bias)
        self.noise = noise

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x) + self.noise * normal(self.seeds_for(x), (len(self.weights),))


def target_of(attack: Attack, defense: Defense, x: Tensor, seeds: Tensor | None = None) -> Target:
    """The target that the harness would hand to an attack."""
    seeds = torch.arange(len(x)) * 31 + 5 if seeds is None else seeds
    return Target(defense, x, seeds, gradient=attack.gradient, eot=attack.eot)
