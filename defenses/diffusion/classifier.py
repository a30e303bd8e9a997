"""What classifiers by diffusion loss share: the class with the lowest loss of an image (paper Sec. 3.2, Eq. 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from defenses.diffusion.denoiser import NO_CLASS
from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.noise import seeds_of
from harness.defense import Defense


class DiffusionClassifier(Defense):
    """Base of defenses that set `loss`, `num_classes` and `stochastic`, the last where their noise is fresh."""

    backward_cost = 2.2
    num_classes: int
    loss: DiffusionLoss

    def classify(self, x: Tensor) -> Tensor:
        return -self.loss(x, torch.arange(self.num_classes), self.noise_seeds(x))

    def energy(self, x: Tensor) -> Tensor:
        """The unconditional diffusion loss, which bounds -log p(x) (Eq. 4): (N, C, H, W) -> (N,).

        It is Eq. 4's sum over pixels, whatever the `reduction` of the logits.
        """
        return self.logit_scale(x) * self.loss(x, torch.tensor([NO_CLASS]), self.noise_seeds(x)).squeeze(1)

    def logit_scale(self, x: Tensor) -> float:
        """C H W where the logits are means over pixels: those of Eq. 6 are sums."""
        return self.loss.scale(x)

    def noise_seeds(self, x: Tensor) -> Tensor:
        """Seeds of this call's noise, (N,) int64."""
        return seeds_of(self, x, self.stochastic)

    def cost(self) -> float:
        return float(self.loss.evaluations(torch.arange(self.num_classes)))
