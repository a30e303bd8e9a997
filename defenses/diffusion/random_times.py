"""Timesteps drawn anew for each image and call, instead of a fixed grid (Monte Carlo, in the words of Sec. 3.5).

    E_t[f(t)] ~ 1/k sum_j f(t_j),        t_1..t_k different ones of {low..high}, all equally likely

f is an error without a weight w_t: of eps on the VP diffusion, and of the image, which is sigma times as large, with
EDM's weightings. The released code of the paper purifies in this way, with k = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from defenses.diffusion.schedule import Schedule
from defenses.diffusion.timesteps import EDM_WEIGHTINGS, Spacing, TimeGrid, Weighting, time_grid
from harness.errors import UserError
from harness.randomness import derive, fold, uniform

_TIMES = derive("random timesteps")
"""Makes the draw of timesteps differ from that of the noise, which comes from the same seeds."""


class RandomTimes(BaseModel):
    """Random timesteps, which a suite writes as `{random: 1}` or `{random: 1, low: 135, high: 200}`.

    Args:
        random: k, the number of timesteps drawn.
        low, high: the range that they are drawn from, ends included; left out, high is the last timestep.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    random: int = 1
    low: int = 1
    high: int | None = None


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws k timesteps of a grid for each image; the mean of f over them is, on average, the sum over the grid.

    Args:
        pool: all timesteps that can be drawn, (T',), with weights such as those of `time_grid`.
        count: k.
    """

    pool: TimeGrid
    count: int

    def __call__(self, seeds: Tensor) -> TimeGrid:
        """A separate grid for each image, (N, k). seeds: (N,) int64; equal seeds give equal timesteps."""
        order = uniform(fold(seeds, _TIMES), (len(self.pool),), torch.float64).argsort(dim=1, stable=True)
        return self.pool.on(seeds.device).at(order[:, : self.count]).scaled(len(self.pool) / self.count)


Times = Literal["all"] | int | list[int] | RandomTimes
"""The timesteps of the unconditional loss: as for `time_grid`, or random ones."""


def drawn_grid(
    schedule: Schedule, times: Times, spacing: Spacing, weighting: Weighting, *, sigma_data: float, name: str
) -> tuple[TimeGrid, Draws | None]:
    """A grid, and, where timesteps are random, an object that draws from it. For the arguments see `time_grid`.

    Raises:
        UserError: as in `time_grid`; or the range or the number of random timesteps is invalid.
    """
    if not isinstance(times, RandomTimes):
        return time_grid(schedule, times, spacing, weighting, sigma_data=sigma_data, name=name), None
    low, high = times.low, len(schedule) if times.high is None else times.high
    if not 1 <= low <= high <= len(schedule):
        raise UserError(
            f"{name} is drawn from {low}..{high}", remedy=f"Give low and high in 1..{len(schedule)}, in this order"
        )
    if not 1 <= times.random <= high - low + 1:
        raise UserError(
            f"{name} draws {times.random} of {high - low + 1} timesteps",
            remedy="Give `random` a smaller number, at least 1",
        )
    pool = time_grid(schedule, list(range(low, high + 1)), sigma_data=sigma_data, name=name)
    if weighting in EDM_WEIGHTINGS:
        pool = pool.scaled(schedule.level(pool.timesteps) ** 2)
    return pool, Draws(pool, times.random)
