"""The Lagrange attack of Eq. 10."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.lagrange import Lagrange
from harness.attack import Target
from harness.defense import Defense
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.threat import TOLERANCE

View = Callable[..., Target]

N, SHAPE = 8, (1, 4, 4)
X = 0.3 + 0.4 * uniform(torch.arange(N), SHAPE)
Y = torch.zeros(N, dtype=torch.int64)


class Energetic(Defense):
    """A linear classifier with an energy: the squared distance to gray."""

    num_classes = 3

    def __init__(self, lead: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weights", normal(torch.arange(3), (16,)))
        self.register_buffer("bias", torch.tensor([lead, 0.0, 0.0]))

    def classify(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weights.T + self.bias

    def energy(self, x: Tensor) -> Tensor:
        return (x - 0.5).square().flatten(1).sum(1)


def lagrange(**options: Any) -> Lagrange:
    return Lagrange("Linf", Quantity("0.1"), **options)


@pytest.mark.parametrize("weight", [0.0, 1.0, 10.0])
def test_the_gradient_is_that_of_eq_10(weight: float) -> None:
    defense, rows = Energetic(), torch.arange(N)
    target = Target(defense, X, rows)
    step = target.step(X, rows, lambda z, of: F.cross_entropy(z, Y[of], reduction="none"), energy=weight)
    x = X.clone().requires_grad_()
    eq10 = defense(x).log_softmax(1)[:, 0] + weight * defense.energy(x)
    (grad,) = torch.autograd.grad(eq10.sum(), x)
    assert torch.allclose(step.loss, -eq10.detach(), atol=1e-5)
    assert torch.allclose(step.grad, -grad, atol=1e-5)
    asked = 2 if weight else 1
    assert target.forwards.tolist() == target.backwards.tolist() == [asked] * N


@pytest.mark.parametrize("optimizer", ["apgd", "pgd"])
def test_an_image_falls_if_it_does_for_any_weight(optimizer: str, view: View) -> None:
    """With l = 1000 alone every image is pulled to gray and none falls; with l = 0 before it, as many as ever."""
    defense = Energetic(lead=3.0 - float((Energetic().weights[0] * 0.5).sum() - (Energetic().weights[1] * 0.5).sum()))

    def fooled(weights: list[float]) -> Tensor:
        attack = lagrange(weights=weights, optimizer=optimizer, steps=20)
        found = attack.perturb(view(attack, defense, X), X, Y)
        assert attack.threat.violation(X, found).max() <= TOLERANCE
        return defense(found).argmax(1) != Y

    alone = fooled([0.0])
    assert fooled([0.0, 1000.0]).equal(fooled([1000.0, 0.0])) and (fooled([1000.0, 0.0]) >= alone).all()


def test_a_heavy_weight_pulls_towards_low_energy(view: View) -> None:
    defense = Energetic(lead=1e3)
    heavy, none = lagrange(weights=[1e6], loss="margin"), lagrange(weights=[0.0], loss="margin")
    start = defense.energy(X)
    low = defense.energy(X + (0.5 - X).clamp(-0.1, 0.1))
    pulled = []
    for attack in (heavy, none):
        target = view(attack, defense, X)
        seen: list[Tensor] = []
        inner = target.step
        target.step = lambda x, rows, loss, energy, inner=inner, seen=seen: (  # type: ignore[method-assign]
            seen.append(defense.energy(x)),
            inner(x, rows, loss, energy=energy),
        )[1]
        attack.perturb(target, X, Y)
        pulled.append(seen[-1])
    assert torch.allclose(pulled[0], low, atol=0.02) and (pulled[0] < start).all()
    assert (pulled[1] > pulled[0] + 0.05).all()


def test_costs_are_what_is_spent(view: View) -> None:
    attack = lagrange(steps=5, restarts=2)
    target = view(attack, Energetic(lead=1e6), X)
    attack.perturb(target, X, Y)
    assert target.forwards.tolist() == [attack.cost(3).forwards] * N == [2 * (6 + 11 + 11)] * N
    assert target.backwards.tolist() == [attack.cost(3).backwards] * N


def test_a_defense_without_energy_is_refused_by_name(linear: Callable[..., Defense]) -> None:
    assert "energy(x)" in str(lagrange().unsuitable(linear(torch.ones(3, 16))))
    assert lagrange().unsuitable(Energetic()) is None


@pytest.mark.parametrize("weights", [[], [-1.0]])
def test_weights_must_be_some_and_not_negative(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        lagrange(weights=weights)
