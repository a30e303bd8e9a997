from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torchdiffeq import odeint

from defenses.diffusion.runge_kutta import TABLEAUS, adaptive_times, solve

ORDERS = {"euler": 1, "midpoint": 2, "rk4": 4, "dopri5": 5}


def pendulum(t: float, angle: Tensor, speed: Tensor) -> tuple[Tensor, Tensor]:
    return speed, -angle.sin() - 0.1 * speed + 0.3 * math.cos(2 * t)


@pytest.fixture
def state() -> tuple[Tensor, Tensor]:
    return torch.tensor([0.5, 1.5], dtype=torch.float64), torch.tensor([0.0, -1.0], dtype=torch.float64)


def reference(state: tuple[Tensor, Tensor], end: float) -> Tensor:
    times = torch.tensor([0.0, end], dtype=torch.float64)
    angle, _ = odeint(lambda t, s: pendulum(float(t), *s), state, times, rtol=1e-11, atol=1e-11)
    return angle[-1]


def grid(end: float, steps: int) -> list[float]:
    return [end * i / steps for i in range(steps + 1)]


def test_the_coefficients_of_a_stage_sum_to_its_node_and_the_weights_to_one() -> None:
    for tableau in TABLEAUS.values():
        assert sum(tableau.weights) == pytest.approx(1, abs=1e-14)
        for i, (node, row) in enumerate(zip(tableau.nodes, tableau.rows, strict=True)):
            assert len(row) == i
            assert sum(row) == pytest.approx(node, abs=1e-14)


@pytest.mark.parametrize("solver", ORDERS)
def test_errors_fall_with_the_order_of_the_method(solver, state) -> None:
    expected = reference(state, 2.0)
    errors = [float((solve(solver, pendulum, grid(2.0, n), state)[0] - expected).abs().max()) for n in (10, 20)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(ORDERS[solver], abs=0.4)


@pytest.mark.parametrize("solver", ["euler", "midpoint"])
def test_steps_are_those_of_torchdiffeq(solver, state) -> None:
    times = grid(1.0, 7)
    expected = odeint(
        lambda t, s: pendulum(float(t), *s), state, torch.tensor(times, dtype=torch.float64), method=solver
    )
    for found, wanted in zip(solve(solver, pendulum, times, state), expected, strict=True):
        torch.testing.assert_close(found, wanted[-1], rtol=1e-13, atol=0)


def test_steps_picked_by_error_end_at_the_end_and_keep_the_tolerance(state) -> None:
    expected = reference(state, 3.0)
    for tolerance in (1e-4, 1e-7):
        times = adaptive_times(pendulum, 0.0, 3.0, state, tolerance)
        assert (times[0], times[-1]) == (0.0, 3.0)
        assert all(a < b for a, b in itertools.pairwise(times))
        found, _ = solve("dopri5", pendulum, times, state)
        assert float((found - expected).abs().max()) < 10 * tolerance


def whole_graph(solver: str, state: Sequence[Tensor], h: float, steps: int) -> Sequence[Tensor]:
    tableau, parts = TABLEAUS[solver], range(len(state))
    for i in range(steps):
        slopes: list[tuple[Tensor, ...]] = []
        for node, row in zip(tableau.nodes, tableau.rows, strict=True):
            at = [state[p] + h * sum(a * slope[p] for a, slope in zip(row, slopes, strict=True)) for p in parts]
            slopes.append(pendulum(h * (i + node), *at))
        state = [state[p] + h * sum(b * k[p] for b, k in zip(tableau.weights, slopes, strict=True)) for p in parts]
    return state


@pytest.mark.parametrize("solver", ORDERS)
def test_its_gradient_is_that_of_one_whole_graph(solver, state) -> None:
    state = tuple(part.requires_grad_() for part in state)
    ours, theirs = solve(solver, pendulum, grid(1.0, 4), state), whole_graph(solver, state, 0.25, 4)
    gradients = (torch.autograd.grad((2 * angle + speed.square()).sum(), state) for angle, speed in (ours, theirs))
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
