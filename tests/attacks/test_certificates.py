"""An attack that beats a certificate is a bug in the attack, the budget or the certificate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attacks.apgd import APGD
from attacks.autoattack import AutoAttack
from attacks.crossover import Crossover
from attacks.pgd import PGD
from defenses.networks.strided_cnn import StridedCNN
from defenses.undefended import Undefended
from harness import datasets, settings
from harness.attack import Adversarial, Attack
from harness.errors import UserError
from harness.quantity import Quantity
from harness.randomness import fenced, uniform
from harness.target import Target
from harness.weights import published
from harness.weights.normalization import NormalizedNetwork
from helpers.certificate import certified_margins

IMAGES = 12


def network() -> StridedCNN:
    """A network that answers differently on different random images."""
    with fenced(3):
        net = StridedCNN(image_size=8, widths=(3, 4), kernel=4, hidden=12, num_classes=4).eval().requires_grad_(False)
    net[7].bias -= net(uniform(torch.arange(IMAGES), (1, 8, 8))).mean(0)
    return net


def attacked(attack: Attack, defense: NormalizedNetwork, x: Tensor, y: Tensor) -> Tensor:
    """Which images the attack's result is misclassified on, (N,) bool; all results lie in the budget."""
    target = Target(defense, x, torch.arange(len(x)), gradient=attack.gradient, eot=attack.eot)
    images = Adversarial.of(attack.perturb(target, x.clone(), y.clone())).images
    assert not attack.threat.violation(x, images).gt(1e-6).any()
    return defense(images).argmax(1) != y


def attacks(eps: str) -> list[Attack]:
    budget = Quantity(eps)
    return [
        PGD("Linf", budget, steps=20, loss="margin"),
        APGD("Linf", budget, steps=20, loss="dlr"),
        AutoAttack("Linf", budget, "custom", ["apgd-ce", "square"], apgd_steps=10, square_queries=30),
        Crossover("Linf", budget, population=4, generations=2, steps=5),
    ]


def certified(net: nn.Sequential, x: Tensor, y: Tensor, eps: float) -> Tensor:
    bounds = [certified_margins(net, image, int(label), eps).min() for image, label in zip(x, y, strict=True)]
    return torch.stack(bounds) > 1e-4


def test_the_certificate_bounds_every_image_that_is_drawn_from_the_budget() -> None:
    net, eps = network(), 0.05
    for seed in range(IMAGES):
        x = uniform(torch.tensor([seed]), (1, 8, 8))[0]
        y = int(net(x[None]).argmax())
        corners = torch.where(uniform(torch.arange(300), (1, 8, 8)) < 0.5, x - eps, x + eps).clamp(0, 1)
        logits = net(corners).double()
        margins = torch.cat([(logits[:, [y]] - logits[:, :y]), (logits[:, [y]] - logits[:, y + 1 :])], 1)
        assert (certified_margins(net, x, y, eps) <= margins.amin(0) + 1e-6).all()


def test_without_a_budget_the_certificate_is_the_margin() -> None:
    net, x = network(), uniform(torch.tensor([0]), (1, 8, 8))[0]
    logits = net(x[None])[0]
    assert torch.allclose(certified_margins(net, x, 1, 0.0), (logits[1] - logits[[0, 2, 3]]).double(), atol=1e-5)


def test_no_attack_beats_the_certificate_of_a_small_network_and_larger_budgets_are_beaten() -> None:
    net, x = network(), uniform(torch.arange(IMAGES), (1, 8, 8))
    y = net(x).argmax(1)
    safe = certified(net, x, y, 0.005)
    assert 3 <= safe.sum() < IMAGES
    for attack in attacks("0.005"):
        assert not attacked(attack, NormalizedNetwork(net), x, y)[safe].any(), attack.describe()
    for attack in attacks("0.05"):
        assert attacked(attack, NormalizedNetwork(net), x, y)[safe].any(), attack.describe()


@pytest.mark.long
def test_no_attack_beats_the_certificate_of_the_published_provable_network() -> None:
    """Wong and Kolter's network (`harness weights fetch mnist-provable`) on MNIST, both in the user's cache."""
    entry = published.find("mnist-provable")
    if not entry.present():
        pytest.skip(f"{entry.path()} is missing: harness weights fetch mnist-provable")
    try:
        data = datasets.load("mnist", "test", offline=True)
    except UserError as error:
        pytest.skip(f"MNIST is not in {settings.data_root()}: {error.message}")
    defense = Undefended("mnist-provable")
    x, y = data.images[:IMAGES], data.labels[:IMAGES]
    net = defense.network
    assert isinstance(net, StridedCNN)
    safe = certified(net, x, y, 0.1)
    assert safe.sum() >= IMAGES - 2
    for attack in attacks("0.1"):
        assert not attacked(attack, NormalizedNetwork(net), x, y)[safe].any(), attack.describe()
