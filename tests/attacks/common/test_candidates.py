from __future__ import annotations

import torch
from torch import Tensor

from attacks.common.candidates import Candidates
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


def candidates(x: Tensor, votes: int = 8) -> Candidates:
    return Candidates(Target(Coin(), x, torch.arange(N)), x, Y, votes)


def test_the_candidate_of_the_higher_rate_is_kept_though_the_other_has_the_larger_loss() -> None:
    rows = torch.arange(N)
    kept = candidates(coins(0.0, 0.1))
    kept.challenge(coins(0.4, 1.0), rows)
    kept.challenge(coins(0.9, 0.1), rows)
    kept.challenge(coins(0.4, 1.0), rows)
    assert kept.images.equal(coins(0.9, 0.1)) or (kept.images[:, 0, 0, 0] == 0.9).float().mean() > 0.97


def test_an_image_stands_until_every_draw_of_it_is_misclassified() -> None:
    assert len(candidates(coins(1.0, 0.5)).standing()) == 0
    assert len(candidates(coins(0.0, 0.5)).standing()) == N
    share = len(candidates(coins(0.5, 0.5), votes=2).standing()) / N
    assert abs(share - 0.75) < 0.1  # 1 - 0.5^2


def test_a_challenger_that_only_looks_better_must_repeat_it() -> None:
    rows, kept = torch.arange(N), candidates(coins(0.5, 0.5), votes=4)
    first = kept.score.rate.clone()
    _, won = kept.challenge(coins(0.5, 0.500001), rows)
    assert 0.2 < won.float().mean() < 0.5  # a better look, and a better look at both: less than half
    assert (kept.score.draws[won] == 8).all()
    assert (kept.score.rate - 0.5).abs().mean() < (first - 0.5).abs().mean()


def test_equal_rates_are_told_apart_by_the_mean_margin() -> None:
    rows, kept = torch.arange(N), candidates(coins(1.0, 0.2))
    assert kept.challenge(coins(1.0, 0.1), rows)[1].sum() == 0
    assert kept.challenge(coins(1.0, 0.3), rows)[1].all()
