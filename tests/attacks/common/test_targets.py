"""MALT's order of the rivals: against a loop over classes, and where it decides which restart finds an image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attacks.apgd import APGD
from attacks.common.losses import LossName, rivals
from attacks.common.norms import Norm, ball
from attacks.common.targets import CANDIDATES, gradients_to_order, nearest_first
from attacks.pgd import PGD
from harness.defense import Defense
from harness.quantity import Quantity
from harness.randomness import normal
from harness.target import Target

ORDERS: dict[Norm, float] = {"Linf": 1, "L2": 2, "L1": float("inf")}


class Network(Defense):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.num_classes = classes
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, classes))

    def classify(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


class Steep(Defense):
    """Class 0; class 1 is close behind and hardly moves with the image, class 2 far behind and steep the other way."""

    num_classes = 3

    def classify(self, x: Tensor) -> Tensor:
        pixels = x.flatten(1).mean(1) - 0.5
        return torch.stack([torch.ones_like(pixels), 0.9 - 0.1 * pixels, 10 * pixels], 1)


def images(count: int, shape: tuple[int, ...] = (1, 4, 4)) -> Tensor:
    return (0.5 + 0.1 * normal(torch.arange(count), shape)).clamp(0, 1)


def view(defense: Defense, x: Tensor) -> Target:
    return Target(defense.eval(), x, torch.arange(len(x)))


@pytest.mark.parametrize("norm", ORDERS)
def test_the_order_is_that_of_a_loop_over_classes_and_images(norm: Norm) -> None:
    defense, x, y = Network(7), images(5), torch.tensor([0, 1, 2, 3, 6])
    found = nearest_first(view(defense, x), x, y, ball(norm, Quantity("0.1")))
    for image, label, order in zip(x, y.tolist(), found.tolist(), strict=True):
        distances = {}
        for rival in (t for t in range(7) if t != label):
            leaf = image[None].clone().requires_grad_()
            logits = defense.classify(leaf)[0]
            gap = logits[label] - logits[rival]
            (grad,) = torch.autograd.grad(gap, leaf)
            steepness = torch.linalg.vector_norm(grad.flatten(), ORDERS[norm])
            distances[rival] = (gap / steepness).item()
        assert order == sorted(distances, key=lambda rival: distances[rival])


def test_the_order_is_not_always_that_of_the_logits() -> None:
    defense, x, y = Network(7), images(5), torch.tensor([0, 1, 2, 3, 6])
    found = nearest_first(view(defense, x), x, y, ball("Linf", Quantity("0.1")))
    by_logits = rivals(defense.classify(x), y)
    assert (found != by_logits).any() and torch.equal(found.sort(1).values, by_logits.sort(1).values)


@pytest.mark.parametrize("attack", [PGD, APGD])
def test_malt_finds_in_the_first_restart_what_the_order_of_logits_finds_in_the_second(
    attack: type[PGD] | type[APGD],
) -> None:
    x, y = torch.full((2, 1, 4, 4), 0.5), torch.tensor([0, 0])

    def fooled(loss: LossName, restarts: int) -> bool:
        found = attack("Linf", Quantity("0.2"), steps=10, loss=loss, restarts=restarts).perturb(view(Steep(), x), x, y)
        assert isinstance(found, Tensor)
        return bool((Steep().classify(found).argmax(1) != y).all())

    assert fooled("margin-malt", 1)
    assert not fooled("margin-targeted", 1)
    assert fooled("margin-targeted", 2)


def test_a_class_without_a_gradient_comes_last() -> None:
    class Flat(Steep):
        def classify(self, x: Tensor) -> Tensor:
            logits = super().classify(x)
            return torch.stack([logits[:, 0], torch.full_like(logits[:, 0], 0.999), logits[:, 2]], 1)

    x, y = torch.full((1, 1, 4, 4), 0.5), torch.tensor([0])
    assert nearest_first(view(Flat(), x), x, y, ball("L2", Quantity("0.1"))).tolist() == [[2, 1]]


def test_only_the_strongest_rivals_are_put_in_order() -> None:
    defense, x, y = Network(CANDIDATES + 4), images(2), torch.tensor([0, 1])
    target = view(defense, x)
    found = nearest_first(target, x, y, ball("Linf", Quantity("0.1")))
    assert torch.equal(found[:, CANDIDATES:], rivals(defense.classify(x), y)[:, CANDIDATES:])
    assert target.backwards.tolist() == [CANDIDATES] * 2
    assert gradients_to_order(CANDIDATES + 4) == CANDIDATES and gradients_to_order(10) == 9


@pytest.mark.parametrize("loss", ["ce-malt", "dlr-malt", "margin-malt", "pma"])
def test_the_passes_are_what_the_cost_says(loss: LossName) -> None:
    defense, x = Network(7), images(3)
    y, attack = defense.classify(x).argmax(1), PGD("Linf", Quantity("1e-6"), steps=3, restarts=2, loss=loss)
    target = view(defense, x)
    attack.perturb(target, x, y)
    cost = attack.cost(7)
    assert target.forwards.tolist() == [cost.forwards] * 3 and target.backwards.tolist() == [cost.backwards] * 3
