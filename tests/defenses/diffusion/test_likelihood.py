from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from defenses.diffusion.likelihood import maximize_likelihood

ETA = 0.1


def by_hand(x: list[float], gradients: list[list[float]], eta: float, momentum: float) -> list[float]:
    """Algorithm 1 for one image, pixel by pixel."""
    moved, m = list(x), [0.0] * len(x)
    for g in gradients:
        norm = sum(abs(value) for value in g)
        m = [momentum * old - value / norm for old, value in zip(m, g, strict=True)]
        steps = [(value > 0) - (value < 0) for value in m]
        moved = [a + eta / len(gradients) * s for a, s in zip(moved, steps, strict=True)]
        moved = [min(max(a, b - eta, 0), b + eta, 1) for a, b in zip(moved, x, strict=True)]
    return moved


def pixels(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 2, -1)


@settings(deadline=None, max_examples=50)
@given(
    x=st.lists(st.sampled_from([0.0, 0.03, 0.5, 0.98, 1.0]), min_size=4, max_size=4),
    gradients=st.lists(
        st.lists(st.floats(-5, 5).filter(lambda g: abs(g) > 1e-3), min_size=4, max_size=4), min_size=1, max_size=5
    ),
    momentum=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_it_is_algorithm_1(x: list[float], gradients: list[list[float]], momentum: float) -> None:
    found = maximize_likelihood(
        pixels(x), lambda _, n: pixels(gradients[n]), eta=ETA, steps=len(gradients), momentum=momentum
    )
    assert found.flatten().tolist() == pytest.approx(by_hand(x, gradients, ETA, momentum), abs=1e-12)


def test_gradients_are_normalised_image_by_image() -> None:
    x = torch.full((2, 1, 2, 2), 0.5)
    steps = [torch.tensor([1.0, 1e6]), torch.tensor([-0.5, -0.5])]  # each image's sum decides the second step
    signs = torch.ones(1, 2, 2)
    found = maximize_likelihood(x, lambda _, n: steps[n].view(2, 1, 1, 1) * signs, eta=ETA, steps=2)
    torch.testing.assert_close(found, torch.full_like(x, 0.5 - ETA / 2))


def test_momentum_carries_earlier_gradients() -> None:
    g = [torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 3.0])]

    def move(momentum: float) -> list[float]:
        x = torch.full((1, 1, 1, 2), 0.5)
        moved = maximize_likelihood(x, lambda _, n: g[n].view(x.shape), eta=ETA, steps=2, momentum=momentum)
        return (moved - x).flatten().tolist()

    assert move(0.0) == pytest.approx([0.0, -ETA], abs=1e-6)
    assert move(1.0) == pytest.approx([-ETA, -ETA], abs=1e-6)


def test_an_image_without_gradient_stays_where_it_is() -> None:
    x = torch.rand(2, 1, 3, 3)
    assert torch.equal(maximize_likelihood(x, lambda z, _: torch.zeros_like(z), eta=ETA, steps=3), x)


def test_the_gradient_passes_where_a_pixel_was_not_stopped_by_0_or_1() -> None:
    x = pixels([0.0, 0.5, 0.99, 1.0, 0.02, 0.0]).requires_grad_()
    down = pixels([1, 1, -1, 1, -1, -1])
    maximize_likelihood(x, lambda _, n: down, eta=ETA, steps=2).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0, 1, 0, 1, 1, 1]


def test_the_gradient_is_that_of_finite_differences() -> None:
    x, down = pixels([0.01, 0.5, 0.99, 0.98, 0.02, 0.97]).requires_grad_(), pixels([1, 1, -1, 1, -1, -1])
    assert torch.autograd.gradcheck(lambda x: maximize_likelihood(x, lambda z, n: down, eta=ETA, steps=3), x)
