"""The Lagrange attack of Eq. 10."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.common.gradient_attack import Objective
from attacks.lagrange import Lagrange
from defenses.dc import DC
from defenses.diffusion.denoiser import NO_CLASS
from defenses.diffusion.loss import Reduction
from harness import datasets
from harness.attack import Adversarial
from harness.defense import Defense
from harness.quantity import Quantity
from harness.randomness import fold, normal, uniform
from harness.target import Target
from harness.threat import TOLERANCE
from harness.weights import Checkpoint
from helpers.linear import Linear, target_of

pytestmark = pytest.mark.slow


N, SHAPE = 8, (1, 4, 4)
X = 0.3 + 0.4 * uniform(torch.arange(N), SHAPE)
Y = torch.zeros(N, dtype=torch.int64)

TIMES = (300, 800)
TEST = datasets.load("digits", "test")
DIGITS, LABELS = TEST.images[:2], TEST.labels[:2]


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
def test_an_image_falls_if_it_does_for_any_weight(optimizer: str) -> None:
    """With l = 1000 alone every image is pulled to gray and none falls; with l = 0 before it, as many as ever."""
    defense = Energetic(lead=3.0 - float((Energetic().weights[0] * 0.5).sum() - (Energetic().weights[1] * 0.5).sum()))

    def fooled(weights: list[float]) -> Tensor:
        attack = lagrange(weights=weights, optimizer=optimizer, steps=20)
        found = attack.perturb(target_of(attack, defense, X), X, Y)
        assert attack.threat.violation(X, found).max() <= TOLERANCE
        return defense(found).argmax(1) != Y

    alone = fooled([0.0])
    assert fooled([0.0, 1000.0]).equal(fooled([1000.0, 0.0])) and (fooled([1000.0, 0.0]) >= alone).all()


def test_a_heavy_weight_pulls_towards_low_energy() -> None:
    defense = Energetic(lead=1e3)
    heavy, none = lagrange(weights=[1e6], loss="margin"), lagrange(weights=[0.0], loss="margin")
    start = defense.energy(X)
    low = defense.energy(X + (0.5 - X).clamp(-0.1, 0.1))
    pulled = []
    for attack in (heavy, none):
        target = target_of(attack, defense, X)
        seen: list[Tensor] = []
        inner = target.step
        target.step = lambda x, rows, loss, energy, every_class, inner=inner, seen=seen: (  # type: ignore[method-assign]
            seen.append(defense.energy(x)),
            inner(x, rows, loss, energy=energy, every_class=every_class),
        )[1]
        attack.perturb(target, X, Y)
        pulled.append(seen[-1])
    assert torch.allclose(pulled[0], low, atol=0.02) and (pulled[0] < start).all()
    assert (pulled[1] > pulled[0] + 0.05).all()


@pytest.mark.parametrize("stochastic", [False, True])
def test_costs_are_what_is_spent(stochastic: bool) -> None:
    attack, defense = lagrange(steps=5, restarts=2, draws=4), Energetic(lead=1e6)
    defense.stochastic = stochastic
    target = target_of(attack, defense, X)
    attack.perturb(target, X, Y)
    looks = 3 * 4
    assert attack.cost(3).forwards == 2 * (6 + 11 + 11) + looks
    assert target.forwards.tolist() == [attack.cost(3).forwards - (0 if stochastic else looks)] * N
    assert target.backwards.tolist() == [attack.cost(3).backwards] * N


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weight", [0.0, 10.0])
def test_of_a_diffusion_classifier_it_is_eq_10_with_the_sums_of_eq_6_whatever_its_reduction(
    reduction: Reduction, weight: float
) -> None:
    """Against every term of Eq. 9 written out, network by network, in one graph."""
    defense = DC(Checkpoint.find("digits-ncsnpp"), timesteps=list(TIMES), noise="fixed", reduction=reduction).eval()
    attack, rows = lagrange(), torch.arange(2)
    target = target_of(attack, defense, DIGITS)
    oracle = Objective(target, attack.objective(defense, DIGITS, LABELS, None), weight, False)
    step = oracle.step(DIGITS, rows)
    x = DIGITS.clone().requires_grad_()
    losses = torch.stack([naive_loss(defense, x, y) for y in range(10)], 1)
    eq10 = (-losses).log_softmax(1)[rows, LABELS] + weight * naive_loss(defense, x, NO_CLASS)
    (grad,) = torch.autograd.grad(eq10.sum(), x)
    torch.testing.assert_close(-step.loss, eq10.detach(), rtol=1e-4, atol=1e-3)
    assert float((step.grad + grad).norm() / grad.norm()) < 1e-4


def naive_loss(defense: DC, x: Tensor, y: int) -> Tensor:
    """1/T' sum_t ||eps_theta(x_t, t, y) - eps||^2 of two images, (2,)."""
    betas = [(0.1 + 19.9 * step / 999) / 1000 for step in range(1000)]
    total = x.new_zeros(len(x))
    for t in TIMES:
        alpha = math.prod(1 - beta for beta in betas[:t])
        eps = normal(fold(torch.zeros(2, dtype=torch.int64), y, t, 0), x.shape[1:])
        x_t = math.sqrt(alpha) * (2 * x - 1) + math.sqrt(1 - alpha) * eps
        found = defense.denoiser.network(x_t, torch.full((2,), t - 1), torch.full((2,), y))  # type: ignore[attr-defined]
        total = total + (found - eps).square().sum((1, 2, 3)) / len(TIMES)
    return total


