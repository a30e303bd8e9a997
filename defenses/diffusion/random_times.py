"""Timesteps drawn anew for each image and call, instead of a grid of all (Monte Carlo, in the words of Sec. 3.5).

    E_t[f(t)] ~ 1/k sum_j f(t_j),        t_1..t_k different ones of {low..high}, all equally likely

f is an unweighted error, of eps on the VP diffusion and of the image, which is sigma times as large, under EDM's
weightings: no w_t has a part in it. So does the released code of the paper purify, with k = 1.
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
"""Sets the draw of timesteps apart from that of the noise, which comes from the same seeds."""


class RandomTimes(BaseModel):
    """What a suite writes as `{random: 1}` or `{random: 1, low: 135, high: 200}`.

    Args:
        random: k, how many are drawn.
        low, high: the range that they are drawn from, ends included; high left out is the last timestep.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    random: int = 1
    low: int = 1
    high: int | None = None


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws k timesteps of a grid for each image; the mean of f over them is, on average, the sum over the grid.

    Args:
        pool: all that can be drawn, (T',), with weights such as time_grid's.
        count: k.
    """

    pool: TimeGrid
    count: int

    def __call__(self, seeds: Tensor) -> TimeGrid:
        """A grid of its own for each image, (N, k). seeds: (N,) int64; equal seeds give equal timesteps."""
        order = uniform(fold(seeds, _TIMES), (len(self.pool),), torch.float64).argsort(dim=1, stable=True)
        return self.pool.on(seeds.device).at(order[:, : self.count]).scaled(len(self.pool) / self.count)


Times = Literal["all"] | int | list[int] | RandomTimes
"""Of the unconditional loss: as `time_grid` takes them, or random ones."""


def drawn_grid(
    schedule: Schedule, times: Times, spacing: Spacing, weighting: Weighting, *, sigma_data: float, name: str
) -> tuple[TimeGrid, Draws | None]:
    """A grid, and what draws from it where timesteps are random. The arguments: see `time_grid`.

    Raises:
        UserError: as `time_grid` does; or a range or count that there is not.
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
            f"{name} draws {times.random} of {high - low + 1} timesteps", remedy="Give random from 1 to as many"
        )
    pool = time_grid(schedule, list(range(low, high + 1)), sigma_data=sigma_data, name=name)
    if weighting in EDM_WEIGHTINGS:
        pool = pool.scaled(schedule.level(pool.timesteps) ** 2)
    return pool, Draws(pool, times.random)
