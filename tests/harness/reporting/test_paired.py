from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.reporting.stats.change import mcnemar, tango
from harness.reporting.stats.paired import holm, paired, unpaired
from helpers.examples import examples


def outcomes(n11: int, n10: int, n01: int, n00: int) -> tuple[Any, Any]:
    first = [True] * (n11 + n10) + [False] * (n01 + n00)
    second = [True] * n11 + [False] * n10 + [True] * n01 + [False] * n00
    return np.array(first, dtype=float), np.array(second, dtype=float)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_the_binomial_test_of_the_discordant_images(lost: int, gained: int) -> None:
    expected = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == pytest.approx(expected)


def test_the_unpaired_interval_is_newcombes_published_one() -> None:
    """56 of 70 and 48 of 80 (Newcombe, 1998, Table II, example a, method 10)."""
    found = unpaired((np.arange(70) < 56).astype(float), (np.arange(80) < 48).astype(float))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert found.p is None and found.lost is None


def test_the_paired_interval_is_tangos() -> None:
    """Newcombe's, by another method, is 0.0569 to 0.3404 for these pairs (1998, on paired data, method 10)."""
    found = paired(*outcomes(36, 12, 2, 0))
    assert (found.low, found.high) == tango(12, 2, 50)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0569, 0.3404), abs=5e-3)
    assert (found.lost, found.gained) == (12, 2) and found.p == pytest.approx(stats.binomtest(2, 14).pvalue)


def test_draws_that_are_right_more_often_are_a_difference_too() -> None:
    found = paired(np.array([1.0, 0.6, 0.4, 0.2] * 8), np.array([0.8, 0.4, 0.4, 0.2] * 8))
    assert found.value == pytest.approx(0.1) and (found.lost, found.gained) == (16, 0)
    assert found.p == pytest.approx(2 / 2**16)


def test_fractional_successes_on_different_images_have_an_interval() -> None:
    first, second = np.full(40, 0.6), np.full(30, 0.4)
    found = unpaired(first, second)
    whole = unpaired((np.arange(40) < 24).astype(float), (np.arange(30) < 12).astype(float))
    assert (found.value, found.low, found.high) == pytest.approx((whole.value, whole.low, whole.high))


@settings(max_examples=examples(100), deadline=None)
@given(*[st.integers(0, 30)] * 4)
def test_swapping_the_sides_mirrors_the_difference(n11: int, n10: int, n01: int, n00: int) -> None:
    if n11 + n10 + n01 + n00 == 0:
        return
    there, back = paired(*outcomes(n11, n10, n01, n00)), paired(*outcomes(n11, n01, n10, n00))
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert there.low <= there.value <= there.high and there.p == back.p
    assert all(math.isfinite(x) and -1 <= x <= 1 for x in (there.low, there.high))


def test_holm_steps_down_and_stops_at_the_first_failure() -> None:
    assert holm([0.01, 0.04, 0.02, None]) == [True, True, True, False]
    assert holm([0.03, 0.001, 0.03]) == [False, True, False]
    assert holm([]) == []
