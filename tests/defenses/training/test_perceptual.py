"""Perceptual adversarial training: the distance by its definition, its bound, and what the search is worth."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.networks.pat_resnet import PATResNet
from defenses.training.perceptual import Perceptual, features
from harness.errors import UserError
from helpers.lpips import distance


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = PATResNet((1, 1, 1, 1), width=4, in_channels=1, mean=[0.5], std=[0.5])
    network.linear.weight.data *= 100  # so that it tells images apart without training
    return network


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(6, 1, 8, 8, generator=generator), torch.arange(6)


def test_features_are_as_far_apart_as_the_distance_says(network: nn.Module, batch) -> None:
    network.eval()
    x, _ = batch
    x_adv = (x + 0.1 * torch.randn(x.shape)).clamp(0, 1)
    with torch.no_grad():
        found = (features(network, x) - features(network, x_adv)).norm(dim=1)
        for i in range(2):
            assert found[i].item() == pytest.approx(distance(network, x[[i]], x_adv[[i]]), rel=1e-4)


@pytest.mark.parametrize("bound", [0.05, 0.5])
def test_what_is_found_is_within_the_bound_and_worse_than_the_image(bound: float, network: nn.Module, batch) -> None:
    x, y = batch
    found = Perceptual(bound, steps=8).worst(network, x, y)
    network.eval()
    with torch.no_grad():
        moved = (features(network, found) - features(network, x)).norm(dim=1)
        losses = [F.cross_entropy(network(network.preprocessing(images)), y) for images in (x, found)]
    assert ((moved <= bound * 1.0001) & (moved > 0.2 * bound)).all()
    assert ((found >= 0) & (found <= 1)).all()
    assert losses[1] > losses[0]


def test_the_loss_is_cross_entropy_on_what_was_found(network: nn.Module, batch, monkeypatch) -> None:
    x, y = batch
    trainer, other = Perceptual(), torch.rand(x.shape)
    monkeypatch.setattr(trainer, "worst", lambda *_: other)
    network.eval()
    expected = F.cross_entropy(network(2 * other - 1), y)
    assert trainer.loss(network, x, y).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_search_leaves_the_network_as_it_was(network: nn.Module, batch) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    Perceptual(steps=2).worst(network, *batch)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_that_hides_its_activations_is_told(batch) -> None:
    with pytest.raises(UserError, match="Sequential does not show its activations"):
        Perceptual().loss(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), *batch)


@pytest.mark.parametrize(("name", "value"), [("bound", 0), ("steps", 0), ("shift", -1)])
def test_an_argument_that_means_nothing_is_told(name: str, value: int) -> None:
    with pytest.raises(UserError, match=f"{name} is {value}"):
        Perceptual(**{name: value})
