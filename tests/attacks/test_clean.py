from __future__ import annotations

import torch

from attacks.clean import Clean
from harness.attack import Cost
from helpers.linear import Linear, target_of


def test_clean_asks_nothing_and_changes_nothing() -> None:
    attack, x = Clean(), torch.full((2, 1, 2, 2), 0.5)
    target = target_of(attack, Linear(torch.ones(2, 4)), x)
    assert attack.perturb(target, x, torch.tensor([0, 1])).equal(x)
    assert attack.cost(2) == Cost(0, 0)
    assert target.forwards.sum() == target.backwards.sum() == 0
    assert attack.threat.eps == 0
