"""The timesteps that stand for the expectation over t, and their weights (paper Sec. 3.5, Eq. 9, and Sec. 4.5).

    E_t[f(t)] ~ sum_j weight_j f(t_j)

    uniform   t_j = j T / T', j = 1..T' (systematic sampling; T' = T takes every timestep)
    first     t_j = j,        j = 1..T'

The weights are w_t / T', and f is an error of eps. On the discrete VP diffusion, w_t is

    uniform   1, the paper's choice (Sec. 3.1)
    elbo      T / 2 (SNR(t-1) / SNR(t) - 1) = T beta_t / (2 (1 - beta_t) sigma_{t-1}^2)   (Ho et al. 2020, Eq. 12)

whose sum over all t is -log p(x) or more, up to a constant, where f sums over pixels. SNR(0) is infinite: at t = 1 the
image is decoded with variance sigma_1^2, which gives T / (2 alpha_1).

EDM integrates over sigma in [1e-4, 3] instead, in T cells of equal width: t is the cell with sigma at its left end
(uniform spacing is then t_j = 1 + (j - 1) T / T', the left ends of T' cells, if T' divides T), and

    edm       w_t = (3 - 1e-4) p(sigma) lambda(sigma) sigma^2
    p         lognormal: exp(-(ln sigma - P_mean)^2 / (2 P_std^2)) / (sigma P_std sqrt(2 pi))
    lambda    (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, on the error of the image (Karras et al. 2022, Table 1)

An error of the image is sigma times one of eps. `edm_reference` has the exponent -(ln sigma - P_mean)^2 P_std^2 / 2,
as in the code of the public EDM-based diffusion classifier; that is not a density. Its 126 timesteps are 125 cells
here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from defenses.diffusion.constants import Constants
from defenses.diffusion.schedule import Schedule, discrete_ve, discrete_vp
from harness.errors import UserError

Spacing = Literal["uniform", "first"]
Weighting = Literal["uniform", "elbo", "edm", "edm_reference"]

EDM_WEIGHTINGS = ("edm", "edm_reference")
EDM_STEPS, SIGMA_MIN, SIGMA_MAX = 1000, 1e-4, 3.0
P_MEAN, P_STD, SIGMA_DATA = -1.2, 1.2, 0.5


@dataclass(frozen=True, eq=False)
class TimeGrid(Constants):
    """Timesteps and what the loss needs about each. Where every image has its own timesteps, all tensors are (N, T').

    Args:
        timesteps: t_j, (T',) int64 in 1..T.
        signal, sigma: sqrt(alpha_t) and sigma_t, (T',) float64.
        weights: (T',) float64, w_t included; they sum to 1 where w_t = 1.
    """

    timesteps: Tensor
    signal: Tensor
    sigma: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return self.timesteps.shape[-1]

    def at(self, places: Tensor) -> TimeGrid:
        """The terms of a grid for all images at `places`, int64 of any shape, which the new grid takes."""
        return TimeGrid(*(values[places] for values in (self.timesteps, self.signal, self.sigma, self.weights)))

    def of(self, images: Tensor) -> TimeGrid:
        """The grid of the images at these places (P,): (P, T'), or (T',) where all images share one grid."""
        return self if self.timesteps.dim() == 1 else self.at(images)

    def terms(self, places: Tensor) -> TimeGrid:
        """Some of its terms, at places (J',); of each image where every image has its own."""
        parts = (self.timesteps, self.signal, self.sigma, self.weights)
        return TimeGrid(*(values[..., places] for values in parts))

    def scaled(self, factor: float | Tensor) -> TimeGrid:
        """The grid with its weights multiplied."""
        return replace(self, weights=self.weights * factor)

    def on(self, device: torch.device) -> TimeGrid:
        """The same grid on a device."""
        return self.kept(device, lambda: TimeGrid(*(getattr(self, field.name).to(device) for field in fields(self))))

    def to(self, like: Tensor) -> TimeGrid:
        """The same grid on the device and in the precision of `like`; timesteps stay int64."""

        def copied() -> TimeGrid:
            real = (values.to(like) for values in (self.signal, self.sigma, self.weights))
            return TimeGrid(self.timesteps.to(like.device), *real)

        return self.kept((like.device, like.dtype), copied)


def levels(weighting: Weighting) -> Schedule:
    """The diffusion that a weighting is an integral over, in 1000 steps: VP, or EDM's cells of sigma."""
    if weighting in EDM_WEIGHTINGS:
        return discrete_ve(torch.linspace(SIGMA_MIN, SIGMA_MAX, EDM_STEPS + 1, dtype=torch.float64)[:-1])
    return discrete_vp()


def time_grid(
    schedule: Schedule,
    timesteps: Literal["all"] | int | Sequence[int] = "all",
    spacing: Spacing = "uniform",
    weighting: Weighting = "uniform",
    *,
    sigma_data: float = SIGMA_DATA,
    name: str = "timesteps",
) -> TimeGrid:
    """A grid on a schedule.

    Args:
        schedule: `levels(weighting)`; with uniform weights, any.
        timesteps: "all", or how many (T'), or which ones (in 1..T).
        spacing: how a number of timesteps is spread, see above.
        weighting: w_t, see above.
        sigma_data: that of the EDM network.
        name: the name of `timesteps` in error messages.

    Raises:
        UserError: fewer than one or more than T timesteps, or one outside 1..T.
    """
    left = weighting in EDM_WEIGHTINGS
    chosen = torch.tensor(_choose(name, len(schedule), timesteps, spacing, left), dtype=torch.int64)
    weights = _weights(weighting, schedule, chosen, sigma_data) / len(chosen)
    return TimeGrid(chosen, schedule.signal(chosen), schedule.sigma(chosen), weights)


def _weights(weighting: Weighting, schedule: Schedule, t: Tensor, sigma_data: float) -> Tensor:
    """w_t, float64, of the shape of t."""
    if weighting == "uniform":
        return torch.ones(t.shape, dtype=torch.float64)
    if weighting == "elbo":
        known = schedule.snr((t - 1).clamp(min=1)) / schedule.snr(t) - 1
        return len(schedule) / 2 * torch.where(t > 1, known, schedule.signal(t) ** -2)
    sigma = schedule.level(t)
    spread = P_STD if weighting == "edm" else 1 / P_STD
    density = (-(((sigma.log() - P_MEAN) / spread) ** 2) / 2).exp() / (sigma * P_STD * math.sqrt(2 * math.pi))
    return (SIGMA_MAX - SIGMA_MIN) * density * (sigma**2 + sigma_data**2) / sigma_data**2


def _choose(
    name: str, last: int, timesteps: Literal["all"] | int | Sequence[int], spacing: Spacing, left: bool
) -> list[int]:
    """Timesteps in 1..last. left: uniform ones begin with the first, instead of ending with the last."""
    if timesteps == "all":
        return list(range(1, last + 1))
    if isinstance(timesteps, int):
        if not 1 <= timesteps <= last:
            raise UserError(f"{name} is {timesteps}", remedy=f"It must be a number in 1..{last}, 'all', or a list")
        if spacing == "first":
            return list(range(1, timesteps + 1))
        return [1 + (j - 1) * last // timesteps if left else j * last // timesteps for j in range(1, timesteps + 1)]
    chosen = list(timesteps)
    if not chosen or not all(1 <= t <= last for t in chosen):
        raise UserError(f"{name} is {chosen}", remedy=f"Name at least one, each in 1..{last}")
    return chosen
