from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.report.paired import holm, mcnemar, paired, unpaired


def outcomes(n11: int, n10: int, n01: int, n00: int) -> tuple[Any, Any]:
    first = [True] * (n11 + n10) + [False] * (n01 + n00)
    second = [True] * n11 + [False] * n10 + [True] * n01 + [False] * n00
    return np.array(first), np.array(second)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_the_binomial_test_of_the_discordant_images(lost: int, gained: int) -> None:
    expected = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == pytest.approx(expected)


def test_the_unpaired_interval_is_newcombes_published_one() -> None:
    """56 of 70 and 48 of 80 (Newcombe, 1998, Table II, example a, method 10)."""
    found = unpaired(np.arange(70) < 56, np.arange(80) < 48)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert found.p is None and found.lost is None


def test_the_paired_interval_is_newcombes_published_one() -> None:
    """36, 12, 2, 0 of 50 pairs (Newcombe, 1998, on paired data, method 10)."""
    found = paired(*outcomes(36, 12, 2, 0))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0569, 0.3404), abs=1e-4)
    assert (found.lost, found.gained) == (12, 2) and found.p == pytest.approx(stats.binomtest(2, 14).pvalue)


@settings(max_examples=100, deadline=None)
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
