"""Two clusters of images and classifiers of them whose gradients are known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.datasets.batch import Images
from harness.defense import Defense
from harness.diagnosis import Settings, Subject
from harness.quantity import Quantity
from harness.randomness import normal

GENERATOR = torch.Generator().manual_seed(3)
Y = torch.arange(3).repeat(8)
CENTRES = torch.rand(3, 1, 8, 8, generator=GENERATOR) * 0.4 + 0.3
X = (CENTRES[Y] + 0.02 * torch.randn(24, 1, 8, 8, generator=GENERATOR)).clamp(0, 1)


class Honest(Defense):
    """Logits fall with the distance to each class's centre."""

    num_classes = 3
    scale = 1.0

    def classify(self, x: Tensor) -> Tensor:
        return -self.scale * (x[:, None] - CENTRES).square().flatten(2).sum(2)


class Smooth(Honest):
    """A network with curvature, fitted to nothing, on top of the honest logits."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3))

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x) + 0.3 * self.network(x)


class Saturated(Honest):
    """Plain cross-entropy finds no gradient."""

    scale = 1e6


class Quantised(Honest):
    """Rounded to few levels: every gradient is zero."""

    def purify(self, x: Tensor) -> Tensor:
        return (x * 6).round() / 6


class Shattered(Honest):
    """A ripple too small to see, whose slope drowns the honest one."""

    def classify(self, x: Tensor) -> Tensor:
        weights = torch.randn(64, 3, generator=torch.Generator().manual_seed(2))
        return super().classify(x) + 0.01 * torch.sin(4e3 * x).flatten(1) @ weights


class Drawn(Defense):
    """Two classes, linear, with noise of deviation `spread` on one's weights: the margin's gradient is +-(g + n)."""

    stochastic = True
    num_classes = 2

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.spread = spread
        self.weight = torch.randn(64, 2, generator=torch.Generator().manual_seed(1))

    @property
    def noise_ratio(self) -> float:
        """E||n||² / ||g||²."""
        return 64 * self.spread**2 / float((self.weight[:, 0] - self.weight[:, 1]).square().sum())

    def classify(self, x: Tensor) -> Tensor:
        noise = self.spread * normal(self.seeds_for(x), (64,))
        return x.flatten(1) @ self.weight + torch.stack([(x.flatten(1) * noise).sum(1), torch.zeros(len(x))], dim=1)


def subject(defense: Defense, *, surrogate: Defense | None = None, **changes: Any) -> Subject:
    """A subject from a defense; further arguments are settings."""
    settings = {"norm": "Linf", "eps": Quantity("0.2"), "steps": 10, "queries": 60, "votes": 3, **changes}
    images = Images(torch.arange(len(X)), X, Y.clamp(max=(defense.num_classes or 3) - 1))
    other = None if surrogate is None else ("other", surrogate)
    return Subject(defense.eval(), images, Settings(**settings), surrogate=other)
