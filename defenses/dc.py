"""Diffusion Classifier: the class under which an image has the lowest diffusion loss (paper Sec. 3.2, Eq. 6).

logit_y(x) = -loss_y(x) + log p(y)        loss_y: see `defenses.diffusion.loss`; p uniform unless given
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from defenses.diffusion.build import check_noise, class_denoiser, classes_of, sigma_data_of
from defenses.diffusion.chunked_gradient import Passes
from defenses.diffusion.classifier import DiffusionClassifier
from defenses.diffusion.graph_memory import check_graph_memory
from defenses.diffusion.loss import DiffusionLoss, Reduction
from defenses.diffusion.noise import GaussianNoise, Share
from defenses.diffusion.random_times import drawn_grid
from defenses.diffusion.timesteps import Spacing, Weighting, levels, time_grid
from harness.errors import UserError
from harness.weights import Checkpoint


class DC(DiffusionClassifier):
    """A class-conditional diffusion model as a classifier. Its gradient is exact, in constant memory.

    Args:
        weights: a class-conditional diffusion network; in Python also its name. A network with
            one head per class takes one pass per timestep, and needs noise that is shared over classes. An EDM network
            can be used on any diffusion, see `weighting`.
        network: its type and arguments, where its card does not give them.
        unconditional: a second network for images without a class, where the first was not trained for them (EDM's).
        timesteps: "all", or how many (T'), or which ones, in 1..1000.
        spacing: how T' timesteps are spread: "uniform" over 1..1000, or the "first" ones (Sec. 4.5).
        weighting: w_t on the discrete VP diffusion, "uniform" (the paper's) or "elbo" (the variational bound); or an
            integral over EDM's sigma, "edm" or "edm_reference" (with the density of published code), for EDM networks
            only. Their timesteps are cells of sigma. See `defenses.diffusion.timesteps`.
        samples: draws of noise per class and timestep.
        noise: "fresh" at every call, or "fixed", the same for all images and calls, which makes the defense
            deterministic.
        share_noise: let "classes", "timesteps" or "both" share one draw; the paper shares "none".
        reduction: "sum" over pixels is Eq. 6, whose softmax saturates; "mean" divides all logits by C H W.
        prior: p(y) of each class, if not uniform (Sec. 3.2).
        gradient_passes: "two" or "single", see `defenses.diffusion.chunked_gradient`; left out, the
            one that suits the loss of the attack. It affects speed only.
        chunk: network evaluations held in memory at once. It affects memory only.
        graph_memory: MiB of graphs that a call may keep, which save evaluations in its backward pass; 0 for none; left
            out, a quarter of the free memory, on a CPU at most 1024. It affects speed only.

    Raises:
        UserError: timesteps outside 1..1000, a number that must be positive and is not, an invalid prior, a
            network without classes, or a weighting or a sharing of noise that the network does not allow.
    """

    memory_knobs: ClassVar[tuple[str, ...]] = ("chunk", "gradient_passes", "graph_memory")

    def __init__(
        self,
        weights: Checkpoint,
        *,
        network: dict[str, Any] | None = None,
        unconditional: Checkpoint | None = None,
        timesteps: Literal["all"] | int | list[int] = "all",
        spacing: Spacing = "uniform",
        weighting: Weighting = "uniform",
        samples: int = 1,
        noise: Literal["fresh", "fixed"] = "fresh",
        share_noise: Share = "none",
        reduction: Reduction = "mean",
        prior: list[float] | None = None,
        gradient_passes: Passes = "auto",
        chunk: int | None = None,
        graph_memory: float | None = None,
    ) -> None:
        super().__init__()
        for name, number in {"samples": samples, "chunk": chunk}.items():
            if number is not None and number < 1:
                raise UserError(f"{name} is {number}", remedy="It must be at least 1")
        check_graph_memory(graph_memory)
        checkpoint = Checkpoint.find(weights)
        if checkpoint.card:
            self.expected_accuracy, self.expected_dataset = checkpoint.card.clean_accuracy, checkpoint.card.dataset
        predictor = checkpoint.network(network)
        other = None if unconditional is None else Checkpoint.find(unconditional).network()
        self.num_classes = classes_of(predictor, checkpoint.ref)
        self.stochastic = noise == "fresh"
        self.prior = prior
        self.schedule = levels(weighting)
        self.denoiser = class_denoiser(predictor, other, self.schedule)
        check_noise(share_noise, self.denoiser)
        sigma_data = sigma_data_of(weighting, predictor, *([] if other is None else [other]))
        self.drawn_grid = partial(drawn_grid, self.schedule, weighting=weighting, sigma_data=sigma_data)
        self.loss = DiffusionLoss(
            self.denoiser,
            time_grid(self.schedule, timesteps, spacing, weighting, sigma_data=sigma_data),
            GaussianNoise(share_noise),
            samples=samples,
            reduction=reduction,
            chunk=chunk,
            passes=gradient_passes,
            graph_memory=graph_memory,
        )
        _check_prior(prior, self.num_classes)

    def classify(self, x: Tensor) -> Tensor:
        logits = super().classify(x)
        if self.prior is None:
            return logits
        prior = torch.cat([x.new_full((1,), share) for share in self.prior])  # nothing is copied to the device
        return logits + prior.log() / self.logit_scale(x)


def _check_prior(prior: list[float] | None, num_classes: int) -> None:
    if prior is None:
        return
    if len(prior) != num_classes or min(prior) <= 0 or not math.isclose(sum(prior), 1, abs_tol=1e-6):
        raise UserError(f"prior is {prior}", remedy=f"Give {num_classes} probabilities, all positive, that sum to 1")
