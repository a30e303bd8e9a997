from __future__ import annotations

import torch
from torch import Tensor

from attacks.common.candidates import CLEAN, Candidates
from harness.defense import Defense
from harness.randomness import fold, uniform
from harness.target import Target

N = 200
Y = torch.zeros(N, dtype=torch.int64)


class Coin(Defense):
    """Misclassifies an image as often as its first pixel says, by a margin that is its second pixel."""

    stochastic = True
    num_classes = 2

    def classify(self, x: Tensor) -> Tensor:
        pixels = x.flatten(1)
        wrong = uniform(fold(self.seeds_for(x), 3), (1,))[:, 0] < pixels[:, 0]
        margin = torch.where(wrong, pixels[:, 1], -0.01)
        return torch.stack([torch.zeros_like(margin), margin], dim=1)


def coins(rate: float, margin: float) -> Tensor:
    return torch.tensor([rate, margin, 0.0, 0.0]).view(1, 1, 2, 2).repeat(N, 1, 1, 1)


def candidates(x: Tensor, least: int = 8) -> Candidates:
    return Candidates(Target(Coin(), x, torch.arange(N)), x, Y, least)


def test_the_candidate_of_the_higher_rate_is_kept_though_the_other_has_the_larger_loss() -> None:
    rows = torch.arange(N)
    kept = candidates(coins(0.0, 0.1))
    for rate, margin in ((0.4, 1.0), (0.9, 0.1), (0.4, 1.0)):
        kept.renew(rows, 8)
        kept.challenge(coins(rate, margin), rows, 8, 0)
    assert (kept.images[:, 0, 0, 0] == 0.9).float().mean() > 0.95


def test_an_image_stands_until_every_draw_of_it_is_misclassified() -> None:
    assert len(candidates(coins(1.0, 0.5)).standing()) == 0
    assert len(candidates(coins(0.0, 0.5)).standing()) == N
    share = len(candidates(coins(0.5, 0.5), least=2).standing()) / N
    assert abs(share - 0.75) < 0.1  # 1 - 0.5^2


def test_an_image_stands_until_enough_draws_of_it_are_misclassified() -> None:
    rows, kept = torch.arange(N), candidates(coins(0.0, 0.5), least=8)
    kept.challenge(coins(1.0, 0.5), rows, 4, 0)
    assert len(kept.standing()) == N
    kept.renew(rows, 4)
    assert len(kept.standing()) == 0


def test_the_luck_that_an_image_is_kept_by_is_gone_once_it_is_drawn_again() -> None:
    rows, kept = torch.arange(N), candidates(coins(0.5, 0.5), least=4)
    for _ in range(4):
        kept.challenge(coins(0.5, 0.5), rows, 4, 0)
    assert kept.score.rate.mean() > 0.7  # the luckiest of five
    kept.renew(rows, 4)
    assert abs(kept.score.rate.mean() - 0.5) < 0.06


def test_equal_rates_are_told_apart_by_the_mean_margin() -> None:
    rows, kept = torch.arange(N), candidates(coins(1.0, 0.2))
    kept.challenge(coins(1.0, 0.1), rows, 8, 0)
    assert kept.images.equal(coins(1.0, 0.2)) and (kept.source == CLEAN).all()
    kept.challenge(coins(1.0, 0.3), rows, 8, 1)
    assert kept.images.equal(coins(1.0, 0.3)) and (kept.source == 1).all()
