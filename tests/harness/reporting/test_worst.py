"""The worst case over attacks, against closed forms and simulated defenses whose worst case is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.reporting.stats.accuracy import accuracy, average, exact, wilson
from harness.reporting.stats.worst import chosen, noisy_worst_case, strongest, weakest, worst_case
from harness.results.record import Rule
from helpers.examples import examples

Array = NDArray[np.float64]


def test_a_deterministic_worst_case_needs_an_image_to_withstand_every_attack() -> None:
    attacks = np.array([[1.0, 1, 0, 1], [1, 0, 0, 1]])
    found = worst_case(attacks)
    assert found == accuracy(np.array([1.0, 0, 0, 1])) and (found.low, found.high) == wilson(2, 4)
    assert found.value <= average(attacks).value


def test_an_attack_that_fools_settles_what_another_left_open() -> None:
    attacks = np.array([[math.nan, math.nan, 1.0], [0.0, 1.0, 1.0]])
    assert np.array_equal(weakest(attacks), [0.0, math.nan, 1.0], equal_nan=True)


def naive_choice(draws: Array, judged: int) -> Array:
    """The choosing attacker in loops."""
    attacks, n, v = draws.shape
    out = np.zeros(n)
    for i in range(n):
        for t in range(judged):
            others = [j for j in range(v) if j != t]
            key = [(draws[a, i, others].sum(), np.delete(draws[a], i, axis=0).sum()) for a in range(attacks)]
            tied = [a for a in range(attacks) if key[a] == min(key)]
            out[i] += np.mean([draws[a, i, t] for a in tied]) / judged
    return out


@pytest.mark.parametrize(("attacks", "v", "judged"), [(2, 2, 2), (3, 5, 5), (3, 5, 1), (4, 3, 3)])
def test_the_choosing_attacker_is_that_of_the_definition(attacks: int, v: int, judged: int) -> None:
    generator = np.random.default_rng(v)
    draws = generator.integers(0, 2, (attacks, 24, v)).astype(float)
    assert chosen(draws, judged) == pytest.approx(naive_choice(draws, judged))


@settings(deadline=None, max_examples=examples(80))
@given(st.integers(1, 4), st.integers(2, 5), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_judging_by_the_draw_left_out_is_never_below_the_minimum_of_means(m: int, v: int, n: int, seed: int) -> None:
    draws = np.random.default_rng(seed).integers(0, 2, (m, n, v)).astype(float)
    assert (chosen(draws, v) >= draws.mean(axis=2).min(axis=0) - 1e-12).all()


@settings(deadline=None, max_examples=examples(80))
@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 40),
    st.floats(0, 0.04),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["mean", "single"]),
)
def test_the_value_lies_in_its_interval_and_above_no_attack(
    m: int, v: int, n: int, share: float, seed: int, rule: Rule
) -> None:
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, 2, (m, n, v)).astype(float)
    draws[generator.random((m, n)) < share] = math.nan
    if np.isnan(draws[..., 0]).all(axis=1).any():
        return
    successes = draws.mean(axis=2) if rule == "mean" else draws[..., 0]
    found = noisy_worst_case(draws, successes, rule)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.value <= min(np.nanmean(each) for each in successes) + 1e-12


def test_one_draw_leaves_the_strongest_attack_alone_and_an_interval_down_to_the_union() -> None:
    draws = np.array([[1.0] * 30 + [0.0] * 70, [0.0] * 60 + [1.0] * 40])[..., None]
    found = noisy_worst_case(draws, draws[..., 0], "mean")
    assert found.value == 0.3 and found.low == 0.0
    assert found.high == exact(30, 100, 0.025 / 2)[1]


def test_majorities_cannot_be_split_either() -> None:
    draws = np.random.default_rng(0).integers(0, 2, (3, 60, 5)).astype(float)
    successes = (draws.mean(axis=2) > 0.5).astype(float)
    found = noisy_worst_case(draws, successes, "majority")
    assert found.value == successes.mean(axis=1).min()
    assert np.array_equal(strongest(draws, successes, "majority"), successes[successes.mean(axis=1).argmin()])


def test_equal_draws_of_a_defense_that_hardly_varies_leave_nothing_to_choose() -> None:
    answers = np.repeat((np.arange(100) < 40).astype(float)[None, :, None], 3, axis=0).repeat(5, axis=2)
    found = noisy_worst_case(answers, answers[..., 0], "mean")
    assert found.value == 0.4 and found.low == exact(40, 100)[0] and found.high == exact(40, 100, 0.025 / 4)[1]


def robustness(kind: str, a: float, b: float, attacks: int, shape: tuple[int, int], seed: int) -> Array:
    """Chances that a draw is right, (attacks, *shape): Beta(a, b), equal for all attacks, nested or independent."""
    generator = np.random.default_rng(seed)
    if kind == "independent":
        return generator.beta(a, b, (attacks, *shape))
    one = generator.beta(a, b, shape)
    return np.stack([one ** (1 if kind == "equal" else 1 / (1 + 0.5 * k)) for k in range(attacks)])


BETAS = [(0.5, 0.5), (50, 50), (2, 0.05), (0.05, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["equal", "nested", "independent"])
@pytest.mark.parametrize("votes", [1, 2, 5, 10])
@pytest.mark.parametrize("n", [32, 100, 512])
def test_the_interval_covers_the_true_worst_case(kind: str, votes: int, n: int) -> None:
    """The full simulation is `benchmarks/intervals.py`."""
    runs = 100
    for a, b in BETAS:
        truth = robustness(kind, a, b, 3, (1, 200_000), seed=1).min(axis=0).mean()
        chances = robustness(kind, a, b, 3, (runs, n), seed=2)
        draws = (np.random.default_rng(3).random((*chances.shape, votes)) < chances[..., None]).astype(float)
        found = [noisy_worst_case(draws[:, run], draws[:, run].mean(axis=2), "mean") for run in range(runs)]
        assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.93


def test_the_value_is_no_longer_a_minimum_of_luck() -> None:
    """Three equally strong attacks, 5 draws: the minimum of the means is 18 points too low."""
    draws = (np.random.default_rng(0).random((3, 512, 5)) < 0.5).astype(float)
    found = noisy_worst_case(draws, draws.mean(axis=2), "mean")
    assert draws.mean(axis=2).min(axis=0).mean() < 0.33
    assert abs(found.value - 0.5) < 0.03 and found.low < 0.33 < 0.5 < found.high
