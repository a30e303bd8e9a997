"""The rule by which noise makes a number doubtful, against draws of noisy gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.guard.doubt import (
    DIRECTION,
    JUDGED,
    averaged_draws,
    direction_cosine,
    in_doubt,
    least_cosine_averaging,
    least_cosine_judging,
    of_part,
    plain,
)

DIMENSIONS, TRIALS = 3000, 40


def gradients(count: int, cosine: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The true gradient (D,), and draws of it (TRIALS, count, D) any two of which have this cosine."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randn(DIMENSIONS, generator=generator)
    noise = torch.randn(TRIALS, count, DIMENSIONS, generator=generator) * (1 / cosine - 1) ** 0.5
    return true, true + noise * true.norm() / DIMENSIONS**0.5


def mean_cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.cosine_similarity(a, b, dim=-1).mean())


@pytest.mark.parametrize("cosine", [0.05, 0.33, 0.9])
def test_draws_that_have_a_cosine_have_it_in_the_simulation(cosine: float) -> None:
    _, draws = gradients(2, cosine)
    assert mean_cosine(draws[:, 0], draws[:, 1]) == pytest.approx(cosine, abs=0.02)


@pytest.mark.parametrize("cosine", [0.05, 0.33, 0.9])
@pytest.mark.parametrize("count", [1, 4, 10])
def test_the_mean_of_draws_is_as_close_to_the_true_gradient_as_the_formula_says(cosine: float, count: int) -> None:
    true, draws = gradients(count, cosine)
    assert mean_cosine(draws.mean(1), true) == pytest.approx(direction_cosine(cosine, count), abs=0.02)


@pytest.mark.parametrize(("momentum", "steps"), [(0.0, 5), (0.5, 10), (0.9, 8), (0.9, 60)])
def test_momentum_is_as_close_to_the_true_gradient_as_the_draws_that_it_counts_as(momentum: float, steps: int) -> None:
    true, draws = gradients(steps, 0.1)
    velocity = torch.zeros(TRIALS, DIMENSIONS)
    for step in range(steps):
        velocity = momentum * velocity + draws[:, step]
    expected = direction_cosine(0.1, averaged_draws(momentum, steps))
    assert mean_cosine(velocity, true) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("draws", [1, 3, 19])
def test_at_the_least_cosine_a_direction_is_just_good_enough(draws: int) -> None:
    true, found = gradients(draws, least_cosine_averaging(draws))
    assert mean_cosine(found.mean(1), true) == pytest.approx(DIRECTION, abs=0.02)


@pytest.mark.parametrize("draws", [1, 5, 20])
def test_at_the_least_cosine_two_steps_are_judged_by_gradients_that_just_agree_enough(draws: int) -> None:
    _, found = gradients(2 * draws, least_cosine_judging(draws))
    assert mean_cosine(found[:, :draws].mean(1), found[:, draws:].mean(1)) == pytest.approx(JUDGED, abs=0.02)


def test_a_remark_in_doubt_stays_one_where_it_is_told_of_a_larger_attack() -> None:
    assert plain(of_part("l = 1", in_doubt("no gradient"))) == "l = 1: no gradient"
    assert of_part("l = 1", in_doubt("no gradient")).startswith(in_doubt(""))
    assert of_part("l = 1", "projected") == "l = 1: projected"
    assert in_doubt(in_doubt("twice")) == in_doubt("twice")
