"""Purification of unlikely images only: a threshold on the likelihood in front of any purifier.

    L(x) = sum_j weight_j  || eps_theta(sqrt(alpha_t) x~ + sigma_t eps, t) - eps ||^2 / (C H W),    t = t_j
    purify(x) = x + w (purifier(x) - x),    w = [L(x) > threshold],  or  sigmoid((L(x) - threshold) / width)

L is a diffusion model's loss without a class, which is, up to a constant and with `weighting: elbo`, a bound on -log p
(`defenses.diffusion.loss`). Likely images are left as they are, so that purification costs no clean accuracy where the
likelihood tells an attack from an image: the rule of adaptive PixelDefend (Song et al. 2018, arXiv:1710.10766, Sec.
4.3), whose likelihood is that of a PixelCNN and whose purifier is a greedy search; here both may be chosen.

An attacker may stay below the threshold, where there is no defense but the classifier. The gradient of `purify` is
exact where it exists: the step [L > threshold] has none, and a positive `width` makes it smooth, with the gradient of L
through the network, in the memory of one chunk.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from defenses.diffusion.build import sigma_data_of, without_class
from defenses.diffusion.conditioning import Unconditional
from defenses.diffusion.denoiser import NO_CLASS, adapted
from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.noise import GaussianNoise
from defenses.diffusion.timesteps import Spacing, Weighting, levels, time_grid
from defenses.purification.purifier import at_least_one
from harness.defense import Defense, SignSurrogate
from harness.errors import UserError
from harness.randomness import derive, fold
from harness.suite.nested import InnerDefense, built
from harness.weights import Checkpoint

LIKELIHOOD = derive("likelihood threshold")
"""Makes the noise of the likelihood differ from all other noise drawn from the same seeds."""


class LikelihoodThreshold(Defense):
    """A purifier, with its classifier, that leaves images alone that a diffusion model finds likely.

    Args:
        weights: an unconditional diffusion network, or one also trained without a class; in Python also its name.
        purifier: the defense that purifies and classifies, such as `diffpure`, an entry of its own; in Python also an
            instance.
        threshold: the loss, a mean over pixels, above which an image is purified.
        network: the diffusion network's type and arguments, where its card does not give them.
        width: how softly purification sets in around the threshold, in units of the loss; 0 is a step.
        timesteps: of the loss: "all", or how many (T'), or which ones, in 1..1000.
        spacing, weighting: how T' timesteps are spread, and what each weighs, as in `DC`.
        samples: draws of noise per timestep.
        chunk: evaluations of the diffusion network held in memory at once. It affects memory only.

    Raises:
        UserError: a number out of its range, or a network that was never trained without a class.

    Source:
        Song, Kim, Nowozin, Ermon and Kushman, 2018 (arXiv:1710.10766), Sec. 4.3.

    Example:
        >>> from defenses.ddim import DDIM
        >>> from defenses.undefended import Undefended
        >>> once = DDIM("digits-ncsnpp", Undefended("digits-cnn"), steps=1)
        >>> defense = LikelihoodThreshold("digits-ncsnpp", once, threshold=1e9)
        >>> x = torch.rand(2, 1, 8, 8)
        >>> bool((defense.purify(x) == x).all())
        True
    """

    stochastic = True
    backward_cost = 2.2
    memory_knobs: ClassVar[tuple[str, ...]] = ("chunk",)

    def __init__(
        self,
        weights: Checkpoint,
        purifier: InnerDefense,
        threshold: float,
        *,
        network: dict[str, Any] | None = None,
        width: float = 0.0,
        timesteps: Literal["all"] | int | list[int] = 10,
        spacing: Spacing = "uniform",
        weighting: Weighting = "uniform",
        samples: int = 1,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        at_least_one(samples=samples, chunk=chunk)
        if not width >= 0:
            raise UserError(f"width is {width}", remedy="It must not be negative; 0 is a step")
        predictor, process = without_class(Checkpoint.find(weights), network), levels(weighting)
        self.denoiser = Unconditional(adapted(predictor, process))
        grid = time_grid(
            process, timesteps, spacing, weighting, sigma_data=sigma_data_of(weighting, predictor), name="timesteps"
        )
        self.loss = DiffusionLoss(self.denoiser, grid, GaussianNoise(), samples=samples, chunk=chunk)
        self.purifier: Defense = built(purifier)
        self.num_classes = self.purifier.num_classes
        self.threshold, self.width = threshold, width

    def purify(self, x: Tensor) -> Tensor:
        return self._where_unlikely(x, self.purifier.purify(x))

    def purify_surrogate(self, x: Tensor) -> Tensor:
        return self.purifier.purify_surrogate(x)

    def sign_surrogates(self) -> tuple[SignSurrogate, ...]:
        return self.purifier.sign_surrogates()

    def purify_with_surrogate(self, x: Tensor, surrogate: SignSurrogate) -> Tensor:
        return self._where_unlikely(x, self.purifier.purify_with_surrogate(x, surrogate))

    def classify(self, x: Tensor) -> Tensor:
        return self.purifier.classify(x)

    def logit_scale(self, x: Tensor) -> float:
        """The scale of the purifier's logits."""
        return self.purifier.logit_scale(x)

    def energy(self, x: Tensor) -> Tensor:
        """The loss that is compared with the threshold, as a sum over pixels: (N, C, H, W) -> (N,)."""
        return self.loss.scale(x) * self.unlikelihood(x)

    def unlikelihood(self, x: Tensor) -> Tensor:
        """L, non-negative: images (N, C, H, W) in [0, 1] -> (N,)."""
        seeds = fold(self.seeds_for(x).to(x.device), LIKELIHOOD)
        return self.loss(x, torch.tensor([NO_CLASS]), seeds).squeeze(1)

    def cost(self) -> float:
        """Evaluations of the loss, of the purifier, and of its classifier."""
        return self.loss.evaluations(torch.tensor([NO_CLASS])) + self.purifier.cost()

    def _where_unlikely(self, x: Tensor, purified: Tensor) -> Tensor:
        excess = (self.unlikelihood(x) - self.threshold)[:, None, None, None]
        if not self.width:
            return torch.where(excess > 0, purified, x)
        return torch.lerp(x, purified, (excess / self.width).sigmoid())
