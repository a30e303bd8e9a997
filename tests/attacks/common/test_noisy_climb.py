from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from attacks.common.noisy_climb import AVERAGED, MOMENTUM, MOST_DRAWS, WANTED, climb, draws_needed
from harness.defense import Defense
from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.target import Target
from harness.threat import Linf

N, SIZE = 64, 256
W = normal(torch.tensor([1, 2]), (SIZE,))


class Shaken(Defense):
    """A linear classifier whose gradient carries noise of its own in each draw.

    noise: its size beside the gradient; loudness: the standard deviation of the logarithm of a draw's size.
    """

    stochastic = True
    num_classes = 2

    def __init__(self, noise: float, loudness: float = 0.0) -> None:
        super().__init__()
        self.noise, self.loudness = noise, loudness

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        weights = W[1] - W[0] + self.noise * 2**0.5 * normal(self.seeds_for(x), (SIZE,))
        loud = (self.loudness * normal(self.seeds_for(x), (SIZE + 1,))[:, SIZE]).exp()
        rival = loud * (x.flatten(1) * weights).sum(1)
        return torch.stack([torch.zeros_like(rival), rival], dim=1)


@pytest.mark.parametrize("noise", [0.0, 1.0, 2.0])
def test_the_cosine_between_draws_is_the_one_of_their_signal_and_noise(noise: float) -> None:
    x, y = 0.4 + 0.2 * uniform(torch.arange(N), (1, 16, 16)), torch.zeros(N, dtype=torch.int64)
    target, rows = Target(Shaken(noise), x, torch.arange(N)), torch.arange(N)
    ended = climb(target, x, x, rows, y, torch.full((len(x),), 1e3), Linf(Quantity("0.1")), steps=8, size=0.01)
    assert ended.alive.all()
    assert abs(float(ended.cosine.mean()) - 1 / (1 + noise**2)) < 0.03


def test_draws_bring_the_mean_to_the_wanted_cosine_or_are_as_many_as_allowed() -> None:
    cosines = torch.tensor([1.0, 0.5, 0.12, 0.06, 0.001, math.nan])
    draws = draws_needed(cosines)
    assert draws.tolist()[:2] == [1, 1] and draws[4] == MOST_DRAWS and draws[5] == 1
    for cosine, count in zip(cosines.tolist()[:4], draws.tolist(), strict=False):
        many = AVERAGED * count
        assert math.sqrt(many * cosine / (1 + (many - 1) * cosine)) >= WANTED


def test_momentum_averages_over_as_many_draws_as_its_weights_say() -> None:
    weights = MOMENTUM ** torch.arange(400, dtype=torch.float64)
    assert float(weights.sum() ** 2 / weights.square().sum()) == pytest.approx(AVERAGED)


def test_a_climb_ends_at_the_corner_of_the_true_gradient_under_noise() -> None:
    rows = torch.arange(4)
    x, y = 0.4 + 0.2 * uniform(rows, (1, 16, 16)), torch.zeros(4, dtype=torch.int64)
    target = Target(Shaken(2.0), x, rows)
    ended = climb(target, x, x, rows, y, torch.full((len(x),), 1e3), Linf(Quantity("0.1")), steps=60, size=0.05)
    moved = (ended.images - x).flatten(1)
    assert (moved @ (W[1] - W[0]) / (0.1 * (W[1] - W[0]).abs().sum()) > 0.85).all()


def test_draws_of_huge_logits_weigh_no_more_than_others() -> None:
    """Draws differ in size by a factor of e^3 from one to the next, and the climb goes where it would go otherwise."""
    rows = torch.arange(4)
    x, y = 0.4 + 0.2 * uniform(rows, (1, 16, 16)), torch.zeros(4, dtype=torch.int64)
    ends = [
        climb(
            Target(Shaken(2.0, loudness), x, rows),
            x,
            x,
            rows,
            y,
            torch.full((len(x),), 1e6),
            Linf(Quantity("0.1")),
            steps=40,
            size=0.05,
        ).images
        for loudness in (0.0, 3.0)
    ]
    assert ((ends[0] - ends[1]).abs() < 1e-3).double().mean() > 0.99


def test_a_view_that_raises_for_another_reason_is_not_taken_for_one_without_a_gradient(
    linear: Callable[..., Defense],
) -> None:
    x, rows = torch.full((2, 1, 4, 4), 0.5), torch.arange(2)
    target = Target(linear(torch.zeros(2, 5)), x, rows)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        climb(
            target,
            x,
            x,
            rows,
            torch.zeros(2, dtype=torch.int64),
            torch.ones(2),
            Linf(Quantity("0.1")),
            steps=2,
            size=0.1,
        )
