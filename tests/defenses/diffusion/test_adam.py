"""Likelihood maximisation by Adam, against PyTorch's Adam, finite differences and closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from defenses.diffusion.adam import maximize_by_adam
from harness.quantity import Quantity
from harness.threat import L2, Linf, Pixels

SHAPE = (2, 1, 3, 3)
FREE = L2(Quantity(100))


def images() -> Tensor:
    return 0.2 + 0.6 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def bowl(x: Tensor, step: int) -> Tensor:
    """Gradient of sum (x - 0.4)^4 + (x - 0.3)^2 / 2, a little different at every step."""
    return 4 * (x - 0.4) ** 3 + (1 + step / 5) * (x - 0.3)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_it_is_the_adam_of_pytorch(steps: int) -> None:
    x = images()
    own = x.clone().requires_grad_()
    optimizer = torch.optim.Adam([own], lr=0.02)
    for step in range(steps):
        own.grad = bowl(own.detach(), step)
        optimizer.step()
    found = maximize_by_adam(x, bowl, ball=FREE, steps=steps, learning_rate=0.02)
    torch.testing.assert_close(found, own.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("ball", [FREE, L2(Quantity(0.03)), Linf(Quantity(0.015))])
@pytest.mark.parametrize("steps", [1, 4])
def test_its_gradient_is_that_of_finite_differences_second_derivatives_and_clips_included(
    ball: Pixels, steps: int
) -> None:
    x = images().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: maximize_by_adam(x, bowl, ball=ball, steps=steps, learning_rate=0.01), x)


@pytest.mark.parametrize("ball", [L2(Quantity(0.1)), Linf(Quantity(0.03))])
def test_it_stays_within_its_ball_and_0_and_1_and_reaches_the_edge(ball: Pixels) -> None:
    x = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)).mul(1.4).sub(0.2).clamp(0, 1)
    for direction in (-1.0, 1.0):
        moved = maximize_by_adam(
            x, lambda z, _, s=direction: torch.full_like(z, s), ball=ball, steps=5, learning_rate=0.05
        )
        assert 0 <= moved.min() <= moved.max() <= 1
        assert ball.size(x, moved).max() == pytest.approx(float(ball.eps), abs=1e-6)


def test_0_and_1_are_enforced_at_the_end_only() -> None:
    """One step beyond 1, and one back: an image that was stopped at 1 would end further back."""
    x, signs = torch.full((1, 1, 1, 1), 0.95), [-1.0, 5.0]
    own = x.clone().requires_grad_()
    optimizer = torch.optim.Adam([own], lr=0.1)
    for sign in signs:
        own.grad = torch.full_like(own, sign)
        optimizer.step()
    moved = maximize_by_adam(x, lambda z, n: torch.full_like(z, signs[n]), ball=FREE, steps=2, learning_rate=0.1)
    assert moved.item() == pytest.approx(own.item(), abs=1e-6)
    assert 0.98 < moved.item() < 1
    beyond = maximize_by_adam(x, lambda z, n: torch.full_like(z, -1.0), ball=FREE, steps=2, learning_rate=0.1)
    assert beyond.item() == 1


def test_an_image_without_gradient_stays_where_it_is_and_has_a_gradient() -> None:
    x = images().requires_grad_()
    moved = maximize_by_adam(x, lambda z, _: 0 * z, ball=FREE, steps=3, learning_rate=0.05)
    assert torch.equal(moved, x)
    assert torch.equal(torch.autograd.grad(moved.sum(), x)[0], torch.ones_like(x))
