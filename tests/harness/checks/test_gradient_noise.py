"""The noise of the gradients that an attack meets is measured through the attack itself, within a bounded cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.adaptive import Adaptive
from attacks.apgd import APGD
from attacks.autoattack import AutoAttack
from attacks.lagrange import Lagrange
from attacks.noise import Noise
from attacks.pgd import PGD
from attacks.worst_of import WorstOf
from harness.attack import Attack, Cost
from harness.checks.defense import FREE, SHARE, Use
from harness.checks.gradient_noise import FEW, MOST_IMAGES, GradientNoise, _cosine, _Gradient, gradient_noise
from harness.datasets.batch import Images
from harness.guard.doubt import cosine_of_means
from harness.quantity import Quantity
from harness.randomness import normal
from harness.target import Target
from harness.threat import Linf
from helpers.linear import Linear
from helpers.noisy_gradient import NoisyGradient

EPS = Quantity("0.1")
SIGMA = 1.5
COSINE = 1 / (1 + SIGMA**2)


def images(count: int = 32, side: int = 24) -> Images:
    x = 0.5 + 0.1 * torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(1))
    return Images(torch.arange(count), x, torch.ones(count, dtype=torch.int64))


def measured(attack: Attack, defense: Any = None, given: Images | None = None, **options: Any) -> GradientNoise | None:
    given = given or images()
    defense = defense or NoisyGradient(SIGMA)
    return gradient_noise(defense, attack, given, given.index * 7 + 3, **{"of": 1000, "votes": 5, **options})


class ByHand(Attack):
    """A user's attack, which differentiates the logits itself, image by image, at a random point near each."""

    def __init__(self) -> None:
        super().__init__()
        self.threat = Linf(EPS)

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        for row in range(len(x)):
            near = (x[row] + 0.01 * torch.randn_like(x[row]))[None].requires_grad_()
            loss = -target(near, torch.tensor([row]))[0, y[row]]
            (grad,) = torch.autograd.grad(loss, near)
            x[row] = near.detach() + 0.1 * grad[0].sign()
        return x

    def cost(self, num_classes: int) -> Cost:
        return Cost(1, 1)


class WithEnergy(NoisyGradient):
    """Its energy has a gradient of Gaussian noise of size 1 alone."""

    def energy(self, x: Tensor) -> Tensor:
        weights = normal(self.seeds_for(x), x.shape[1:])
        return 20 * (weights * x).flatten(1).mean(1)