def test_the_images_do_not_depend_on_what_a_defense_divides_its_logits_by() -> None:
    class Scaled(Energetic):
        def classify(self, x: Tensor) -> Tensor:
            return super().classify(x) / 16

        def logit_scale(self, x: Tensor) -> float:
            return float(x[0].numel())

    attack = lagrange(steps=10, early_stop=False)
    found = [attack.perturb(target_of(attack, defense, X), X, Y) for defense in (Energetic(2.0), Scaled(2.0))]
    torch.testing.assert_close(*found)


class Luring(Defense):
    """Bright images are misclassified in one draw of ten, by a wide margin; dark ones always, by a small one.

    Its loss rises with brightness, and so does its energy.
    """

    num_classes, stochastic = 2, True

    def classify(self, x: Tensor) -> Tensor:
        bright = x.flatten(1).mean(1)
        lucky = uniform(self.seeds_for(x), ()) < 0.1
        lead = torch.where(bright > 0.5, torch.where(lucky, 100.0, -1.0), 0.5) + 0.01 * bright
        return torch.stack([-lead, torch.zeros_like(lead)], 1)

    def energy(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(1)


@pytest.mark.parametrize("weights", [[0.0, 1.0], [1.0, 0.0]])
def test_of_a_stochastic_defense_the_image_is_that_of_the_weight_which_fools_most_often(weights: list[float]) -> None:
    gray = torch.full((N, *SHAPE), 0.5)
    options: dict[str, Any] = {"loss": "margin", "steps": 20, "random_start": False}

    def fooled(tried: list[float]) -> Tensor:
        attack, defense = lagrange(weights=tried, **options), Luring()
        found = Adversarial.of(attack.perturb(target_of(attack, defense, gray), gray, Y)).images
        assert attack.threat.violation(gray, found).max() <= TOLERANCE
        with defense.drawing(torch.arange(N) + 10**6):
            return (defense(found).argmax(1) != Y).float()

    assert fooled([0.0]).mean() < 0.5  # the strongest by its luckiest draw
    assert fooled(weights).mean() == 1
    assert "chosen by 10 draws" in lagrange(weights=weights).describe()
    assert "draws" not in lagrange(weights=[1.0]).describe()


def test_a_defense_without_energy_is_refused_by_name() -> None:
    assert "energy(x)" in str(lagrange().unsuitable(Linear(torch.ones(3, 16))))
    assert lagrange().unsuitable(Energetic()) is None


@pytest.mark.parametrize("weights", [[], [-1.0]])
def test_weights_must_be_some_and_not_negative(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        lagrange(weights=weights)
