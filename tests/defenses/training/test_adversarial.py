"""Adversarial training on a linear network, whose worst case is known in closed form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from defenses.training.adversarial import Adversarial
from harness.errors import UserError


@pytest.fixture
def network() -> nn.Module:
    """Two classes, with a layer that differs between training and evaluation."""
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.Dropout(0.9)).train()


@pytest.mark.parametrize(("norm", "dual"), [("Linf", 1), ("L2", 2)])
def test_the_loss_is_that_of_the_worst_image(norm: str, dual: int, network: nn.Module) -> None:
    """The margin w.x + b falls by eps times the dual norm of w, w the difference of the two rows."""
    network[2] = nn.Identity()
    x, y = 0.4 + 0.2 * torch.rand(8, 1, 4, 4), torch.randint(2, (8,))
    straight = {"steps": 1, "step_size": 0.3, "random_start": False}  # past the worst point of the ball, and back to it
    trainer = Adversarial({"type": "pgd", "norm": norm, "eps": "1/8", "early_stop": False, **straight})
    rows = network[1].weight[y] - network[1].weight[1 - y]
    margins = (network(x)[torch.arange(8), y] - network(x)[torch.arange(8), 1 - y]) - rows.norm(dual, dim=1) / 8
    assert trainer.loss(network, x, y).item() == pytest.approx(F.softplus(-margins).mean().item(), rel=1e-4)


def test_the_clean_share_is_mixed_in(network: nn.Module) -> None:
    network[2] = nn.Identity()
    x, y = torch.rand(8, 1, 4, 4), torch.randint(2, (8,))
    attack = {"type": "pgd", "norm": "Linf", "eps": 0.1, "steps": 5, "random_start": False, "early_stop": False}
    adversarial, mixed = (Adversarial(attack, clean=share).loss(network, x, y) for share in (0.0, 0.25))
    expected = 0.75 * adversarial + 0.25 * F.cross_entropy(network(x), y)
    assert mixed.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_attack_sees_the_network_as_it_will_be_used(network: nn.Module) -> None:
    modes = []
    network.register_forward_hook(lambda module, *_: modes.append(module.training))
    attack = {"type": "pgd", "norm": "Linf", "eps": 0.1, "steps": 3, "early_stop": False}
    Adversarial(attack).loss(network, torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64)).backward()
    assert modes == [False] * (len(modes) - 1) + [True]
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ({"norm": "Linf"}, "there is no attack 'attack'"),
        ({"type": "pgd", "norm": "Linf", "eps": 8}, r"eps.* is 8"),
        ({"type": "pgd", "norm": "Linf", "eps": 0.1, "stesp": 3}, "Did you mean 'steps'"),
    ],
)
def test_an_attack_that_is_none_is_told(attack: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Adversarial(attack)
