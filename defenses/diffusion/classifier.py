"""The base of classifiers that choose the class with the lowest diffusion loss (paper Sec. 3.2, Eq. 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from defenses.diffusion.denoiser import NO_CLASS
from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.narrowed import MEASURED, importance, measures, narrowed, taken
from defenses.diffusion.noise import seeds_of
from harness.defense import Defense
from harness.search import Narrowing


class DiffusionClassifier(Defense):
    """Base of diffusion classifiers. A subclass sets `loss`, `num_classes` and, if its noise is fresh, `stochastic`."""

    backward_cost = 2.2
    num_classes: int
    loss: DiffusionLoss

    def classify(self, x: Tensor) -> Tensor:
        narrowing, classes, seeds = self.narrowing_for(x), torch.arange(self.num_classes), self.noise_seeds(x)
        if narrowing is None:
            return -self.loss(x, classes, seeds)
        return self._searched(x, classes, seeds, narrowing)

    def _searched(self, x: Tensor, classes: Tensor, seeds: Tensor, narrowing: Narrowing) -> Tensor:
        """The logits for an attack's search: -inf for classes that it leaves out, where leaving them out is cheaper."""
        loss = narrowed(self.loss, narrowing, seeds)
        if narrowing.classes is None or self.loss.at_once(classes) is not None:
            logits = -loss(x, classes, seeds)
        else:
            known = -loss(x, narrowing.classes, seeds)
            nothing = known.new_full((len(x), self.num_classes), -torch.inf)
            logits = nothing.scatter(1, narrowing.classes, known)
        if narrowing.labels is not None and measures(narrowing):
            narrowing.measured = importance(loss, x.detach(), logits.detach(), seeds, narrowing.labels)
        return logits

    def energy(self, x: Tensor) -> Tensor:
        """The unconditional diffusion loss, which bounds -log p(x) (Eq. 4): (N, C, H, W) -> (N,).

        It is Eq. 4's sum over pixels, whatever the `reduction` of the logits.
        """
        return self.logit_scale(x) * self.loss(x, torch.tensor([NO_CLASS]), self.noise_seeds(x)).squeeze(1)

    def logit_scale(self, x: Tensor) -> float:
        """C H W where the logits are means over pixels, since those of Eq. 6 are sums; else 1."""
        return self.loss.scale(x)

    def noise_seeds(self, x: Tensor) -> Tensor:
        """Seeds of this call's noise, (N,) int64."""
        return seeds_of(self, x, self.stochastic)

    def cost(self) -> float:
        return float(self.loss.evaluations(torch.arange(self.num_classes)))

    def narrowed_cost(self, narrowing: Narrowing) -> float:
        classes = torch.arange(self.num_classes)
        if narrowing.full:
            chosen = classes[: 1 + MEASURED] if self.loss.at_once(classes) is None else classes
            measured = self.loss.evaluations(chosen)
            return self.loss.evaluations(classes) + (measured if measures(narrowing) else 0)
        some = classes if narrowing.classes is None else classes[: narrowing.classes.shape[-1]]
        terms = len(self.loss.grid)
        return self.loss.evaluations(some) * taken(terms, narrowing.search.timesteps) / terms
