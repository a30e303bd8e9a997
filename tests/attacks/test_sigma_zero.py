"""sigma-zero on linear classifiers, of which the fewest values to change are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attacks.sigma_zero import SigmaZero, smooth_count, smooth_count_gradient
from harness.attack import Adversarial
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from helpers.linear import Linear, NoisyLinear, target_of

N, CLASSES, SHAPE = 24, 3, (1, 8, 8)
X = uniform(torch.arange(N), SHAPE)
W = normal(torch.arange(CLASSES) + 1, (64,))


def fewest(defense: Linear, y: Tensor) -> Tensor:
    """The exact distance, (N,): against each rival the values are moved to 0 or 1 in the order of what they gain."""
    logits, found = defense(X).detach(), torch.full((N,), torch.inf)
    for rival in range(CLASSES):
        slope = defense.weights.detach()[y] - defense.weights.detach()[rival]
        pixels = X.flatten(1)
        gains = torch.where(slope > 0, slope * pixels, -slope * (1 - pixels)).sort(1, descending=True).values
        gap = logits.gather(1, y[:, None]) - logits[:, rival : rival + 1]
        count = (gains.cumsum(1) <= gap).sum(1) + 1.0
        found = torch.where(y == rival, found, torch.minimum(found, count))
    return found


def attacked(attack: SigmaZero, defense: Linear, y: Tensor) -> Tensor:
    return Adversarial.of(attack.perturb(target_of(attack, defense, X), X, y)).images.detach()


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_it_changes_hardly_more_values_than_the_fewest_that_are_enough(scale: float) -> None:
    defense = Linear(scale * W)
    y = defense(X).argmax(1)
    exact, attack = fewest(defense, y), SigmaZero(Quantity(64), steps=100)
    x_adv = attacked(attack, defense, y)
    found = attack.threat.size(X, x_adv)
    assert (defense(x_adv).argmax(1) != y).all()
    assert (found >= exact).all() and exact.max() >= 4  # nothing is nearer than the fewest
    assert (found <= exact + 1).all() and found.mean() <= exact.mean() + 0.35, found - exact


def test_an_image_that_needs_more_than_eps_is_left_as_it_is() -> None:
    defense = Linear(W)
    y = defense(X).argmax(1)
    exact = fewest(defense, y)
    x_adv = attacked(SigmaZero(Quantity(2), steps=100), defense, y)
    assert x_adv[exact > 2].equal(X[exact > 2]) and (exact > 2).sum() >= 3
    assert ((x_adv != X).flatten(1).sum(1) <= 2).all()


def test_the_gradient_of_the_smooth_count_is_its_derivative() -> None:
    delta = normal(torch.arange(3), (1, 2, 2)).double().requires_grad_()
    (exact,) = torch.autograd.grad(smooth_count(delta, 0.01).sum(), delta)
    assert torch.allclose(smooth_count_gradient(delta.detach(), 0.01), exact)


def test_the_smooth_count_tends_to_the_number_of_values_that_are_not_zero() -> None:
    delta = torch.tensor([0.0, 0.5, -1.0, 0.0]).view(1, 1, 2, 2)
    assert smooth_count(delta, 1e-9).item() == pytest.approx(2, abs=1e-6)


def test_stochastic_defenses_are_refused() -> None:
    assert "lucky draw" in str(SigmaZero(Quantity(5)).unsuitable(NoisyLinear(W)))


@pytest.mark.parametrize("eps", ["0", "0.5", "2.5", "-3"])
def test_a_budget_that_is_no_count_is_refused(eps: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        SigmaZero(Quantity(eps))


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"step_size": 0.0}, {"sigma": -1.0}, {"threshold": 1.5}, {"threshold_step": 0.0}]
)
def test_sizes_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SigmaZero(Quantity(5), **wrong)  # type: ignore[arg-type]
