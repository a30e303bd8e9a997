"""Explicit Runge-Kutta methods for ds/dt = f(t, s), and their exact gradient in the memory of one step.

    k_i = f(t + c_i h, s + h sum_{j < i} a_ij k_j),      s(t + h) ~ s + h sum_i b_i k_i

    euler       order 1, one evaluation of f per step
    midpoint    order 2, two
    rk4         order 4, four: the classical one
    dopri5      order 5, six (Dormand and Prince 1980), with an estimate of the error, by which steps are chosen

Steps that are chosen by an error depend on the state, and with a batch in the state on the whole batch. So
`adaptive_times` is for one image at a time. It only chooses the steps; `solve` then takes them, so that value and
gradient come from the same steps. The gradient treats the steps as constants: their change is within the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from defenses.diffusion.step_gradient import State, stepwise

Solver = Literal["euler", "midpoint", "rk4", "dopri5"]

Slope = Callable[..., State]
"""f: (t, *state) -> the derivative of the state, a tuple of the same shapes. t is a Python number."""


@dataclass(frozen=True)
class Tableau:
    """The coefficients of a method: `nodes` c_i, `rows` a_ij (j < i), `weights` b_i."""

    nodes: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


TABLEAUS: dict[Solver, Tableau] = {
    "euler": Tableau((0,), ((),), (1,)),
    "midpoint": Tableau((0, 1 / 2), ((), (1 / 2,)), (0, 1)),
    "rk4": Tableau((0, 1 / 2, 1 / 2, 1), ((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    "dopri5": Tableau(
        (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1),
        (
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        ),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
}


def solve(solver: Solver, f: Slope, times: Sequence[float], state: State, *, allowed: float = 0) -> State:
    """The state at the last of the times, with its exact gradient in the first (once, see `stepwise`).

    Args:
        solver: a key of `TABLEAUS`.
        f: differentiable in the state and in nothing else.
        times: the ends of the steps, in order.
        state: the state at the first of them.
        allowed: bytes of graphs of steps that the gradient may keep.
    """
    tableau = TABLEAUS[solver]

    def step(i: int, *now: Tensor) -> State:
        return _step(tableau, f, times[i], times[i + 1] - times[i], now)

    return stepwise(step, len(times) - 1, state, allowed=allowed)


def adaptive_times(f: Slope, start: float, end: float, state: State, tolerance: float) -> list[float]:
    """The ends of the steps that torchdiffeq's dopri5 accepts, from `start` to `end` > `start`.

    Args:
        f: as in `solve`.
        state: the state at the start.
        tolerance: of the error of a step, relative and absolute (root mean square over each part of the state).
    """
    from torchdiffeq import odeint

    times, ends = [start], torch.tensor([start, end], dtype=torch.float64)
    slope = _Recorded(f, times)
    with torch.no_grad():  # without `step_t` it would step beyond the end and interpolate
        odeint(slope, state, ends, rtol=tolerance, atol=tolerance, method="dopri5", options={"step_t": ends[1:]})
    return [*times[:-1], end]  # the last time is the end up to rounding


class _Recorded:
    """f in the form that torchdiffeq calls. It records the end of each step that torchdiffeq accepts."""

    def __init__(self, f: Slope, times: list[float]) -> None:
        self.f, self.times = f, times

    def __call__(self, t: Tensor, state: State) -> State:
        return self.f(float(t), *state)

    def callback_accept_step(self, t: Tensor, state: State, length: Tensor) -> None:
        self.times.append(float(t + length))


def _step(tableau: Tableau, f: Slope, t: float, h: float, state: State) -> State:
    slopes: list[State] = []
    for node, row in zip(tableau.nodes, tableau.rows, strict=True):
        slopes.append(f(t + node * h, *_moved(state, h, row, slopes)))
    return _moved(state, h, tableau.weights, slopes)


def _moved(state: State, h: float, weights: Sequence[float], slopes: Sequence[State]) -> State:
    """state + h sum_i weights_i slopes_i."""
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            state = tuple(part + h * weight * change for part, change in zip(state, slope, strict=True))
    return state
