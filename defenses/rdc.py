"""Robust Diffusion Classifier: likelihood maximisation, then the diffusion classifier (paper Sec. 3.4, Algorithm 1)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

from defenses.dc import DC
from defenses.diffusion.conditioning import ClassesOnly
from defenses.diffusion.denoiser import NO_CLASS
from defenses.diffusion.exact_gradient import GRADIENT_COST, Passes
from defenses.diffusion.likelihood import maximize_likelihood
from defenses.diffusion.loss import Reduction
from defenses.diffusion.noise import Share
from defenses.diffusion.timesteps import Spacing, time_grid
from harness.errors import UserError
from harness.quantity import Quantity
from harness.randomness import derive, fold
from harness.weights import Checkpoint

PURIFY = derive("likelihood maximisation")
"""Sets the noise of `purify` apart from that of `classify`, which is drawn from the same seeds."""


class RDC(DC):
    """DC behind likelihood maximisation. BPDA differentiates the identity in place of the latter (paper Sec. 4.1).

    The exact gradient is that of `maximize_likelihood`: the identity too, but for pixels stopped at 0 or 1.

    Args:
        steps: N, steps of likelihood maximisation.
        eta: how far it may move a pixel.
        momentum: mu.
        purify_timesteps: timesteps of the unconditional loss, as in `timesteps`; left out, those of the classifier.

    The other arguments are those of `DC`.
    """

    def __init__(
        self,
        weights: Checkpoint,
        *,
        network: dict[str, Any] | None = None,
        unconditional: Checkpoint | None = None,
        steps: int = 10,
        eta: Quantity = Quantity("8/255"),  # noqa: B008
        momentum: float = 1.0,
        purify_timesteps: Literal["all"] | int | list[int] | None = None,
        timesteps: Literal["all"] | int | list[int] = "all",
        spacing: Spacing = "uniform",
        samples: int = 1,
        noise: Literal["fresh", "fixed"] = "fresh",
        share_noise: Share = "none",
        reduction: Reduction = "mean",
        prior: list[float] | None = None,
        gradient_passes: Passes = "auto",
        chunk: int | None = None,
    ) -> None:
        super().__init__(
            weights,
            network=network,
            unconditional=unconditional,
            timesteps=timesteps,
            spacing=spacing,
            samples=samples,
            noise=noise,
            share_noise=share_noise,
            reduction=reduction,
            prior=prior,
            gradient_passes=gradient_passes,
            chunk=chunk,
        )
        if isinstance(self.denoiser, ClassesOnly):
            raise UserError(
                f"the network of '{Checkpoint.find(weights).ref}' was never trained without a class, which likelihood "
                "maximisation needs",
                remedy="Name an unconditional one under `unconditional:`",
            )
        if steps < 1:
            raise UserError(
                f"steps is {steps}", remedy="Likelihood maximisation takes at least one; without it, use dc"
            )
        if not 0 < eta <= 1:
            raise UserError(f"eta is {eta}", remedy="It is a distance between pixels in [0, 1], such as 8/255")
        self.steps, self.eta, self.momentum = steps, eta, momentum
        chosen = timesteps if purify_timesteps is None else purify_timesteps
        grid = time_grid(self.schedule, chosen, spacing, name="purify_timesteps")
        self.unconditional = dataclasses.replace(self.loss, grid=grid)

    def purify(self, x: Tensor) -> Tensor:
        seeds, nothing = self.noise_seeds(x), torch.tensor([NO_CLASS])

        def gradient(images: Tensor, step: int) -> Tensor:
            return self.unconditional.gradients(images, nothing, fold(seeds, PURIFY, step)).squeeze(1)

        return maximize_likelihood(x, gradient, eta=self.eta, steps=self.steps, momentum=self.momentum)

    def cost(self) -> float:
        """Classification, plus N gradients of the unconditional loss at `GRADIENT_COST` evaluations each."""
        gradients = self.steps * len(self.unconditional.grid) * self.unconditional.samples
        return super().cost() + GRADIENT_COST * gradients
