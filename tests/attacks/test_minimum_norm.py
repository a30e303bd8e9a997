"""Minimum-norm attacks on linear classifiers, whose distance from the boundary is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.common.minimum_norm import annealed
from attacks.ddn import DDN
from attacks.fmn import FMN
from harness.attack import Adversarial, Attack
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from helpers.linear import Linear, NoisyLinear, target_of

N, SHAPE = 24, (1, 4, 4)
X = 0.4 + 0.2 * uniform(torch.arange(N), SHAPE)
W = normal(torch.tensor([1, 2]), (16,))
ATTACKS: dict[str, Any] = {
    "fmn Linf": lambda eps: FMN("Linf", Quantity(eps)),
    "fmn L2": lambda eps: FMN("L2", Quantity(eps)),
    "ddn": lambda eps: DDN(Quantity(eps)),
}
DUAL = {"fmn Linf": 1.0, "fmn L2": 2.0, "ddn": 2.0}


def distances(defense: Linear, y: Tensor, dual: float) -> Tensor:
    """|z_y - z_j| / ||w_y - w_j||_q, (N,): of two classes, away from the edges of the box."""
    logits = defense(X)
    gap = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None]))[:, 0]
    return gap.detach() / torch.linalg.vector_norm((W[0] - W[1]), dual)


def attacked(attack: Attack, defense: Linear, y: Tensor) -> Tensor:
    return Adversarial.of(attack.perturb(target_of(attack, defense, X), X, y)).images.detach()


@pytest.mark.parametrize("name", ATTACKS)
def test_the_distance_is_that_of_the_boundary(name: str) -> None:
    defense, attack = Linear(W), ATTACKS[name]("2" if name != "fmn Linf" else "0.4")
    y = defense(X).argmax(1)
    exact = distances(defense, y, DUAL[name])
    x_adv = attacked(attack, defense, y)
    assert (defense(x_adv).argmax(1) != y).all()
    found = attack.threat.size(X, x_adv)
    assert (found >= exact * (1 - 1e-4)).all()  # nothing is nearer than the boundary
    assert (found <= exact * 1.03 + 1e-3).all(), (found / exact).max()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_image_farther_than_eps_is_left_as_it_is(name: str) -> None:
    defense = Linear(W)
    y = defense(X).argmax(1)
    exact = distances(defense, y, DUAL[name])
    eps = float(exact.sort().values[N // 2 - 1 : N // 2 + 1].mean())
    x_adv = attacked(ATTACKS[name](str(eps)), defense, y)
    near = exact < eps * 0.97
    assert (defense(x_adv).argmax(1) != y)[near].all() and near.sum() > 3
    assert x_adv[exact > eps].equal(X[exact > eps])


def test_a_lucky_draw_is_no_nearest_image() -> None:
    assert "lucky draw" in str(FMN("L2", Quantity("1")).unsuitable(NoisyLinear(W)))


def test_a_gradient_of_zero_is_remarked_on() -> None:
    flat = Linear(torch.zeros(2, 16), torch.tensor([1.0, 0.0]))
    attack = DDN(Quantity("1"), steps=3)
    result = attack.perturb(target_of(attack, flat, X), X, torch.zeros(N, dtype=torch.int64))
    assert isinstance(result, Adversarial) and result.remarks is not None
    assert all("gradient was zero" in remark for (remark,) in result.remarks)


def test_sizes_fall_along_a_cosine() -> None:
    assert list(annealed(1.0, 0.0, 5)) == pytest.approx([1.0, 0.853553, 0.5, 0.146447, 0.0], abs=1e-6)
