"""A certificate: how far an image can be moved, for certain, before a smoothed defense gives it another class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from harness.attack import Adversarial, Attack, Cost
from harness.certification.smoothed import SmoothedDefense
from harness.certification.smoothing import MOST_DRAWS, certify
from harness.defense import Defense
from harness.errors import UserError
from harness.quantity import Quantity
from harness.target import Target
from harness.threat import L2


class Certificate(Attack):
    """Counts the classes that a smoothed defense gives under noise. Radii follow from the counts, see `smoothing`.

    The engine runs it like an attack with the budget 0: it leaves every image as it is, and returns the counts. A
    subclass writes `counts`.

    Args:
        n0: draws that select a class.
        n: draws that estimate its probability. The largest radius that n draws can certify is
            sigma Phi^-1(alpha^(1/n)): 2.5 sigma at n = 1,000.
        alpha: the probability, for each image, that its radius is too large.

    Raises:
        UserError: a number is out of its range.

    Source:
        Algorithm 1, CERTIFY, of Cohen, Rosenfeld and Kolter, 2019 (arXiv:1902.02918).
    """

    version: ClassVar[int] = 1
    caps: ClassVar[Mapping[str, int]] = {"n0": 8, "n": 16}

    def __init__(self, n0: int = 100, n: int = 1000, alpha: float = 0.001) -> None:
        super().__init__()
        for name, number in {"n0": n0, "n": n}.items():
            if not 1 <= number <= MOST_DRAWS:
                raise UserError(f"{name} is {number}", remedy=f"It must be a number of draws, 1 to {MOST_DRAWS:,}")
        if not 0 < alpha < 0.5:
            raise UserError(f"alpha is {alpha}", remedy="It must be a small probability, such as 0.001")
        self.n0, self.n, self.alpha = n0, n, alpha
        self.threat = L2(Quantity(0))

    @abstractmethod
    def counts(self, target: Target, x: Tensor) -> Tensor:
        """How often each class was given under noise: (N, 2, K) int64, of the n0 draws and of the n draws.

        The two must be independent, and draws whose logits are not finite count for no class.

        Args:
            target: the view of the smoothed defense, a `SmoothedDefense`; its `seeds` are those of the images.
            x: images, (N, C, H, W) in [0, 1].
        """

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Adversarial:
        """The images as they are, with the counts of each and its radius."""
        counts = self.counts(target, x)
        sigma = target.defense.smoothing_sigma or 0.0
        certified = certify(counts.cpu().numpy(), self.n, sigma=sigma, alpha=self.alpha)
        return Adversarial(x, counts=counts, radii=torch.from_numpy(certified.radii.astype(np.float32)))

    def cost(self, num_classes: int) -> Cost:
        return Cost(forwards=self.n0 + self.n, backwards=0)

    def describe(self) -> str:
        return f"{self.method or type(self).__name__.lower()}, n0 {self.n0}, n {self.n:,}, alpha {self.alpha:g}"

    def unsuitable(self, defense: Defense) -> str | None:
        if not isinstance(defense, SmoothedDefense):
            return (
                f"it certifies smoothed defenses, which {type(defense).__name__} is not; "
                "write {type: smoothed, sigma: 0.25, classifier: ...} around it"
            )
        return None
