"""Chains of steps against autograd on one whole graph, and the adjoint against the equation it belongs to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from defenses.diffusion.step_gradient import State, adjoint, stepwise

MATRIX = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2


def start(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()


def step(i: int, x: Tensor, total: Tensor) -> State:
    """Two parts that mix, differently at each step; neither is the identity."""
    moved = torch.tanh(x @ MATRIX.to(x) + 0.1 * i) + 0.5 * x
    return moved, total * 1.1 + (moved * x).sum(1)


def naive(count: int, *state: Tensor) -> State:
    for i in range(count):
        state = step(i, *state)
    return state


def objective(x: Tensor, total: Tensor) -> Tensor:
    return (x**3).sum() + total.sin().sum()


def gradients(state: State, *inputs: Tensor) -> State:
    return torch.autograd.grad(objective(*state), inputs)


@settings(max_examples=15, deadline=None)
@given(count=st.integers(0, 12))
def test_values_and_gradients_equal_autograd_on_one_whole_graph(count) -> None:
    x, total = start(), torch.linspace(0, 1, 3, dtype=torch.float64, requires_grad=True)
    ours, expected = stepwise(step, count, (x, total)), naive(count, x, total)
    for found, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    for found, wanted in zip(gradients(ours, x, total), gradients(expected, x, total), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_a_part_that_needs_no_gradient_and_one_that_is_not_used_are_no_trouble() -> None:
    x, zero = start(), torch.zeros(3, dtype=torch.float64)
    (found,) = torch.autograd.grad(stepwise(step, 5, (x, zero))[0].sum(), x)
    torch.testing.assert_close(found, torch.autograd.grad(naive(5, x, zero)[0].sum(), x)[0])


@pytest.mark.parametrize("route", [stepwise, lambda f, n, s: adjoint(f, f, n, s)], ids=["exact", "adjoint"])
def test_steps_that_hand_a_part_on_or_forget_it_are_differentiated_too(route) -> None:
    def forgetful(i: int, kept: Tensor, lost: Tensor) -> State:
        return kept, torch.ones_like(lost)

    kept, lost = start(), start()
    ends = route(forgetful, 3, (kept, lost))
    by_kept, by_lost = torch.autograd.grad((2 * ends[0]).sum() + ends[1].sum(), (kept, lost))
    assert (by_kept == 2).all()
    assert (by_lost == (0 if route is stepwise else 2**3)).all()


@pytest.mark.parametrize("route", [stepwise, lambda f, n, s: adjoint(f, f, n, s)], ids=["exact", "adjoint"])
def test_steps_that_forget_everything_have_no_gradient_to_give(route) -> None:
    x = start()
    (end,) = route(lambda i, x: (torch.ones_like(x),), 1, (x,))
    assert (torch.autograd.grad(end.sum(), x)[0] == (0 if route is stepwise else 2)).all()


def test_the_step_wise_derivative_passes_gradcheck() -> None:
    x, total = start(), torch.zeros(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *state: stepwise(step, 4, state), (x, total))


class Counting:
    """A one-part step that remembers which steps ran, and how many had a graph at once."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, bool]] = []
        self.alive = self.most = 0

    def __call__(self, i: int, x: Tensor) -> State:
        self.asked.append((i, torch.is_grad_enabled()))
        return (Watched.apply(x.sin(), self),)


class Watched(torch.autograd.Function):
    """The identity; from the building of its graph to its backward pass it counts as alive."""

    @staticmethod
    def forward(ctx, x: Tensor, counter: Counting) -> Tensor:
        ctx.counter = counter
        if ctx.needs_input_grad[0]:
            counter.alive += 1
            counter.most = max(counter.most, counter.alive)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.counter.alive -= 1
        return gradient, None


def test_one_step_has_a_graph_at_a_time_and_each_is_asked_twice() -> None:
    counter, x = Counting(), start()
    stepwise(counter, 6, (x,))[0].sum().backward()
    assert counter.asked == [(i, False) for i in range(6)] + [(i, True) for i in reversed(range(6))]
    assert counter.most == 1


def kept(state: State) -> int:
    return sum(saved.numel() for saved in state[0].grad_fn.saved_tensors)


def test_what_is_kept_is_one_state_a_step_and_for_the_adjoint_one_in_all() -> None:
    x, counter = start(), Counting()
    assert [kept(stepwise(counter, n, (x,))) for n in (5, 50)] == [5 * x.numel(), 50 * x.numel()]
    assert [kept(adjoint(counter, counter, n, (x,))) for n in (5, 50)] == [x.numel()] * 2


ROUTES: dict[str, Callable[[State], State]] = {
    "exact": lambda state: stepwise(step, 3, state),
    "adjoint": lambda state: adjoint(step, step, 3, state),
}


@pytest.mark.parametrize("route", ROUTES)
def test_nothing_is_kept_where_no_gradient_can_be_asked_for(route) -> None:
    x, total = start(), torch.zeros(3, dtype=torch.float64)
    with torch.no_grad():
        quiet = ROUTES[route]((x, total))
    plain = ROUTES[route]((x.detach(), total))
    assert not any(part.requires_grad for part in (*quiet, *plain))
    assert torch.equal(quiet[0], plain[0])


@pytest.mark.parametrize("route", ROUTES)
def test_a_second_derivative_is_refused_rather_than_wrong(route) -> None:
    x, total = start(), torch.zeros(3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="once only"):
        torch.autograd.grad(objective(*ROUTES[route]((x, total))), x, create_graph=True)


def flow(count: int) -> tuple[Callable[..., State], Callable[..., State]]:
    """Euler steps of dx/dt = tanh(x M) over the time 1, and the same backwards."""

    def velocity(x: Tensor) -> Tensor:
        return torch.tanh(x @ MATRIX)

    return lambda i, x: (x + velocity(x) / count,), lambda i, x: (x - velocity(x) / count,)


def distance_to_exact(count: int) -> float:
    x, (ahead, back) = start(), flow(count)
    exact, approximate = stepwise(ahead, count, (x,)), adjoint(ahead, back, count, (x,))
    torch.testing.assert_close(exact, approximate, rtol=0, atol=0)
    expected, found = (torch.autograd.grad((end**3).sum(), x)[0] for (end,) in (exact, approximate))
    return float((found - expected).norm() / expected.norm())


def test_the_adjoint_gradient_is_approximate_to_first_order_in_the_step() -> None:
    errors = [distance_to_exact(count) for count in (20, 40, 80)]
    assert 1e-4 < errors[-1] < errors[0] < 0.2
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.15)
