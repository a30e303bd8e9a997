"""Noised diffusion classifiers: a diffusion classifier of images behind Gaussian noise (Chen et al., 2024, Sec. 4).

    logit_y(x) = -loss_y(x + sigma e)        loss_y: a bound on -log p(x_tau | y), see `defenses.diffusion.noised`

EPNDC takes the exact posterior, APNDC the one given a denoised image. A majority of votes is the smoothed classifier.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from defenses.diffusion.build import check_noise, class_denoiser, classes_of, sigma_data_of
from defenses.diffusion.chunked_gradient import Passes
from defenses.diffusion.classifier import DiffusionClassifier
from defenses.diffusion.denoiser import NO_CLASS, knows_no_class
from defenses.diffusion.graph_memory import check_graph_memory
from defenses.diffusion.loss import DiffusionLoss, Reduction
from defenses.diffusion.noise import GaussianNoise, Share
from defenses.diffusion.noised import SCALE, Posterior, corruption_of, denoised_once, noised_grid, paired
from defenses.diffusion.timesteps import Weighting, levels
from harness.certification.smoothed import SmoothedDefense
from harness.errors import UserError
from harness.quantity import Quantity
from harness.search import Narrowing
from harness.weights import Checkpoint


class NoisedDC(SmoothedDefense, DiffusionClassifier):
    """A class-conditional diffusion model as a classifier of noisy images. Its gradient is exact.

    Args:
        weights: a class-conditional diffusion network; in Python also its name.
        sigma: the standard deviation of the noise, on the [0, 1] scale of images.
        posterior: "exact" is EPNDC, "approximate" APNDC; "denoised" is the plain classifier of an image denoised once,
            at the noisier timesteps, which the published APNDC script runs.
        network: its type and arguments, where its card does not give them.
        unconditional: a second network for images without a class, where the first was not trained for them (EDM's).
        timesteps: "all" with more noise than sigma, or how many of them, T', in equal steps.
        weighting: as in `DC`; "edm" for EDM networks, as published.
        samples: draws of noise per class and timestep.
        share_noise: let "classes" (as published), "timesteps" or "both" share one draw.
        reduction: "sum" over pixels, or their "mean".
        gradient_passes, chunk, graph_memory: as in `DC`. They affect speed and memory only.

    Raises:
        UserError: sigma is not positive, or leaves too few timesteps; a network without classes, or one that cannot
            denoise without them, though the posterior needs it; or another argument out of its range.

    Source:
        Chen, Dong, Shao, Hao, Yang, Su and Zhu, NeurIPS 2024 (arXiv:2402.02316).
    """

    memory_knobs: ClassVar[tuple[str, ...]] = ("chunk", "gradient_passes", "graph_memory")

    def __init__(
        self,
        weights: Checkpoint,
        sigma: Quantity,
        *,
        posterior: Posterior = "approximate",
        network: dict[str, Any] | None = None,
        unconditional: Checkpoint | None = None,
        timesteps: Literal["all"] | int = "all",
        weighting: Weighting = "uniform",
        samples: int = 1,
        share_noise: Share = "classes",
        reduction: Reduction = "mean",
        gradient_passes: Passes = "auto",
        chunk: int | None = None,
        graph_memory: float | None = None,
    ) -> None:
        super().__init__(sigma)
        for name, number in {"samples": samples, "chunk": chunk}.items():
            if number is not None and number < 1:
                raise UserError(f"{name} is {number}", remedy="It must be at least 1")
        check_graph_memory(graph_memory)
        checkpoint = Checkpoint.find(weights)
        predictor = checkpoint.network(network)
        other = None if unconditional is None else Checkpoint.find(unconditional).network()
        if posterior != "exact" and other is None and not knows_no_class(predictor):
            raise UserError(
                f"the network of '{checkpoint.ref}' was never trained without a class, which '{posterior}' needs",
                remedy="Name an unconditional network under `unconditional:`, or write `posterior: exact`",
            )
        self.num_classes = classes_of(predictor, checkpoint.ref)
        self.posterior: Posterior = posterior
        self.schedule = levels(weighting)
        self.denoiser = class_denoiser(predictor, other, self.schedule)
        check_noise(share_noise, self.denoiser)
        sigma_data = sigma_data_of(weighting, predictor, *([] if other is None else [other]))
        self.loss = DiffusionLoss(
            self.denoiser,
            noised_grid(self.schedule, float(sigma), timesteps, weighting, sigma_data=sigma_data),
            GaussianNoise(share_noise),
            samples=samples,
            reduction=reduction,
            chunk=chunk,
            passes=gradient_passes,
            graph_memory=graph_memory,
            corruption=corruption_of(posterior, SCALE * float(sigma)),
        )

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(self._given(x))

    def energy(self, x: Tensor) -> Tensor:
        """The unconditional loss of a noisy image, summed over pixels, which bounds -log p(x_tau): (N,)."""
        loss = self.loss(self._given(self.noised(x)), torch.tensor([NO_CLASS]), self.noise_seeds(x))
        return self.logit_scale(x) * loss.squeeze(1)

    def cost(self) -> float:
        return super().cost() + (self.posterior != "exact")

    def narrowed_cost(self, narrowing: Narrowing) -> float:
        return super().narrowed_cost(narrowing) + (self.posterior != "exact")

    def _given(self, x: Tensor) -> Tensor:
        """What the loss takes of noisy images."""
        if self.posterior == "exact":
            return x
        clean = denoised_once(self.denoiser, self.schedule, x, float(self.sigma))
        return clean if self.posterior == "denoised" else paired(x, clean)
