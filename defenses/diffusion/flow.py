"""log p(x | y) by the probability-flow ODE of a diffusion (Song et al. 2021, Sec. 4.3 and Appendix D.2).

    dx/dt = v(x, t) = -beta(t)/2 (x + grad log p_t(x | y)),                    x at the first time: 2 image - 1
    log p = log N(x at the last time; 0, I) + int div v dt + D log 2           D = C H W
    div v ~ 1/S sum_s z_s^T (dv/dx) z_s                                        (Skilling 1989; Hutchinson 1990)

The z_s are random signs, the same all along the path. D log 2 turns a density over [-1, 1] into one over [0, 1]. If the
pixels are 8-bit numbers, the image costs 8 - log p / (D log 2) bits per dimension; no noise is added to make such
numbers continuous.

Each evaluation of div v differentiates the network, so that the gradient of log p takes second derivatives. It is
exact, and computed step by step (`runge_kutta`) and chunk by chunk (`chunked_gradient`): at its peak, memory holds the
graph of one step of the solver for one chunk of (image, class) pairs, and an image per step and pair.

Near t = 0, v behaves as 1/sqrt(t), which a fixed step cannot follow. With t = s^2 the equation dx/ds = 2 s v is
smooth, and its steps of equal length in s are the "quadratic" spacing; those of equal length in t are "uniform".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol

import torch
from torch import Tensor

from defenses.diffusion.chunked_gradient import ChunkedSum, Passes
from defenses.diffusion.denoiser import Denoiser, knowing, score
from defenses.diffusion.runge_kutta import TABLEAUS, Solver, adaptive_times, solve
from defenses.diffusion.schedule import ContinuousVP, Schedule, discrete_vp
from defenses.diffusion.step_gradient import State
from harness.process.pull_back import pull_back
from harness.randomness import fold, rademacher

FlowSpacing = Literal["quadratic", "uniform"]
POWERS: dict[FlowSpacing, int] = {"quadratic": 2, "uniform": 1}
"""p in t = s^p."""

START, END = 1e-5, 1 - 1e-5
"""First and last t, those of the original code."""

CHUNK_PIXELS = {"cpu": 2**13, "cuda": 2**15}
"""Pixels (height x width) per chunk where no chunk is given; less than for a loss, as its graph is larger."""


class RoundedVP(ContinuousVP):
    """Continuous time rounded to the nearest training step of a network of 1000 steps: min(round(1000 t), 999) from 0.

    It is the convention of the diffusion classifiers' SBGC code. beta and sigma jump from step to step, which an
    adaptive solver meets with many small steps.
    """

    @cached_property
    def _steps(self) -> Schedule:
        return discrete_vp(1000, self.beta_min, self.beta_max)

    def signal(self, t: Tensor) -> Tensor:
        return self._steps.signal(self.label(t) + 1)

    def sigma(self, t: Tensor) -> Tensor:
        return self._steps.sigma(self.label(t) + 1)

    def level(self, t: Tensor) -> Tensor:
        return self.sigma(t) / self.signal(t)

    def label(self, t: Tensor) -> Tensor:
        return (1000 * t).round().long().clamp(max=999)

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * self.label(t).double() / 999


class SignSource(Protocol):
    """A source of z; equal arguments give equal draws."""

    def __call__(self, seeds: Tensor, classes: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Signs (S, P, *shape), for P pairs of an image, by its seed, and a class: (P,) int64 each."""


