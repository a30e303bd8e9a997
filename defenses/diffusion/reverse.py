"""From noise back to images: the reverse of the VP diffusion, step by step (Song et al. 2021; Nie et al. 2022, Sec. 3).

With beta(s) the rate of the diffusion at the time s, time runs down over a grid t* = s_0 > s_1 > ... > s_n, h = s_i -
s_{i+1}, everything is evaluated at the noisier end s_i of a step, and z_i is standard normal noise:

    sde    x_{i+1} = x_i + h beta (x_i / 2 + score(x_i, s_i)) + sqrt(h beta) z_i           Euler-Maruyama
    ode    x_{i+1} = x_i + h beta (x_i + score(x_i, s_i)) / 2                              probability flow, Euler
    ddpm   x_{i+1} = (x_i - b_i / sigma_i eps(x_i, t_i)) / sqrt(1 - b_i) + sqrt(v_i) z_i   ancestral (Ho et al. 2020)
    ddim   x_{i+1} = sqrt(alpha_{i+1}) x^ + sigma_{i+1} eps(x_i, t_i),                     implicit (Song et al. 2021,
           x^ = (x_i - sigma_i eps(x_i, t_i)) / sqrt(alpha_i)                              arXiv:2010.02502, Eq. 12)

The last two run on the discrete diffusion t = 1..1000, and may skip steps of it. In DDPM, 1 - b_i is the ratio of alpha
at t_i and t_{i+1}, which for neighbouring steps is DDPM's 1 - beta_t. The variance v_i is b_i or the posterior's, b_i
sigma_{i+1}^2 over sigma_i^2; the step to t = 0 adds no noise. DDIM adds none at all, and its step to t = 0 returns the
estimate x^ of the clean image, so that DDIM in one step is one-step denoising.

For the adjoint gradient (`defenses.diffusion.step_gradient`) each step of a `Solver` can be undone to first order in
h: the noise that was added is subtracted, and so is the drift, evaluated at x_{i+1} and s_i. Plain Euler steps back
would evaluate the drift at s_{i+1}. Close to 0 the score is so large there that, with coarse steps, nothing of the
gradient is left.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor
from typing_extensions import Self

from defenses.diffusion.denoiser import Denoiser, score
from defenses.diffusion.schedule import ContinuousVP, Process, Schedule
from defenses.diffusion.step_gradient import State, adjoint, stepwise
from harness.errors import UserError

END = 1e-5
"""The time at which the continuous solvers stop; at 0 the score may diverge (Nie et al. 2022, Appendix C)."""

WHOLE = 1e-6
"""How far rounding may move a quotient from a whole number of steps."""

Variance = Literal["beta", "posterior"]

Time = TypeVar("Time", int, float)

Draw = Callable[[int], Tensor]
"""Standard normal noise of step i, in the shape of the images; every call with the same i returns the same noise."""


class Sampler(ABC):
    """A reverse diffusion in `len(sampler)` steps. Images x are (N, C, H, W), the clean ones in [-1, 1]."""

    process: Process
    times: Sequence[float]
    denoiser: Denoiser

    @abstractmethod
    def __len__(self) -> int:
        """n, the number of steps."""

    @abstractmethod
    def start(self) -> Tensor:
        """t*, a time of `process`, as a tensor of no dimensions."""

    @abstractmethod
    def step(self, i: int, x: Tensor, draw: Draw) -> Tensor:
        """x_{i+1} from x = x_i."""

    def coarser(self, steps: int) -> Self:
        """The same sampler at some of its times, from the first to the last: at most so many steps."""
        return replace(self, times=thinned(self.times, steps))  # type: ignore[type-var]  # subclasses are dataclasses

    def noised(self, x: Tensor, eps: Tensor) -> Tensor:
        """x(t*) = sqrt(alpha) x + sigma eps, where the reverse diffusion starts."""
        t = self.start()
        return float(self.process.signal(t)) * x + float(self.process.sigma(t)) * eps


class Solver(Sampler):
    """A sampler whose steps can be undone approximately, see `denoised_by_adjoint`."""

    @abstractmethod
    def mean(self, i: int, x: Tensor) -> Tensor:
        """x_{i+1} without its noise, from x = x_i."""

    @abstractmethod
    def spread(self, i: int) -> float:
        """The standard deviation of the noise of step i."""

    @abstractmethod
    def back(self, i: int, x: Tensor) -> Tensor:
        """An approximation of x_i from x = x_{i+1}, whose noise is still to be subtracted."""

    def step(self, i: int, x: Tensor, draw: Draw) -> Tensor:
        mean, spread = self.mean(i, x), self.spread(i)
        return mean + spread * draw(i) if spread else mean

    def undo(self, i: int, x: Tensor, draw: Draw) -> Tensor:
        """An approximation of x_i from x = x_{i+1}."""
        before, spread = self.back(i, x), self.spread(i)
        return before - spread * draw(i) if spread else before


@dataclass(frozen=True, eq=False)
class EulerMaruyama(Solver):
    """The reverse SDE, or without noise the probability-flow ODE.

    Args:
        denoiser: an unconditional denoiser for `process`.
        times: s_0..s_n, falling, in (0, 1].
        noise: True for the SDE, False for the ODE.
    """

    denoiser: Denoiser
    process: ContinuousVP
    times: Sequence[float]
    noise: bool

    def __len__(self) -> int:
        return len(self.times) - 1

    def start(self) -> Tensor:
        return torch.tensor(self.times[0], dtype=torch.float64)

    def mean(self, i: int, x: Tensor) -> Tensor:
        return x + self._length(i) * self.drift(x, self.times[i])

    def spread(self, i: int) -> float:
        return math.sqrt(self._length(i) * self._beta(self.times[i])) if self.noise else 0.0

    def back(self, i: int, x: Tensor) -> Tensor:
        return x - self._length(i) * self.drift(x, self.times[i])

    def drift(self, x: Tensor, s: float) -> Tensor:
        """-dx/ds at the time s: beta (x/2 + score), half the score for the ODE."""
        own = score(self.denoiser, self.process, x, x.new_full((len(x),), s))
        return self._beta(s) * (x / 2 + (own if self.noise else own / 2))

    def _length(self, i: int) -> float:
        return self.times[i] - self.times[i + 1]

    def _beta(self, s: float) -> float:
        return float(self.process.beta(torch.tensor(s, dtype=torch.float64)))


@dataclass(frozen=True, eq=False)
class Ancestral(Solver):
    """DDPM's sampler, which may skip steps.

    Args:
        denoiser: an unconditional denoiser for `process`.
        times: t_0..t_n, falling, in 1..T, the last 0.
        variance: the variance of the noise.
    """

    denoiser: Denoiser
    process: Schedule
    times: Sequence[int]
    variance: Variance = "beta"

    def __len__(self) -> int:
        return len(self.times) - 1

    def start(self) -> Tensor:
        return torch.tensor(self.times[0])

    def mean(self, i: int, x: Tensor) -> Tensor:
        kept, noise = self._kept(i), self._noise(i, x)
        return (x - noise) / math.sqrt(kept)

    def spread(self, i: int) -> float:
        before, after = self._variance(i), self._variance(i + 1)
        if not after:
            return 0.0
        return math.sqrt((1 - self._kept(i)) * (after / before if self.variance == "posterior" else 1))

    def back(self, i: int, x: Tensor) -> Tensor:
        return math.sqrt(self._kept(i)) * x + self._noise(i, x)

    def _noise(self, i: int, x: Tensor) -> Tensor:
        """b_i / sigma_i eps, which a step subtracts."""
        t = torch.full((len(x),), self.times[i], device=x.device)
        return (1 - self._kept(i)) / math.sqrt(self._variance(i)) * self.denoiser.eps(x, t)

    def _kept(self, i: int) -> float:
        """1 - b_i."""
        return (1 - self._variance(i)) / (1 - self._variance(i + 1))

    def _variance(self, i: int) -> float:
        """sigma^2 at t_i, 0 at t = 0."""
        t = self.times[i]
        return float(self.process.sigma(torch.tensor(t))) ** 2 if t else 0.0


@dataclass(frozen=True, eq=False)
class Implicit(Sampler):
    """DDIM, the deterministic sampler, which may skip steps.

    Args:
        denoiser: an unconditional denoiser for `process`.
        times: t_0..t_n, falling, in 1..T, the last 0.
    """

    denoiser: Denoiser
    process: Schedule
    times: Sequence[int]

    def __len__(self) -> int:
        return len(self.times) - 1

    def start(self) -> Tensor:
        return torch.tensor(self.times[0])

    def step(self, i: int, x: Tensor, draw: Draw) -> Tensor:
        (signal, sigma), (next_signal, next_sigma) = self._numbers(i), self._numbers(i + 1)
        eps = self.denoiser.eps(x, torch.full((len(x),), self.times[i], device=x.device))
        return next_signal / signal * (x - sigma * eps) + next_sigma * eps

    def _numbers(self, i: int) -> tuple[float, float]:
        """sqrt(alpha) and sigma at t_i; 1 and 0 at t = 0."""
        t = self.times[i]
        return (
            (float(self.process.signal(torch.tensor(t))), float(self.process.sigma(torch.tensor(t)))) if t else (1, 0)
        )


def denoised(sampler: Sampler, x: Tensor, draw: Draw, *, allowed: float = 0) -> Tensor:
    """x(t*) -> x(0), (N, C, H, W), with its exact gradient (once) in x, one step's graph at a time.

    Args:
        sampler: the sampler whose steps are taken.
        draw: its noise.
        allowed: bytes of graphs of steps that the gradient may keep.
    """

    def step(i: int, x: Tensor) -> State:
        return (sampler.step(i, x, draw),)

    return stepwise(step, len(sampler), (x,), allowed=allowed)[0]


def denoised_by_adjoint(solver: Solver, x: Tensor, draw: Draw) -> Tensor:
    """`denoised` to the bit, with the adjoint gradient instead of the exact one."""

    def step(i: int, x: Tensor) -> State:
        return (solver.step(i, x, draw),)

    def undo(i: int, x: Tensor) -> State:
        return (solver.undo(i, x, draw),)

    return adjoint(step, undo, len(solver), (x,))[0]


def continuous_times(t_star: float, dt: float) -> list[float]:
    """t*, t* - dt, ... and finally `END`: steps of dt, of which the last may be shorter.

    Raises:
        UserError: not END < dt <= t* <= 1.
    """
    _check(t_star, dt, END)
    count = math.ceil(t_star / dt - WHOLE)
    return [t_star - i * dt for i in range(count)] + [END]


def discrete_times(t_star: float, dt: float, last: int) -> list[int]:
    """Times in whole steps of a diffusion of `last` steps, from t* down to 0.

    Raises:
        UserError: not 0 < dt <= t* <= 1, or not both multiples of 1 / last.
    """
    _check(t_star, dt, 0)
    start, stride = (_whole(name, number, last) for name, number in {"t_star": t_star, "dt": dt}.items())
    return [*range(start, 0, -stride), 0]


def spread_times(t_star: float, steps: int, last: int) -> list[int]:
    """Times of a few steps of about equal length, from t* down to 0, each rounded to a whole step of the diffusion.

    Args:
        t_star: t*, in (0, 1].
        steps: how many steps are taken.
        last: how many steps the diffusion has.

    Raises:
        UserError: t* is out of range or no multiple of 1 / last, or it has fewer than `steps` steps of the diffusion.

    Example:
        >>> spread_times(0.1, 3, last=1000)
        [100, 67, 33, 0]
    """
    _check_start(t_star, 0)
    start = _whole("t_star", t_star, last)
    if not 1 <= steps <= start:
        raise UserError(f"steps is {steps}", remedy=f"From t_star = {t_star} it can be 1 to {start}")
    return [round(start * (steps - i) / steps) for i in range(steps + 1)]


def thinned(times: Sequence[Time], steps: int) -> list[Time]:
    """The first and the last of the times and, about evenly between them, as many as give so many steps, or fewer.

    Example:
        >>> thinned([100, 80, 60, 40, 20, 0], 2), thinned([100, 0], 5)
        ([100, 60, 0], [100, 0])
    """
    count = min(steps, len(times) - 1)
    return [times[round(i * (len(times) - 1) / count)] for i in range(count + 1)]


def _check(t_star: float, dt: float, end: float) -> None:
    _check_start(t_star, end)
    if not end < dt <= t_star:
        raise UserError(f"dt is {dt}", remedy=f"It must be at most t_star = {t_star} and above {end:g}, such as 1e-3")


def _check_start(t_star: float, end: float) -> None:
    if not end < t_star <= 1:
        raise UserError(f"t_star is {t_star}", remedy="It must be a time of the diffusion in (0, 1], such as 0.1")


def _whole(name: str, number: float, last: int) -> int:
    steps = round(number * last)
    if not steps or abs(steps - number * last) > WHOLE * last:
        raise UserError(
            f"{name} is {number}",
            remedy=f"This sampler needs a multiple of {1 / last:g}, a step of the diffusion",
        )
    return steps
