"""The random baseline."""

from __future__ import annotations

import pytest
import torch

from attacks.noise import Noise
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.threat import TOLERANCE
from helpers.linear import Linear, NoisyLinear, target_of

X = uniform(torch.arange(30), (1, 4, 4))
Y = torch.zeros(30, dtype=torch.int64)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_more_tries_never_find_less(
    norm: str,
) -> None:
    weights = normal(torch.tensor([1, 2]), (16,))
    lead = ((weights[1] - weights[0]) * X.flatten(1)).sum(1).median()
    defense, fallen = Linear(weights, torch.tensor([lead, 0.0])), []
    for tries in (1, 20):
        attack = Noise(norm, Quantity(3 if norm == "L1" else 0.3), tries=tries)  # type: ignore[arg-type]
        target = target_of(attack, defense, X)
        found = attack.perturb(target, X, Y)
        assert attack.threat.violation(X, found).max() <= TOLERANCE
        assert target.forwards.max() == tries and target.backwards.sum() == 0
        fallen.append(defense(found).argmax(1) != Y)
    assert (fallen[1] >= fallen[0]).all() and fallen[1].sum() > fallen[0].sum()


def test_a_stochastic_defense_is_averaged_and_keeps_its_images() -> None:
    attack = Noise("Linf", Quantity("0.1"), tries=4, eot=3)
    target = target_of(attack, NoisyLinear(normal(torch.tensor([1, 2]), (16,))), X)
    attack.perturb(target, X, Y)
    assert target.forwards.tolist() == [12] * 30
