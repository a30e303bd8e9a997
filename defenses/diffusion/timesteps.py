"""Which timesteps the expectation over t is taken over, and with what weights (paper Sec. 3.5, Eq. 9, and Sec. 4.5).

    E_t[f(t)] ~ sum_j weight_j f(t_j)

    uniform   t_j = j T / T', j = 1..T' (systematic sampling; T' = T takes every timestep)
    first     t_j = j,        j = 1..T'

The weights are w_t / T' with w_t = 1, the paper's choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from defenses.diffusion.schedule import Schedule
from harness.errors import UserError

Spacing = Literal["uniform", "first"]


@dataclass(frozen=True, eq=False)
class TimeGrid:
    """Timesteps with what the loss needs to know about each.

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
        return len(self.timesteps)

    def to(self, like: Tensor) -> TimeGrid:
        """The same grid on the device and in the precision of `like`; timesteps stay int64."""
        real = (values.to(like) for values in (self.signal, self.sigma, self.weights))
        return TimeGrid(self.timesteps.to(like.device), *real)


def time_grid(
    schedule: Schedule,
    timesteps: Literal["all"] | int | Sequence[int] = "all",
    spacing: Spacing = "uniform",
    *,
    name: str = "timesteps",
) -> TimeGrid:
    """A grid on a schedule.

    Args:
        timesteps: "all", or how many (T'), or which ones (in 1..T).
        spacing: how a number of timesteps is spread, see above.
        name: what an error calls `timesteps`.

    Raises:
        UserError: fewer than one or more than T timesteps, or one outside 1..T.
    """
    chosen = torch.tensor(_choose(name, len(schedule), timesteps, spacing), dtype=torch.int64)
    weights = torch.full((len(chosen),), 1 / len(chosen), dtype=torch.float64)
    return TimeGrid(chosen, schedule.signal(chosen), schedule.sigma(chosen), weights)


def _choose(name: str, last: int, timesteps: Literal["all"] | int | Sequence[int], spacing: Spacing) -> list[int]:
    if timesteps == "all":
        return list(range(1, last + 1))
    if isinstance(timesteps, int):
        if not 1 <= timesteps <= last:
            raise UserError(f"{name} is {timesteps}", remedy=f"It is a number in 1..{last}, 'all', or a list")
        return [j if spacing == "first" else j * last // timesteps for j in range(1, timesteps + 1)]
    chosen = list(timesteps)
    if not chosen or not all(1 <= t <= last for t in chosen):
        raise UserError(f"{name} is {chosen}", remedy=f"Name at least one, each in 1..{last}")
    return chosen
