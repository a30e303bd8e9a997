"""Score-based generative classifier: the class under which an image is most likely (Zimmermann et al. 2021).

logit_y(x) = log p(x | y)        by the probability-flow ODE, see `defenses.diffusion.flow`; p(y) is uniform
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from defenses.diffusion.build import class_denoiser, classes_of
from defenses.diffusion.chunked_gradient import GRADIENT_COST, Passes
from defenses.diffusion.denoiser import NO_CLASS
from defenses.diffusion.flow import END, START, FlowLikelihood, FlowSpacing, RademacherSigns, RoundedVP, bits_per_dim
from defenses.diffusion.loss import Reduction
from defenses.diffusion.noise import seeds_of
from defenses.diffusion.runge_kutta import Solver
from defenses.diffusion.schedule import ContinuousVP
from harness.defense import Defense
from harness.errors import UserError
from harness.weights import Checkpoint

TYPICAL_EVALUATIONS = 300
"""An estimate for dopri5, per image and class; the true number depends on network and image."""


class SBGC(Defense):
    """The likelihoods of a class-conditional diffusion model as a classifier. Its gradient is exact, see `flow`.

    The published results use `solver: dopri5`, `time: rounded` and `spacing: uniform`, which takes hundreds of
    evaluations per class.

    Args:
        weights: a class-conditional diffusion network; in Python also its name.
        network: its type and arguments, where its card does not give them.
        unconditional: a second network for `energy`, where the first was not trained without classes (EDM's).
        solver: "euler", "midpoint" or "rk4" in `steps` steps (1, 2, 4 evaluations each), or "dopri5" in as many as the
            `tolerance` needs, chosen for each image and class separately, in twice the time.
        steps: the number of steps of the solvers other than dopri5.
        tolerance: the relative and absolute tolerance of dopri5.
        spacing: how steps are spaced: "quadratic", dense where the image is almost clean, or "uniform" in t.
        time: "continuous", or "rounded" to the nearest of 1000 training steps, as in the original code.
        start: the first t, above 0; 0.001 is the least noise that a network of 1000 steps was trained on.
        samples: vectors of random signs that estimate the divergence.
        noise: "fixed", the same signs for all images and calls, which makes the defense deterministic, or "fresh" at
            every call.
        share_noise: let all "classes" share the signs of an image, as the original does, or "none".
        reduction: "sum" over pixels is log p in nats, whose softmax saturates; "mean" divides all logits by C H W.
        gradient_passes: "two" or "single", see `defenses.diffusion.chunked_gradient`. It affects speed only.
        chunk: pairs of image and class integrated at once. It affects memory only.

    Raises:
        UserError: a number out of its range, or a network without classes.
    """

    num_classes: int
    backward_cost = 2.2
    memory_knobs: ClassVar[tuple[str, ...]] = ("chunk", "gradient_passes")

    def __init__(
        self,
        weights: Checkpoint,
        *,
        network: dict[str, Any] | None = None,
        unconditional: Checkpoint | None = None,
        solver: Solver = "midpoint",
        steps: int = 10,
        tolerance: float = 1e-5,
        spacing: FlowSpacing = "quadratic",
        time: Literal["continuous", "rounded"] = "continuous",
        start: float = START,
        samples: int = 1,
        noise: Literal["fixed", "fresh"] = "fixed",
        share_noise: Literal["classes", "none"] = "classes",
        reduction: Reduction = "mean",
        gradient_passes: Passes = "auto",
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        for name, number in {"steps": steps, "samples": samples, "chunk": chunk}.items():
            if number is not None and number < 1:
                raise UserError(f"{name} is {number}", remedy="It must be at least 1")
        if not tolerance > 0:
            raise UserError(f"tolerance is {tolerance}", remedy="It must be positive, such as 1e-5")
        if not 0 < start < END:
            raise UserError(f"start is {start}", remedy="It is a time, above 0 and below 1, such as 1e-5")
        checkpoint = Checkpoint.find(weights)
        predictor = checkpoint.network(network)
        other = None if unconditional is None else Checkpoint.find(unconditional).network()
        self.num_classes = classes_of(predictor, checkpoint.ref)
        self.stochastic = noise == "fresh"
        self.reduction = reduction
        process = RoundedVP() if time == "rounded" else ContinuousVP()
        self.denoiser = class_denoiser(predictor, other, process)
        self.flow = FlowLikelihood(
            self.denoiser,
            process,
            RademacherSigns(samples, shared=share_noise == "classes"),
            solver=solver,
            steps=steps,
            tolerance=tolerance,
            spacing=spacing,
            start=start,
            chunk=chunk,
            passes=gradient_passes,
        )

    @classmethod
    def reduced(cls, arguments: Mapping[str, Any]) -> tuple[type[Defense], dict[str, Any]]:
        """One Euler step in place of dopri5, which takes as many steps as it needs."""
        few = {"solver": "euler", "steps": 1} if arguments["solver"] == "dopri5" else {}
        return super().reduced({**arguments, **few})

    def classify(self, x: Tensor) -> Tensor:
        every = torch.arange(self.num_classes, device=x.device).expand(len(x), -1)
        return self.flow(x, every, self.noise_seeds(x)) / self.logit_scale(x)

    def energy(self, x: Tensor) -> Tensor:
        """-log p(x) in nats, whatever `reduction`, from the network without a class: (N, C, H, W) -> (N,)."""
        return -self._likelihood(x, torch.full((len(x),), NO_CLASS, device=x.device))

    def logit_scale(self, x: Tensor) -> float:
        """C H W where the logits are divided by it, else 1."""
        return 1.0 if self.reduction == "sum" else float(x[0].numel())

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(x | y) in nats, a density over [0, 1]^D.

        Args:
            x: images, (N, C, H, W) in [0, 1].
            y: the class of each, (N,) int64; `NO_CLASS` for log p(x).

        Returns:
            (N,).
        """
        return self._likelihood(x, y)

    def bits_per_dim(self, x: Tensor, y: Tensor) -> Tensor:
        """-log p(x | y) in bits per dimension of images with 8-bit pixels, (N,)."""
        return bits_per_dim(self._likelihood(x, y), x[0].numel())

    def noise_seeds(self, x: Tensor) -> Tensor:
        """Seeds of this call's signs, (N,) int64; constant where the noise is fixed."""
        return seeds_of(self, x, self.stochastic)

    def cost(self) -> float:
        """Evaluations with a vector-Jacobian product each, at `GRADIENT_COST`; an estimate for dopri5."""
        evaluations = self.flow.evaluations() or TYPICAL_EVALUATIONS
        return GRADIENT_COST * self.num_classes * evaluations

    def _likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        return self.flow(x, y[:, None], self.noise_seeds(x)).squeeze(1)
