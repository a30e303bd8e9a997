"""Paired differences, against closed forms and a brute-force score test."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.reporting.stats.accuracy import wilson
from harness.reporting.stats.change import change, mcnemar, sign_test, tango
from helpers.examples import examples

Z = 1.96


def brute_force(gains: int, losses: int, n: int) -> tuple[float, float]:
    """All differences whose score test does not reject; nuisance by likelihood over a grid instead of by its root."""
    kept = []
    for difference in np.linspace(-0.9995, 0.9995, 1000):
        low, high = max(0.0, -difference), (1 - difference) / 2
        lost = np.linspace(low, high, 4001)[1:-1]
        gained, rest = lost + difference, 1 - 2 * lost - difference
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = [
                np.where(k > 0, k * np.log(p), 0)
                for k, p in ((gains, gained), (losses, lost), (n - gains - losses, rest))
            ]
        best = lost[np.argmax(np.nan_to_num(sum(parts), nan=-np.inf))]
        score = (gains - losses - n * difference) ** 2 / (n * (2 * best + difference - difference**2))
        if score <= Z**2:
            kept.append(difference)
    return min(kept), max(kept)


@pytest.mark.parametrize(("gains", "losses", "n"), [(1, 4, 20), (0, 3, 10), (12, 2, 50), (5, 5, 32), (0, 0, 30)])
def test_the_interval_is_that_of_the_score_test(gains: int, losses: int, n: int) -> None:
    assert tango(gains, losses, n) == pytest.approx(brute_force(gains, losses, n), abs=3e-3)


@pytest.mark.parametrize("n", [1, 8, 512])
def test_unchanged_images_leave_the_room_that_wilson_leaves_at_none(n: int) -> None:
    low, high = tango(0, 0, n)
    assert (-low, high) == pytest.approx((wilson(0, n)[1],) * 2)


def test_a_change_of_every_image_reaches_the_end() -> None:
    assert tango(10, 0, 10)[1] == 1 and tango(0, 10, 10)[0] == -1


STEPS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30)


@settings(deadline=None, max_examples=examples(60))
@given(STEPS)
def test_the_interval_holds_the_change_and_turns_with_it(votes: list[tuple[int, int]]) -> None:
    before, after = np.array(votes, dtype=float).T / 5
    forth, back = change(before, after), change(after, before)
    assert -1 <= forth.low <= forth.value + 1e-12 and forth.value - 1e-12 <= forth.high <= 1
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low)) and forth.p == back.p
    assert forth.value == pytest.approx(after.mean() - before.mean())


def test_fractional_steps_are_less_uncertain_than_whole_ones_but_never_than_none() -> None:
    still = np.zeros(400)
    fifths = np.where(np.arange(400) % 2, 0.2, -0.2)
    whole = change(still + 0.5, still + 0.5 + np.sign(fifths) / 2 * 1.0)
    small = change(still + 0.5, still + 0.5 + fifths)
    none = change(still, still)
    assert whole.high > small.high >= none.high == pytest.approx(Z**2 / (400 + Z**2))
    assert small.high == pytest.approx(1.96 * 0.2 / 20, rel=0.05)


def test_p_is_mcnemars() -> None:
    found = change(np.array([1.0] * 8 + [0.0] * 4), np.array([0.0] * 7 + [1.0] * 2 + [0.0] * 3))
    assert found.p == pytest.approx(2 * (1 + 8) / 2**8)


@settings(deadline=None, max_examples=examples(60))
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=9))
def test_p_is_the_share_of_signs_that_move_the_sum_as_far(votes: list[tuple[int, int]]) -> None:
    whole = [after - before for before, after in votes]
    sums = [sum(sign * step for sign, step in zip(signs, whole, strict=True)) for signs in _all_signs(len(whole))]
    expected = np.mean([abs(total) >= abs(sum(whole)) for total in sums])
    assert sign_test(np.array(whole) / 5) == pytest.approx(expected, abs=1e-9)


def _all_signs(count: int) -> list[tuple[int, ...]]:
    return list(itertools.product((-1, 1), repeat=count))


def test_p_and_interval_agree_where_many_small_gains_outweigh_few_large_losses() -> None:
    """60 images rise by 0.2 and 12 fall by 1: the accuracies are equal, though five times as many images went up."""
    steps = np.array([0.2] * 60 + [-1.0] * 12 + [0.0] * 128)
    found = change(np.ones(200) * (steps < 0), np.ones(200) * (steps < 0) + steps)
    assert found.value == pytest.approx(0) and found.p == 1 and found.low < 0 < found.high
    assert mcnemar(12, 60) < 1e-8


def test_draws_of_different_numbers_are_tested_together() -> None:
    assert sign_test(np.array([1 / 3, 1 / 5, 1 / 2])) == pytest.approx(0.25)


def test_equal_defenses_are_called_different_no_more_often_than_the_level_says() -> None:
    generator = np.random.default_rng(0)
    p = generator.beta(0.5, 0.5, (400, 64))
    first, second = generator.binomial(5, p) / 5, generator.binomial(5, p) / 5
    found = [change(*pair) for pair in zip(first, second, strict=True)]
    assert np.mean([one.p < 0.05 for one in found]) <= 0.07
    assert np.mean([one.low <= 0 <= one.high for one in found]) >= 0.93
