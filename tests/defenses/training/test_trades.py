"""TRADES: its two terms against closed forms on a linear network, and its search against the budget."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from defenses.training.trades import TRADES, divergence
from harness.errors import UserError
from harness.quantity import Quantity
from harness.threat import NORMS

EPS = Quantity("1/8")


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).train()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return 0.4 + 0.2 * torch.rand(8, 1, 4, 4), torch.randint(2, (8,))


def test_the_divergence_is_the_sum_of_its_definition() -> None:
    logits, other = torch.randn(5, 4), torch.randn(5, 4)
    total = 0.0
    for z, w in zip(logits.softmax(1).tolist(), other.softmax(1).tolist(), strict=True):
        total += sum(p * (torch.tensor(p).log() - torch.tensor(q).log()).item() for p, q in zip(z, w, strict=True))
    assert divergence(logits, other).item() == pytest.approx(total / 5, rel=1e-4)


def test_with_beta_zero_the_loss_is_cross_entropy(network: nn.Module, batch) -> None:
    x, y = batch
    assert TRADES("Linf", EPS, beta=0).loss(network, x, y).item() == F.cross_entropy(network(x), y).item()


@pytest.mark.parametrize(("norm", "dual"), [("Linf", 1), ("L2", 2)])
def test_of_two_classes_the_worst_divergence_is_at_the_budget_s_end_along_their_difference(
    norm: str, dual: int, network: nn.Module, batch
) -> None:
    """The log-odds w.x + b move by eps times the dual norm of w, up or down, whichever changes the answer more."""
    x, y = batch
    logits = network(x)
    reach = float(EPS) * (network[1].weight[0] - network[1].weight[1]).norm(dual)
    ends = [logits + sign * reach * torch.tensor([0.5, -0.5]) for sign in (1, -1)]
    trainer = TRADES(norm, EPS, beta=3, steps=20)
    found = [divergence(logits[[i]], network(trainer.farthest(network, x))[[i]]).item() for i in range(8)]
    for i, value in enumerate(found):
        candidates = [divergence(logits[[i]], end[[i]]).item() for end in ends]
        assert any(value == pytest.approx(candidate, rel=1e-3) for candidate in candidates)
    loss = trainer.loss(network, x, y).item()
    worst = sum(max(divergence(logits[[i]], end[[i]]).item() for end in ends) for i in range(8)) / 8
    assert F.cross_entropy(logits, y).item() < loss <= F.cross_entropy(logits, y).item() + 3 * worst + 1e-5


@pytest.mark.parametrize("norm", NORMS)
def test_the_search_stays_within_the_budget_and_the_unit_range(norm: str) -> None:
    network, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Tanh(), nn.Linear(3, 5)), torch.rand(8, 1, 4, 4)
    threat = NORMS[norm](EPS)
    found = TRADES(norm, EPS, steps=7, step_size=Quantity(1)).farthest(network, x)
    assert (threat.violation(x, found) <= 1e-6).all()
    assert (threat.size(x, found) > 0.01).all()


def test_both_sides_of_the_divergence_are_trained(network: nn.Module, batch, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = batch
    trainer, x_adv = TRADES("Linf", EPS, beta=2), torch.rand(x.shape)
    monkeypatch.setattr(trainer, "farthest", lambda *_: x_adv)
    trainer.loss(network, x, y).backward()
    weight = network[1].weight.detach().clone().requires_grad_()

    def logits(images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ weight.T + network[1].bias.detach()

    p, q = logits(x).softmax(1), logits(x_adv).softmax(1)
    by_hand = -logits(x).log_softmax(1)[torch.arange(8), y].mean() + 2 * (p * (p / q).log()).sum(1).mean()
    by_hand.backward()
    assert torch.allclose(network[1].weight.grad, weight.grad, atol=1e-5)


def test_the_search_sees_the_network_as_it_will_be_used(network: nn.Module, batch) -> None:
    modes = []
    network.register_forward_hook(lambda module, *_: modes.append(module.training))
    TRADES("Linf", EPS, steps=3).loss(network, *batch).backward()
    assert modes == [False] * 4 + [True] * 2
    assert network.training


@pytest.mark.parametrize("arguments", [{"eps": 8}, {"eps": 0}, {"beta": -1}, {"steps": 0}, {"shift": -1}])
def test_an_argument_that_means_nothing_is_told(arguments: dict[str, float]) -> None:
    name, value = next(iter(arguments.items()))
    options = {"norm": "Linf", "eps": EPS} | arguments
    with pytest.raises(UserError, match=f"{name} is {value}"):
        TRADES(**{**options, "eps": Quantity(options["eps"])})