ATTACKS: dict[str, Attack] = {
    "pgd": PGD("Linf", EPS, steps=20, loss="margin"),
    "pgd, momentum, draws": PGD("L2", EPS, steps=20, loss="ce", momentum=0.9, eot=5),
    "apgd, restarts": APGD("Linf", EPS, steps=20, loss="margin", restarts=3),
    "apgd, draws": APGD("Linf", EPS, steps=20, loss="ce", eot=4),
    "a library that averages over draws itself": AutoAttack(
        "Linf", EPS, version="custom", attacks=["apgd-ce"], apgd_steps=10, eot=3
    ),
    "a user's own": ByHand(),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_the_cosine_of_two_draws_is_that_of_the_closed_form_whatever_the_attack(name: str) -> None:
    found = measured(ATTACKS[name])
    assert found is not None and found.images == MOST_IMAGES
    assert found.cosine == pytest.approx(COSINE, abs=0.05)


def test_the_energy_that_a_loss_subtracts_counts_as_part_of_its_gradient() -> None:
    """At a weight of 2, rho = sigma^2 + 2^2."""
    attack = Lagrange("Linf", EPS, steps=5, loss="margin", weights=[2.0], gradient="exact")
    found = measured(attack, WithEnergy(SIGMA))
    assert found is not None and found.cosine == pytest.approx(1 / (1 + SIGMA**2 + 4), abs=0.05)


@pytest.mark.parametrize("eps", ["0", "0.5"])
def test_both_gradients_are_taken_at_the_point_where_the_attack_begins(eps: str) -> None:
    """A clean image stays at its place, and a random start is the same in both runs: only then are gradients equal."""

    class Curved(NoisyGradient):
        def classify(self, x: Tensor) -> Tensor:
            z = (x**3 * torch.linspace(-1, 1, x[0].numel()).view(x.shape[1:])).flatten(1).sum(1)
            return torch.stack([torch.zeros_like(z), z], dim=1)

    attack = PGD("Linf", Quantity(eps), steps=3, step_size=Quantity("0.1"), loss="margin", random_start=eps != "0")
    found = measured(attack, Curved(0.0))
    assert found == GradientNoise(pytest.approx(1.0), MOST_IMAGES)


@pytest.mark.parametrize(
    ("attack", "defense"),
    [
        (ATTACKS["pgd"], Linear(torch.randn(2, 576, generator=torch.Generator().manual_seed(0)))),
        (Noise("Linf", EPS), None),
        (Adaptive("Linf", EPS), None),
        (WorstOf([PGD("Linf", EPS, steps=9, loss="margin"), Adaptive("Linf", EPS)]), None),
    ],
    ids=["a deterministic defense", "no gradient", "as many draws as the noise asks for", "one that has them"],
)
def test_there_is_nothing_to_measure(attack: Attack, defense: Any) -> None:
    assert measured(attack, defense) is None


def test_an_attack_that_fails_or_whose_gradient_is_zero_is_not_measured() -> None:
    class Broken(ByHand):
        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
            raise RuntimeError("planted")

    class Flat(NoisyGradient):
        def classify(self, x: Tensor) -> Tensor:
            return 0 * super().classify(x)

    assert measured(Broken()) is None
    assert measured(ATTACKS["pgd"], Flat(SIGMA)) is None


def test_of_several_attacks_one_that_the_noise_suits_is_told_and_else_the_least_demanding() -> None:
    """Thresholds on single draws: APGD 0.9, PGD without momentum 0.64, with momentum 0.11; the defense has 0.31."""
    apgd, plain = ATTACKS["apgd, restarts"], ATTACKS["pgd"]
    momentum = PGD("Linf", EPS, steps=20, loss="margin", momentum=0.9)
    for attacks, needed in (([apgd, plain], plain.least_cosine()), ([apgd, momentum], momentum.least_cosine())):
        attack = WorstOf(attacks)
        found = measured(attack)
        assert found is not None and attack.least_cosine() == needed
        assert (found.cosine < needed) is (plain in attacks)


@pytest.mark.parametrize("eot", [1, 20])
@pytest.mark.parametrize(("of", "steps"), [(2, 3), (100, 20), (5_000, 100)])
def test_it_takes_no_more_than_its_allowance(of: int, steps: int, eot: int) -> None:
    class Slow(NoisyGradient):
        def cost(self) -> float:
            return 1000.0

    defense, attack = Slow(SIGMA), PGD("Linf", EPS, steps=steps, loss="margin", eot=eot)
    assert measured(attack, defense, of=of) is not None
    allowance = max(SHARE * Use.of(defense, [attack], of, None, 5).passes, FREE / 1000, FEW)
    assert 0 < defense.asked * (1 + defense.backward_cost) <= allowance


def test_an_attack_that_asks_for_much_before_its_first_gradient_is_ended() -> None:
    class Hesitant(ByHand):
        def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
            for _ in range(10_000):
                with torch.no_grad():
                    target(x, torch.arange(len(x)))
            return super().perturb(target, x, y)

    defense = NoisyGradient(SIGMA)
    assert measured(Hesitant(), defense) is None
    assert defense.asked <= max(FREE, SHARE * Use.of(defense, [Hesitant()], 1000, None, 5).passes)


def test_cosines_of_means_follow_the_closed_form() -> None:
    """Of two means of m draws each: 1 / (1 + rho / m)."""
    for draws in (1, 4, 20):
        assert cosine_of_means(COSINE, draws) == pytest.approx(1 / (1 + SIGMA**2 / draws))


def test_equal_gradients_have_a_cosine_of_one_and_no_more() -> None:
    """A run whose manifest says more than 1 is refused at its end. Rounding alone says more for some of these."""
    at = torch.zeros(1, 8, 8)
    for seed in range(300):
        grad = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(seed))
        found = _cosine(_Gradient(at, grad, 2), _Gradient(at, grad, 2))
        assert found and 1 - 1e-6 < found <= 1
