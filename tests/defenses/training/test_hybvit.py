"""HybViT's joint loss: both terms by hand, each with the share it was given."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from defenses.networks import hybvit
from defenses.training.hybvit import HybViT
from harness.errors import UserError


@pytest.fixture
def network() -> hybvit.HybViT:
    shape = {"img_size": 8, "patch_size": 2, "dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "in_channels": 1}
    return hybvit.HybViT(**shape, timesteps=100)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(6, 1, 8, 8), torch.arange(6)


def kept(t: int) -> float:
    """abar_t of the cosine schedule of 100 steps, by its definition."""

    def curve(s: int) -> float:
        return math.cos(math.pi / 2 * (s / 100 + 0.008) / 1.008) ** 2

    return math.prod(1 - min(0.999, 1 - curve(s + 1) / curve(s)) for s in range(t + 1))


def test_the_loss_is_cross_entropy_on_clean_images_and_the_mean_square_of_the_noise_s_error(
    network: hybvit.HybViT, batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = batch
    asked = []
    estimate = network.noise_estimate
    monkeypatch.setattr(network, "noise_estimate", lambda x_t, t: asked.append((x_t, t)) or estimate(x_t, t))
    loss = HybViT(weight=0.5).loss(network, x, y)
    [(x_t, t)] = asked
    abar = torch.tensor([kept(int(step)) for step in t]).view(-1, 1, 1, 1)
    eps = (x_t - abar.sqrt() * (2 * x - 1)) / (1 - abar).sqrt()
    assert eps.std().item() == pytest.approx(1, abs=0.2)
    expected = F.cross_entropy(network(2 * x - 1), y) + 0.5 * (estimate(x_t, t) - eps).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)


def test_without_denoising_the_loss_is_cross_entropy(network: hybvit.HybViT, batch) -> None:
    x, y = batch
    loss = HybViT(weight=0).loss(network, x, y)
    assert loss.item() == pytest.approx(F.cross_entropy(network(2 * x - 1), y).item(), rel=1e-6)


def test_both_heads_learn(network: hybvit.HybViT, batch) -> None:
    HybViT().loss(network, *batch).backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert without == []


def test_timesteps_come_from_the_whole_schedule(network: hybvit.HybViT, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(network, "noise_estimate", lambda x_t, t: asked.append(t) or x_t)
    HybViT().loss(network, torch.rand(2000, 1, 8, 8), torch.zeros(2000, dtype=torch.int64))
    assert asked[0].unique().tolist() == list(range(100))


def test_another_network_is_told(batch) -> None:
    with pytest.raises(UserError, match="Linear does not denoise"):
        HybViT().loss(nn.Linear(8, 10), *batch)


@pytest.mark.parametrize(("name", "value"), [("weight", -1), ("shift", -1)])
def test_an_argument_that_means_nothing_is_told(name: str, value: int) -> None:
    with pytest.raises(UserError, match=f"{name} is {value}"):
        HybViT(**{name: value})
