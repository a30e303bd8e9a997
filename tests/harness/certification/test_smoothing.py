"""Radii from counts, against scipy's distributions and against simulated draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from harness.certification.smoothing import ABSTAINS, certify, fault_of, lower_bound, p_of_certificate, predict


def test_the_lower_bound_is_a_quantile_of_the_beta_distribution() -> None:
    k, n = np.arange(1, 101), 100
    for alpha in (0.001, 0.05):
        assert np.allclose(lower_bound(k, n, alpha), stats.beta.ppf(alpha, k, n - k + 1), rtol=1e-9)


def test_without_a_success_the_lower_bound_is_zero() -> None:
    assert lower_bound(np.array([0]), 100, 0.001).tolist() == [0.0]


def test_the_lower_bound_exceeds_the_probability_as_rarely_as_alpha_says() -> None:
    """Exactly: a sum over the binomial distribution, for several true probabilities."""
    n, alpha, k = 200, 0.01, np.arange(201)
    for p in (0.55, 0.8, 0.95, 0.999):
        too_high = stats.binom.pmf(k, n, p)[lower_bound(k, n, alpha) > p].sum()
        assert too_high <= alpha


def test_a_radius_is_sigma_times_the_normal_quantile_of_the_bound() -> None:
    counts = np.array([[[10, 0, 0], [900, 60, 40]]])
    found = certify(counts, 1000, sigma=0.5, alpha=0.001)
    p_low = stats.beta.ppf(0.001, 900, 101)
    assert found.classes.tolist() == [0]
    assert found.p_low[0] == pytest.approx(p_low)
    assert found.radii[0] == pytest.approx(0.5 * stats.norm.ppf(p_low))


def test_the_class_is_selected_by_the_first_draws_and_estimated_by_the_others() -> None:
    selected_wrongly = np.array([[[4, 6], [1000, 0]]])
    assert certify(selected_wrongly, 1000, sigma=0.5, alpha=0.001).classes.tolist() == [ABSTAINS]


def test_it_abstains_where_the_bound_is_at_most_one_half() -> None:
    counts = np.array([[[9, 1], [k, 1000 - k]] for k in (500, 540, 548, 549, 560)])
    bounds = stats.beta.ppf(0.001, counts[:, 1, 0], 1001 - counts[:, 1, 0])
    found = certify(counts, 1000, sigma=0.5, alpha=0.001)
    assert (found.classes == np.where(bounds > 0.5, 0, ABSTAINS)).all()
    assert {ABSTAINS, 0} == set(found.classes.tolist())
    assert (found.radii[found.classes == ABSTAINS] == 0).all()


def test_draws_without_logits_count_against_the_class() -> None:
    lost = certify(np.array([[[10, 0], [900, 0]]]), 1000, sigma=0.5, alpha=0.001)
    whole = certify(np.array([[[10, 0], [900, 100]]]), 1000, sigma=0.5, alpha=0.001)
    assert lost.radii[0] == whole.radii[0]


def test_an_image_without_any_draw_is_not_certified() -> None:
    nothing = certify(np.zeros((1, 2, 3), dtype=np.int64), 1000, sigma=0.5, alpha=0.001)
    assert nothing.classes.tolist() == [ABSTAINS] and nothing.radii.tolist() == [0.0]


def test_predict_agrees_with_scipys_binomial_test() -> None:
    counts = np.array([[top, 100 - top - third, third] for top in range(50, 96, 5) for third in (0, 5)])
    two = np.sort(counts, axis=1)[:, :0:-1]
    p = np.array([stats.binomtest(int(a), int(a + b), 0.5).pvalue for a, b in two])
    assert (predict(counts, 0.01) == np.where(p <= 0.01, counts.argmax(1), ABSTAINS)).all()


def test_at_equal_probabilities_predict_names_a_class_as_rarely_as_alpha_says() -> None:
    drawn = np.random.default_rng(0).binomial(101, 0.5, 20_000)
    named = predict(np.stack([drawn, 101 - drawn], 1), 0.05) != ABSTAINS
    assert 0.02 < named.mean() <= 0.05  # the distribution is discrete, so that it stays below


def test_the_least_probability_at_a_distance_is_that_of_a_half_space() -> None:
    """A half space attains the bound: f = [x < c] under noise has P = Phi((c - x) / sigma)."""
    sigma, c, distance = 0.25, 0.6, 0.3
    p_here, p_there = stats.norm.cdf(c / sigma), stats.norm.cdf((c - distance) / sigma)
    assert p_of_certificate(p_here, distance, 40, 50, sigma) == pytest.approx(stats.binom.cdf(40, 50, p_there))


@pytest.mark.parametrize(
    ("counts", "fault"),
    [
        ([[[3, 7], [50, 50]]], None),
        ([[[3, 2], [50, 20]]], None),
        ([[[3, 8], [50, 50]]], "an image has counts of 11 draws, of 10"),
        ([[[3, 7], [50, 51]]], "an image has counts of 101 draws, of 100"),
        ([[[3, 7], [50.5, 49]]], "a count of draws is no whole number"),
        ([[[3, 7], [-1, 49]]], "a count of draws is no whole number"),
        ([[[3, 7], [np.nan, 49]]], "a count of draws is no whole number"),
    ],
)
def test_counts_that_no_run_could_write_are_named(counts: list[list[list[float]]], fault: str | None) -> None:
    assert fault_of(np.array(counts, dtype=np.float32), 10, 100) == fault
