from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.reporting.stats.accuracy import accuracy, average, exact, failed, wilson
from harness.reporting.tables.outcomes import clean_draws, clean_successes, robust_draws, robust_successes
from harness.results.columns import Columns
from harness.results.record import NO_CLASS, RULES, Record, Rule, vote
from helpers.examples import examples

VOTES = st.lists(st.integers(0, 3), min_size=1, max_size=7)


def records(images: list[list[int]], labels: list[int]) -> Columns:
    """Images with these votes, before the attack and after it."""
    rest = (0.0, 0.0, 0.0, None, 0.0, 1, 1, 0.0, 0)
    pairs = zip(images, labels, strict=True)
    return Columns.of(
        Record(i, label, "robust", votes, votes, [0.0] * len(votes), [0.0] * len(votes), *rest)
        for i, (votes, label) in enumerate(pairs)
    )


def success(votes: list[int], label: int, rule: Rule) -> float:
    """Of a single image."""
    return float(clean_successes(records([votes], [label]), rule)[0])


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_agrees_with_the_published_examples(successes: int, n: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-4)


def test_wilson_does_not_collapse_at_the_ends() -> None:
    assert wilson(32, 32) == pytest.approx((0.893, 1.0), abs=5e-4)
    assert wilson(0, 32) == pytest.approx((0.0, 0.107), abs=5e-4)


@given(st.integers(1, 2000), st.floats(0, 1))
@settings(deadline=None, max_examples=50)
def test_wilson_agrees_with_scipy(n: int, share: float) -> None:
    successes = round(share * n)
    known = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson(successes, n, z=stats.norm.ppf(0.975)) == pytest.approx((known.low, known.high), abs=1e-9)


@given(st.integers(1, 500), st.floats(0, 1))
@settings(deadline=None, max_examples=50)
def test_wilson_holds_the_proportion_and_mirrors_it(n: int, p: float) -> None:
    low, high = wilson(p * n, n)
    assert 0 <= low <= p + 1e-12 and p - 1e-12 <= high <= 1
    assert wilson(n - p * n, n) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_wilson_of_nothing_knows_nothing_and_refuses_nonsense() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    for successes, n in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="successes in"):
            wilson(successes, n)


@pytest.mark.parametrize(
    ("votes", "single", "mean", "majority", "worst"),
    [
        ([1], 1, 1, 1, 1),
        ([2], 0, 0, 0, 0),
        ([1, 1, 2], 1, 2 / 3, 1, 0),
        ([2, 1, 1], 0, 2 / 3, 1, 0),
        ([2, 3, 1], 0, 1 / 3, 0, 0),
        ([2, 2, 1], 0, 1 / 3, 0, 0),
        ([1, 1, 1], 1, 1, 1, 1),
        ([1, 2], 1, 1 / 2, 0, 0),
        ([2, 1], 0, 1 / 2, 0, 0),
        ([1, 0, 0, 1, 2], 1, 2 / 5, 0, 0),
    ],
)
def test_draws_become_one_success_by_the_rule(
    votes: list[int], single: float, mean: float, majority: float, worst: float
) -> None:
    expected = {"single": single, "mean": mean, "majority": majority, "worst": worst}
    assert {rule: success(votes, 1, rule) for rule in RULES} == pytest.approx(expected)


@given(VOTES, st.integers(0, 3))
@settings(deadline=None, max_examples=examples(100))
def test_no_rule_is_harder_than_worst_and_majority_is_the_verdicts(votes: list[int], label: int) -> None:
    worst, mean = success(votes, label, "worst"), success(votes, label, "mean")
    assert worst <= min(mean, success(votes, label, "single"))
    assert success(votes, label, "majority") == (vote(votes) == label)


@pytest.mark.parametrize("votes", [[], [-1], [-1, 1], [1, 1, -1]])
def test_without_a_finite_answer_in_every_draw_an_image_is_neither_right_nor_wrong(votes: list[int]) -> None:
    assert all(math.isnan(success(votes, 1, rule)) for rule in RULES)


@given(st.integers(0, 3), st.integers(0, 3))
@settings(deadline=None, max_examples=20)
def test_all_rules_agree_on_one_draw(guess: int, label: int) -> None:
    assert {success([guess], label, rule) for rule in RULES} == {float(guess == label)}


def test_accuracy_is_the_mean_with_its_interval() -> None:
    found = accuracy(np.array([1.0, 0.0, 0.5, 1.0]))
    assert (found.value, found.n) == (0.625, 4)
    assert (found.low, found.high) == wilson(2.5, 4)


def test_errors_leave_the_interval_open_from_all_misclassified_to_all_robust() -> None:
    found = accuracy(np.array([1.0] * 60 + [0.0] * 36 + [math.nan] * 4))
    assert found.value == 60 / 96 and found.n == 100
    assert found.low == wilson(60, 100)[0] and found.high == wilson(64, 100)[1]


