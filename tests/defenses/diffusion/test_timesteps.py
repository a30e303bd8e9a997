"""The weights of timesteps against closed forms, the variational bound itself and the original implementation."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch

from defenses.diffusion.schedule import discrete_vp
from defenses.diffusion.timesteps import levels, time_grid
from helpers.originals import golden

EDM = pytest.mark.parametrize("weighting", ["edm", "edm_reference"])


def alphas(steps: int = 1000) -> list[float]:
    """alpha_0..alpha_T, spelled out."""
    found = [1.0]
    for step in range(steps):
        found.append(found[-1] * (1 - (0.1 + 19.9 * step / (steps - 1)) / 1000))
    return found


def test_elbo_weights_are_those_of_the_kl_divergences_between_gaussians() -> None:
    grid, alpha = time_grid(discrete_vp(), weighting="elbo"), alphas()
    for t in (2, 3, 500, 1000):
        beta = 1 - alpha[t] / alpha[t - 1]
        posterior = beta * (1 - alpha[t - 1]) / (1 - alpha[t])
        # Two means differ by beta / sqrt((1 - beta) (1 - alpha_t)) times what their eps differ by.
        expected = beta**2 / ((1 - beta) * (1 - alpha[t])) / (2 * posterior)
        assert float(grid.weights[t - 1]) == pytest.approx(expected, rel=1e-9)
    assert float(grid.weights[0]) == pytest.approx(1 / (2 * alpha[1]), rel=1e-9)


@pytest.mark.parametrize("std", [0.2, 0.5, 1.0])
def test_the_elbo_bounds_the_entropy_of_gaussian_data_to_half_a_nat(std) -> None:
    # For x ~ N(0, std^2) the least error of eps at t is alpha std^2 / (alpha std^2 + sigma^2), and -log p(x) is the
    # entropy on average. The bound adds the decoder's normalisation and the divergence at t = T. It is not tight: the
    # steps near t = 1 double sigma^2, and fixed variances cost them sum_t (1/t - log(1 + 1/t)) / 2 = 0.3 and more.
    schedule, grid = discrete_vp(), time_grid(discrete_vp(), weighting="elbo")
    variance = grid.signal**2 * std**2
    errors = variance / (variance + grid.sigma**2)
    last = float(variance[-1] + grid.sigma[-1] ** 2), float(grid.sigma[-1] ** 2)
    divergence = (last[0] - 1 - math.log(last[1])) / 2
    decoder = math.log(2 * math.pi * float(schedule.sigma(torch.tensor(1)) ** 2)) / 2
    bound = float(grid.weights @ errors) + decoder + divergence
    entropy = math.log(2 * math.pi * math.e * std**2) / 2
    assert 0 <= bound - entropy < 0.5


@EDM
def test_edm_weights_are_the_original_ones(weighting) -> None:
    numbers = golden("dc_edm")
    sigmas, weights = (
        torch.tensor(values, dtype=torch.float64) for values in (numbers["sigmas"], numbers[weighting]["weights"])
    )
    grid = time_grid(levels(weighting), 8, weighting=weighting)
    torch.testing.assert_close(grid.sigma, sigmas, rtol=1e-12, atol=0)
    torch.testing.assert_close(grid.weights, weights * sigmas**2, rtol=1e-9, atol=0)  # those are of ||D - x||^2
    assert torch.equal(grid.signal, torch.ones_like(sigmas))


@pytest.mark.parametrize("sigma_data", [0.5, 0.75])
def test_the_sum_of_edm_weights_is_the_integral_of_the_lognormal(sigma_data) -> None:
    # lambda sigma^2 = 1 + sigma^2 / s^2, whose moments of a lognormal cut off at a and b are known.
    mean, std, (a, b) = -1.2, 1.2, (math.log(1e-4), math.log(3.0))

    def mass(shift: float) -> float:
        normal = NormalDist(mean + shift, std)
        return normal.cdf(b) - normal.cdf(a)

    second_moment = math.exp(2 * mean + 2 * std**2) * mass(2 * std**2)
    expected = mass(0) + second_moment / sigma_data**2
    for timesteps, tolerance in {"all": 1e-3, 125: 1e-2}.items():
        grid = time_grid(levels("edm"), timesteps, weighting="edm", sigma_data=sigma_data)
        assert float(grid.weights.sum()) == pytest.approx(expected, rel=tolerance)


def test_the_reference_density_does_not_sum_to_what_a_density_does() -> None:
    right, wrong = (float(time_grid(levels(w), weighting=w).weights.sum()) for w in ("edm", "edm_reference"))
    assert wrong < 0.9 * right


@EDM
@pytest.mark.parametrize("cells", [8, 125, 1000])
def test_edm_levels_are_left_ends_of_equal_cells(weighting, cells) -> None:
    expected = torch.linspace(1e-4, 3, cells + 1, dtype=torch.float64)[:-1]
    found = time_grid(levels(weighting), cells, weighting=weighting)
    torch.testing.assert_close(found.sigma, expected, rtol=1e-9, atol=0)
    assert found.timesteps.tolist() == list(range(1, 1001, 1000 // cells))


@pytest.mark.parametrize("cells", [3, 126, 999])
def test_cells_that_do_not_divide_1000_begin_at_the_level_below(cells) -> None:
    exact = torch.linspace(1e-4, 3, cells + 1, dtype=torch.float64)[:-1]
    early = exact - time_grid(levels("edm"), cells, weighting="edm").sigma
    assert (early > -1e-12).all()
    assert float(early.max()) < 0.003


@pytest.mark.parametrize("weighting", ["uniform", "elbo"])
def test_other_weightings_are_expectations_over_the_discrete_vp_diffusion(weighting) -> None:
    schedule = levels(weighting)
    assert torch.equal(schedule.sigmas, discrete_vp().sigmas)
    some, every = time_grid(schedule, [7, 40], weighting=weighting), time_grid(schedule, weighting=weighting)
    torch.testing.assert_close(some.weights, every.weights[[6, 39]] * 1000 / 2)
