"""A stochastic defense whose noise the attacker knows."""

from __future__ import annotations

import pytest
import torch

from attacks.pgd import PGD
from defenses.canaries.bit_depth import BitDepth
from defenses.canaries.input_dropout import InputDropout
from defenses.dc import DC
from defenses.diffpure import DiffPure
from defenses.fixed_noise import FixedNoise
from defenses.undefended import Undefended
from harness.attack import Adversarial
from harness.checks import check_defense
from harness.defense import Defense
from harness.errors import UserError
from harness.gradients import missing
from harness.predict import predict_votes, query
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from helpers.linear import Linear, NoisyLinear, target_of

SEEDS = torch.arange(16)
X = 0.3 + 0.4 * uniform(SEEDS, (1, 2, 3))


def noisy() -> NoisyLinear:
    return NoisyLinear(normal(torch.tensor([7, 8]), (6,)), noise=0.3)


def test_every_call_and_every_image_has_the_one_noise_that_the_seed_says() -> None:
    fixed, exact = FixedNoise(noisy(), seed=3), Linear(noisy().weights.data)
    first, second = (query(fixed, X, SEEDS + shift) for shift in (0, 999))
    assert torch.equal(first, second)
    noise = first - query(exact, X, SEEDS)
    assert torch.allclose(noise, noise[:1].expand(16, 2), atol=1e-5) and noise.abs().max() > 0.02
    other = query(FixedNoise(noisy(), seed=4), X, SEEDS)
    assert not torch.allclose(first, other, atol=0.02)


def test_an_attack_reaches_exactly_the_images_of_the_closed_form() -> None:
    """A linear margin m falls by at most eps ||w||_1: with m of the known noise, that decides every image."""
    fixed = FixedNoise(noisy(), seed=1).eval()
    logits = query(fixed, X, SEEDS)
    y = logits.argmax(1)
    gap = logits.gather(1, y[:, None])[:, 0] - logits.gather(1, 1 - y[:, None])[:, 0]
    weights = noisy().weights.data
    least = gap / (weights[0] - weights[1]).abs().sum()
    eps = float(least.sort().values[7:9].mean())
    falls = least < eps
    assert eps < 0.3  # no image is clipped
    attack = PGD("Linf", Quantity(eps), steps=20, loss="margin")
    x_adv = Adversarial.of(attack.perturb(target_of(attack, fixed, X), X, y)).images.detach()
    votes = predict_votes(fixed, x_adv, y, SEEDS, votes=9, batch_size=16).votes
    assert votes.shape == (1, 16)  # one vote says all
    assert torch.equal(votes[0] != y, falls) and int(falls.sum()) == 8


def test_noise_from_a_global_generator_is_fixed_too() -> None:
    class Global(Linear):
        stochastic = True

        def classify(self, x: torch.Tensor) -> torch.Tensor:
            return super().classify(x) + torch.randn(len(x), 2)

    fixed = FixedNoise(Global(noisy().weights.data))
    first = query(fixed, X, SEEDS)
    assert torch.equal(first, query(fixed, X, SEEDS + 5))
    assert torch.equal(first[:3], query(fixed, X[:3], SEEDS[:3]))  # in another batch


def test_a_defense_without_noise_is_refused() -> None:
    with pytest.raises(UserError, match="draws no noise"):
        FixedNoise(BitDepth(Undefended("digits-cnn"), bits=2))


@pytest.mark.parametrize(
    "inner",
    [
        DC("digits-ncsnpp", timesteps=2),
        DiffPure("digits-ncsnpp", Undefended("digits-cnn"), t_star=0.1, dt=0.1),
        DiffPure("digits-ncsnpp", Undefended("digits-cnn"), t_star=0.1, dt=0.1, solver="ddpm"),
        InputDropout(Undefended("digits-cnn"), Quantity(0.1)),
    ],
)
def test_it_has_the_views_the_energy_and_the_costs_of_the_defense_inside(inner: Defense) -> None:
    fixed = FixedNoise(inner)
    assert [fixed.defines(name) for name in ("purify", "purify_adjoint")] == [
        inner.defines(name) for name in ("purify", "purify_adjoint")
    ]
    assert (missing(fixed, "adjoint") is None) == (missing(inner, "adjoint") is None)
    assert callable(getattr(fixed, "energy", None)) == callable(getattr(inner, "energy", None))
    assert (fixed.cost(), fixed.backward_cost) == (inner.cost(), inner.backward_cost)


def test_it_keeps_the_contract_of_a_deterministic_defense() -> None:
    fixed = FixedNoise(InputDropout(Undefended("digits-cnn"), Quantity(0.1))).eval()
    found = {finding.name: finding.status for finding in check_defense(fixed, uniform(SEEDS[:6], (1, 8, 8)))}
    assert {name for name, status in found.items() if status not in ("passed", "skipped")} == set()
