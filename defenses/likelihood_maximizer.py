"""Likelihood maximisation in front of any classifier (paper Sec. 4.4, "Diffusion likelihood maximizer").

It moves an image to where a diffusion model gives it a higher likelihood, as `RDC` does. In the paper 2 of 100 images
withstand BPDA with a WRN-70-16 behind it, against 76 with RDC: the move helps a diffusion classifier alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from defenses.diffusion.build import sigma_data_of, without_class
from defenses.diffusion.conditioning import Unconditional
from defenses.diffusion.denoiser import NO_CLASS, adapted
from defenses.diffusion.graph_memory import check_graph_memory
from defenses.diffusion.likelihood import LikelihoodMaximization, Norm, Optimizer, SignGradient
from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.noise import GaussianNoise, seeds_of
from defenses.diffusion.random_times import Times, drawn_grid
from defenses.diffusion.timesteps import Spacing, Weighting, levels
from defenses.purification.purifier import at_least_one
from harness.defense import Defense, SignSurrogate
from harness.quantity import Quantity
from harness.search import Narrowing
from harness.suite.nested import InnerDefense, built
from harness.weights import Checkpoint


class LikelihoodMaximizer(Defense):
    """A classifier of images moved to higher likelihood. BPDA differentiates the identity in place of the move.

    Args:
        weights: an unconditional diffusion network, or one also trained without a class; in Python also its name.
        classifier: the defense, or plain classifier, that classifies the moved image.
        network: type and arguments of the diffusion network, where its card does not give them.
        steps, norm, eta, momentum, sign_gradient, sign_temperature: those of likelihood maximisation, as in `RDC`.
        optimizer, learning_rate: of likelihood maximisation, as in `RDC`.
        timesteps: of the unconditional loss: "all", or how many (T'), or which ones, in 1..1000; or `{random: k}` drawn
            anew for each image and step, as in `RDC`.
        spacing, weighting: how T' timesteps are spread, and what each weighs, as in `DC`.
        samples: draws of noise per timestep.
        noise: "fresh" at every call, or "fixed", the same for all images and calls.
        share_noise: let "timesteps" share one draw.
        chunk: evaluations of the diffusion network held in memory at once. It affects memory only.
        graph_memory: MiB of graphs that a call may keep, which save evaluations in its backward pass; 0 for none; left
            out, a quarter of the free memory, on a CPU at most 1024. It affects speed only.

    Raises:
        UserError: a number out of its range, or a network that was never trained without a class.
    """

    memory_knobs: ClassVar[tuple[str, ...]] = ("chunk", "graph_memory")

    def __init__(
        self,
        weights: Checkpoint,
        classifier: InnerDefense,
        *,
        network: dict[str, Any] | None = None,
        steps: int = 10,
        norm: Norm = "Linf",
        eta: Quantity | None = None,
        momentum: float = 1.0,
        optimizer: Optimizer = "momentum",
        learning_rate: float | None = None,
        timesteps: Times = "all",
        spacing: Spacing = "uniform",
        weighting: Weighting = "uniform",
        samples: int = 1,
        noise: Literal["fresh", "fixed"] = "fresh",
        share_noise: Literal["none", "timesteps"] = "none",
        sign_gradient: SignGradient = "zero",
        sign_temperature: float = 1.0,
        chunk: int | None = None,
        graph_memory: float | None = None,
    ) -> None:
        super().__init__()
        at_least_one(samples=samples, chunk=chunk)
        check_graph_memory(graph_memory)
        checkpoint = Checkpoint.find(weights)
        predictor, process = without_class(checkpoint, network), levels(weighting)
        self.denoiser = Unconditional(adapted(predictor, process))
        sigma_data = sigma_data_of(weighting, predictor)
        grid, draws = drawn_grid(process, timesteps, spacing, weighting, sigma_data=sigma_data, name="timesteps")
        self.classifier: Defense = built(classifier)
        self.num_classes = self.classifier.num_classes
        self.fresh = noise == "fresh"
        self.stochastic = self.fresh or self.classifier.stochastic
        self.maximization = LikelihoodMaximization(
            DiffusionLoss(
                self.denoiser, grid, GaussianNoise(share_noise), samples=samples, chunk=chunk, graph_memory=graph_memory
            ),
            steps=steps,
            norm=norm,
            eta=eta,
            momentum=momentum,
            sign_gradient=sign_gradient,
            sign_temperature=sign_temperature,
            draws=draws,
            optimizer=optimizer,
            learning_rate=learning_rate,
        )

    def purify(self, x: Tensor) -> Tensor:
        return self.maximization(x, self.noise_seeds(x), self.narrowing_for(x))

    def sign_surrogates(self) -> tuple[SignSurrogate, ...]:
        return self.maximization.sign_surrogates()

    def purify_with_surrogate(self, x: Tensor, surrogate: SignSurrogate) -> Tensor:
        maximization = replace(self.maximization, sign_gradient=surrogate)
        return maximization(x, self.noise_seeds(x), self.narrowing_for(x))

    def classify(self, x: Tensor) -> Tensor:
        return self.classifier(x)

    def energy(self, x: Tensor) -> Tensor:
        """The unconditional diffusion loss that `purify` lowers (Eq. 4), a sum over pixels: (N, C, H, W) -> (N,)."""
        loss = self.maximization.loss
        return loss.scale(x) * loss(x, torch.tensor([NO_CLASS]), self.noise_seeds(x)).squeeze(1)

    def logit_scale(self, x: Tensor) -> float:
        """The scale of the classifier's logits."""
        return self.classifier.logit_scale(x)

    def noise_seeds(self, x: Tensor) -> Tensor:
        """Seeds of this call's noise, (N,) int64; constant where the noise is fixed."""
        return seeds_of(self, x, self.fresh)

    def cost(self) -> float:
        """Likelihood maximisation, and the classifier after it."""
        return self.maximization.cost() + self.classifier.cost()

    def narrowed_cost(self, narrowing: Narrowing) -> float:
        return self.classifier.narrowed_cost(narrowing) + self.maximization.narrowed_cost(narrowing)