@given(st.lists(st.sampled_from([0.0, 0.2, 1.0, math.nan]), min_size=1, max_size=60))
@settings(deadline=None, max_examples=examples(100))
def test_no_outcome_of_the_errors_leaves_the_interval(known: list[float]) -> None:
    successes = np.array(known)
    if np.isnan(successes).all():
        return
    found = accuracy(successes)
    for settled in (0.0, 0.5, 1.0):
        other = accuracy(np.nan_to_num(successes, nan=settled))
        assert found.low <= other.value + 1e-12 and other.value <= found.high + 1e-12
    assert found.low <= found.value <= found.high


def test_more_than_a_few_errors_are_a_failure() -> None:
    assert not failed(0, 1) and not failed(1, 20) and not failed(5, 100)
    assert failed(1, 19) and failed(6, 100) and failed(64, 64)


@given(st.integers(1, 500), st.floats(0, 1))
@settings(deadline=None, max_examples=50)
def test_the_exact_interval_agrees_with_scipy(n: int, share: float) -> None:
    successes = round(share * n)
    known = stats.binomtest(successes, n).proportion_ci(0.95, method="exact")
    assert exact(successes, n) == pytest.approx((known.low, known.high), abs=1e-9)


def test_average_is_the_mean_of_the_attacks_accuracies() -> None:
    attacks = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]], dtype=float)
    assert average(attacks).value == pytest.approx((0.5 + 0.25 + 0.75) / 3)


def test_average_of_one_attack_or_of_equal_attacks_is_that_attacks_accuracy() -> None:
    successes = np.array([1.0, 0, 1, 1, 0, 1, 1, 1])
    alone = average(successes[None])
    assert alone.value == 0.75 and (alone.low, alone.high) == pytest.approx(exact(6, 8))
    together = average(np.stack([successes] * 3))
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_averages_interval_does_not_collapse_at_the_ends(value: float) -> None:
    found = average(np.full((2, 32), value))
    assert found.high - found.low == pytest.approx(1 - 0.025 ** (1 / 32))


def test_the_averages_interval_does_not_collapse_where_attacks_differ_and_images_do_not() -> None:
    found = average(np.array([[1.0] * 32, [0.0] * 32]))
    assert found.low < 0.4 and found.high > 0.6


def test_errors_leave_the_average_open_too() -> None:
    attacks = np.array([[1.0] * 60 + [0.0] * 40, [1.0] * 50 + [math.nan] * 4 + [0.0] * 46])
    found = average(attacks)
    assert found.value == pytest.approx((60 / 100 + 50 / 96) / 2)
    assert found.low == average(np.nan_to_num(attacks, nan=0.0)).low
    assert found.high == average(np.nan_to_num(attacks, nan=1.0)).high


@pytest.mark.slow
@pytest.mark.parametrize("n", [32, 512])
@pytest.mark.parametrize(
    "rates",
    [
        (0.60, 0.65, 0.05),
        (0.95, 0.97, 0.99),
        (0.73, 0.80, 0.91),
        (0.995, 0.995, 0.995),
        (0.01, 0.02, 0.005),
        (0.98,) * 5,
    ],
)
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95, 0.999])
def test_the_averages_interval_covers_the_truth(n: int, rates: tuple[float, ...], correlation: float) -> None:
    """Attacks with given rates, correlated over images through a Gaussian copula."""
    generator = np.random.default_rng(0)
    attacks = len(rates)
    covariance = np.full((attacks, attacks), correlation) + (1 - correlation) * np.eye(attacks)
    latent = generator.multivariate_normal(np.zeros(attacks), covariance, size=(600, n))
    draws = (latent < stats.norm.ppf(rates)).astype(float).transpose(0, 2, 1)
    found = [average(successes) for successes in draws]
    truth = np.mean(rates)
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.93
    if correlation == 0 and n * min(truth, 1 - truth) > 5:  # and it is worth its trouble: one attack's would be wider
        plain = np.mean([np.subtract(*wilson(one.value * n, n)[::-1]) for one in found])
        assert np.mean([one.high - one.low for one in found]) < 0.75 * plain


@given(st.lists(st.tuples(st.lists(st.integers(-1, 3), max_size=5), st.integers(0, 3)), max_size=9))
@settings(deadline=None, max_examples=examples(100))
def test_images_of_any_number_of_votes_are_counted_together_as_each_is_alone(
    images: list[tuple[list[int], int]],
) -> None:
    """By the definition: no image has a success without a draw, or with one of no class."""
    together = records([votes for votes, _ in images], [label for _, label in images])
    for rule in RULES:
        alone = [success(votes, label, rule) for votes, label in images]
        assert np.array_equal(clean_successes(together, rule), np.array(alone), equal_nan=True)
        assert np.array_equal(robust_successes(together, rule), np.array(alone), equal_nan=True)
        assert [math.isnan(each) for each in alone] == [not votes or NO_CLASS in votes for votes, _ in images]
    fewest = min((len(votes) for votes, _ in images if votes and NO_CLASS not in votes), default=1)
    known = [votes and NO_CLASS not in votes for votes, _ in images]
    rows = [[float(vote == label) for vote in votes[:fewest]] for votes, label in images]
    draws = [row if there else [math.nan] * fewest for row, there in zip(rows, known, strict=True)]
    assert np.array_equal(clean_draws(together), np.array(draws).reshape(len(images), fewest), equal_nan=True)
    assert np.array_equal(robust_draws(together), clean_draws(together), equal_nan=True)