@dataclass(frozen=True)
class RademacherSigns:
    """Signs of equal probability, `samples` draws, independent or the same for all classes of an image."""

    samples: int = 1
    shared: bool = True

    def __call__(self, seeds: Tensor, classes: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        if self.shared:
            classes = torch.zeros_like(classes)
        return torch.stack([rademacher(fold(seeds, classes, s), shape, dtype) for s in range(self.samples)])


@dataclass(frozen=True)
class FlowLikelihood:
    """log p(x | y) in nats, differentiable (once) in the images.

    Args:
        denoiser: a denoiser for `process`.
        process: `ContinuousVP()`, or `RoundedVP()`.
        signs: draws z.
        solver: "dopri5" chooses its steps for each (image, class) separately; the others take `steps` of them.
        steps: the number of steps of the solvers other than dopri5.
        tolerance: the tolerance of dopri5, see `runge_kutta.adaptive_times`.
        spacing: how steps are spaced, see above.
        start: the first t; the density is that of images with the noise of this time, 0 < start < `END`.
        chunk: pairs of image and class integrated at once, where the solver is not dopri5.
        passes: how the gradient is computed, see `chunked_gradient`.
    """

    denoiser: Denoiser
    process: ContinuousVP
    signs: SignSource = RademacherSigns()
    solver: Solver = "rk4"
    steps: int = 10
    tolerance: float = 1e-5
    spacing: FlowSpacing = "quadratic"
    start: float = START
    chunk: int | None = None
    passes: Passes = "auto"

    def __call__(self, x: Tensor, labels: Tensor, seeds: Tensor) -> Tensor:
        """Log-likelihoods, (N, K).

        Args:
            x: images, (N, C, H, W) in [0, 1].
            labels: the classes, (N, K) int64; `NO_CLASS` for log p(x).
            seeds: the seeds of each image's signs, (N,) int64.
        """
        pixels = CHUNK_PIXELS["cpu" if x.device.type == "cpu" else "cuda"]
        chunk = self.chunk or max(1, pixels // x.shape[-2:].numel())
        flow = replace(self, denoiser=knowing(self.denoiser, labels))
        pairs = _Pairs(flow, labels.to(x.device), seeds.to(x.device))
        return ChunkedSum(pairs, labels.shape[1], 1, chunk, self.passes)(x)

    def integrate(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The end of each image's path and the integral of div v along it: (P, C, H, W), (P,).

        Args:
            x: starts, (P, C, H, W) in [-1, 1].
            y: classes, (P,) int64.
            z: signs, (S, P, C, H, W).
        """
        power = POWERS[self.spacing]
        first, last = self.start ** (1 / power), END ** (1 / power)

        def slope(s: float, x: Tensor, _: Tensor) -> State:
            speed = power * s ** (power - 1)
            velocity, divergence = self.slope(s**power, x, y, z)
            return speed * velocity, speed * divergence

        state = x, x.new_zeros(len(x))
        if self.solver == "dopri5":
            times = adaptive_times(slope, first, last, state, self.tolerance)
        else:
            times = torch.linspace(first, last, self.steps + 1, dtype=torch.float64).tolist()
        end, integral = solve(self.solver, slope, times, state)
        return end, integral

    def slope(self, time: float, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """v and the estimate of div v at one t: (P, C, H, W), (P,); arguments as in `integrate`.

        Where gradients are enabled and x requires one, both can be differentiated in x.
        """
        differentiable = torch.is_grad_enabled() and x.requires_grad
        t = torch.full((len(x),), time, dtype=x.dtype, device=x.device)
        with torch.enable_grad():
            own = x if differentiable else x.detach().requires_grad_()
            rate = float(self.process.beta(torch.tensor(time, dtype=x.dtype)))
            velocity = -rate / 2 * (own + score(self.denoiser, self.process, own, t, y))
            divergence = x.new_zeros(len(x))
            for sign in z:
                (product,) = pull_back([velocity], [own], [sign], create_graph=differentiable, retain_graph=True)
                divergence = divergence + (product * sign).flatten(1).sum(1) / len(z)
        return (velocity, divergence) if differentiable else (velocity.detach(), divergence)

    def evaluations(self) -> int | None:
        """Calls of `slope` for each pair; None for dopri5, whose number is not known beforehand."""
        return None if self.solver == "dopri5" else self.steps * len(TABLEAUS[self.solver].weights)


@dataclass(frozen=True)
class _Pairs:
    """log p of pairs (image, position in its row of `labels`)."""

    flow: FlowLikelihood
    labels: Tensor
    seeds: Tensor

    def __call__(self, x: Tensor, images: Tensor, classes: Tensor, terms: Tensor) -> Tensor:
        y, start = self.labels[images, classes], 2 * x - 1
        z = self.flow.signs(self.seeds[images], y, x.shape[1:], x.dtype)
        if self.flow.solver == "dopri5":  # its steps must not depend on other pairs in the chunk
            alone = [self.flow.integrate(start[i : i + 1], y[i : i + 1], z[:, i : i + 1]) for i in range(len(x))]
            ends, integrals = (torch.cat(parts) for parts in zip(*alone, strict=True))
        else:
            ends, integrals = self.flow.integrate(start, y, z)
        normal = -(ends.square() + math.log(2 * math.pi)).flatten(1).sum(1) / 2
        return normal + integrals + x[0].numel() * math.log(2)


def bits_per_dim(nats: Tensor, dimensions: int) -> Tensor:
    """Bits per dimension of images of 8-bit pixels, from log p in nats over [0, 1]^D; both of any shape."""
    return 8 - nats / (dimensions * math.log(2))
