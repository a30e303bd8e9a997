"""Images that leave AutoAttack's APGD and FAB: those that are fooled and no others, as they were when that happened."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attacks.common.early_stop import AllMisclassified, EarlyStopping, StoppingAPGD, StoppingFAB
from attacks.common.one_draw import OneDraw
from harness.defense import Defense
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.target import Target
from harness.threat import NORMS

SHAPE = (1, 4, 4)


class Linear(Defense):
    """Five classes, by fixed random weights; keeps the lengths of the batches that it is asked about."""

    num_classes = 5

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", normal(torch.arange(5), (16,)))
        self.asked: list[int] = []

    def classify(self, x: Tensor) -> Tensor:
        self.asked.append(len(x))
        return x.flatten(1) @ self.weight.T


def problem(n: int = 6) -> tuple[Linear, OneDraw, Tensor, Tensor]:
    defense, x = Linear(), uniform(torch.arange(n), SHAPE)
    y = defense(x).argmax(1)
    return defense, OneDraw(Target(defense, x, torch.arange(n))), x, y


def misled(defense: Linear, x: Tensor, y: Tensor) -> Tensor:
    """Images beyond the boundary to the next class."""
    return x + 10 * (defense.weight[(y + 1) % 5] - defense.weight[y]).view_as(x)


def distance_to_the_boundary(defense: Linear, x: Tensor, y: Tensor) -> Tensor:
    """In L2, without the bounds of [0, 1]: min_k (z_y - z_k) / ||w_y - w_k||, (N,)."""
    logits, weight = defense(x), defense.weight
    gaps = logits.gather(1, y[:, None]) - logits
    lengths = (weight[y][:, None] - weight[None]).norm(dim=2)
    return (gaps / lengths).scatter(1, y[:, None], torch.inf).amin(1)


def test_only_images_that_stand_are_asked_about() -> None:
    defense, model, x, y = problem()
    stopping = EarlyStopping(model, x, y)
    stopping(x)
    wrong = x.clone()
    wrong[[1, 4]] = misled(defense, x, y)[[1, 4]]
    fooled = torch.tensor([False, True, False, False, True, False])
    assert (defense(wrong).argmax(1) != y).equal(fooled)
    stopping(wrong)
    assert stopping.misclassified.equal(fooled)
    defense.asked.clear()
    logits = stopping(x)
    assert defense.asked == [4]
    assert logits[~fooled].equal(defense(x)[~fooled])
    assert (logits[fooled].argmax(1) != y[fooled]).all()
    assert stopping.found(x).equal(wrong)


def test_a_narrow_miss_is_asked_about_again() -> None:
    _, _, x, y = problem(2)

    class Close(Linear):
        def classify(self, x: Tensor) -> Tensor:
            logits = torch.zeros(len(x), 5)
            logits[:, 0], logits[:, 1] = 1.0, 1.0 + 5e-6
            return logits

    stopping = EarlyStopping(OneDraw(Target(Close(), x, torch.arange(2))), x, torch.zeros_like(y))
    stopping(x)
    assert not stopping.misclassified.any()


def test_images_of_a_group_leave_together_and_nothing_left_ends_the_run() -> None:
    defense, model, x, y = problem(2)
    copies, labels = x.repeat(2, 1, 1, 1), y.repeat(2)
    stopping = EarlyStopping(model, copies, labels, groups=torch.tensor([0, 1, 0, 1]))
    wrong = copies.clone()
    wrong[2] = misled(defense, x, y)[0]
    stopping(wrong)
    assert stopping.misclassified.tolist() == [True, False, True, False]
    wrong[1] = misled(defense, x, y)[1]
    stopping(wrong)
    assert stopping.misclassified.all()
    with pytest.raises(AllMisclassified):
        stopping(wrong)


def test_beyond_the_budget_nothing_counts() -> None:
    defense, model, x, y = problem()
    stopping = EarlyStopping(model, x, y, within=NORMS["Linf"](Quantity("0.001")))
    stopping(misled(defense, x, y))
    assert not stopping.misclassified.any()


@pytest.mark.parametrize("attack", ["apgd", "fab"])
def test_images_near_the_boundary_fall_and_far_ones_stand(attack: str) -> None:
    defense, model, x, y = problem(12)
    away = distance_to_the_boundary(defense, x, y)
    eps = float(away.median())
    options = {"norm": "L2", "eps": eps, "seed": 0, "device": x.device}
    if attack == "apgd":
        images = StoppingAPGD(model, n_iter=40, **options).perturb(x, y)
    else:
        fab = StoppingFAB(model, NORMS["L2"](Quantity(eps)), n_iter=40, n_restarts=1, targeted=True, **options)
        fab.n_target_classes = 4
        images = fab.perturb(x, y)
    fooled = defense(images).argmax(1) != y
    assert (images - x).flatten(1).norm(dim=1).max() <= eps * (1 + 1e-5)
    assert not fooled[away > eps].any()
    assert fooled[away < 0.5 * eps].all()
    assert fooled.any()
