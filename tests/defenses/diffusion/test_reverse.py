"""Reverse steps: the original implementation's numbers, and diffusions of Gaussian data, where all is known."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from defenses.diffusion.denoiser import NoisePredictor
from defenses.diffusion.reverse import END, Ancestral, EulerMaruyama, Solver, continuous_times, denoised, discrete_times
from defenses.diffusion.schedule import ContinuousVP, Process, discrete_vp
from defenses.networks.ncsnpp import NCSNpp
from defenses.networks.ncsnpp_config import NCSNppConfig
from harness.errors import UserError
from helpers.originals import assert_summary, fill, golden, rule_image, rule_noise

pytestmark = pytest.mark.slow

SHAPE = (2, 3, 16, 16)


# --- the original implementation -----------------------------------------------------------------------------------


@pytest.fixture(params=["float32", "float64"])
def original(
    request,
) -> SimpleNamespace:
    """The original's numbers in a precision, and what they were computed from."""
    dtype, key, tolerance = {
        "float32": (torch.float32, "outputs", 5e-4),  # at small times the original's sigma loses digits
        "float64": (torch.float64, "outputs_f64", 1e-8),
    }[request.param]
    config = NCSNppConfig.from_published(golden("ncsnpp_diffpure")["configs"]["tiny"])
    network = fill(NCSNpp(config).to(dtype), exempt=("sigmas",))
    numbers = golden("diffpure_sde")[key]
    return SimpleNamespace(
        numbers=numbers,
        denoiser=NoisePredictor(network, ContinuousVP()),
        x=2 * rule_image(SHAPE, dtype) - 1,
        noise=lambda k: rule_noise(SHAPE, k, dtype),
        check=lambda found, name: assert_summary(found.reshape(numbers[name]["shape"]), numbers[name], tolerance),
    )


def solver(denoiser, times, *, noise: bool) -> EulerMaruyama:
    return EulerMaruyama(denoiser, ContinuousVP(), times, noise)


def test_drifts_and_spreads_are_the_original_s(original) -> None:
    sde, ode = (solver(original.denoiser, [0.1, 0.0], noise=noise) for noise in (True, False))
    for s in (0.1, 0.001):
        # the original has the drift dx/dt of falling time for the SDE, of rising time for the ODE
        original.check(sde.drift(original.x, s), f"sde_drift_{s}")
        original.check(-ode.drift(original.x, s), f"ode_drift_{s}")
        spread = solver(original.denoiser, [s, s - 1e-4], noise=True).spread(0) / math.sqrt(1e-4)
        assert spread == pytest.approx(original.numbers[f"sde_spread_{s}"], rel=2e-6)


def noised(original) -> Tensor:
    """x(t*) as the original has it: by the discrete diffusion."""
    x = Ancestral(original.denoiser, discrete_vp(), [100, 0]).noised(original.x, original.noise(99))
    original.check(x, "noised")
    return x


def uniform(steps: int) -> list[float]:
    return torch.linspace(0.1, END, steps + 1, dtype=torch.float64).tolist()


def test_ten_steps_of_the_sde_are_the_original_s(original) -> None:
    sde, x = solver(original.denoiser, uniform(10), noise=True), noised(original)
    for i in range(10):
        x = sde.step(i, x, original.noise)
        if i + 1 in (1, 5, 10):
            original.check(x, f"sde_10_after_{i + 1}")


def test_ten_steps_of_the_ode_are_the_original_s(original) -> None:
    ode, x = solver(original.denoiser, uniform(10), noise=False), noised(original)
    original.check(denoised(ode, x, original.noise), "ode_10_after_10")


@pytest.mark.parametrize("original", ["float64"], indirect=True)
def test_a_hundred_steps_of_the_sde_with_the_original_s_dt_are_the_original_s(original) -> None:
    sde = solver(original.denoiser, continuous_times(0.1, 1e-3), noise=True)
    original.check(denoised(sde, noised(original), original.noise), "sde_100_after_100")


# --- Gaussian data -------------------------------------------------------------------------------------------------


class Gaussian:
    """The best predictor of the noise where images are N(0, c^2) in every pixel."""

    def __init__(self, process: Process, c: float) -> None:
        self.process, self.c = process, c

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        a, sigma = (values[:, None, None, None] for values in (self.process.signal(t), self.process.sigma(t)))
        return sigma * x_t / (a**2 * self.c**2 + sigma**2)


def variances(solver: Solver, start: float) -> list[float]:
    """Of x_0..x_n, every step being linear in x: no draw is needed."""
    found, one = [start], torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for i in range(len(solver)):
        found.append(found[-1] * float(solver.mean(i, one)) ** 2 + solver.spread(i) ** 2)
    return found


def course(kind: str, t_star: float, dt: float, c: float) -> tuple[Solver, float]:
    """A solver for Gaussian data, and the variance of x(t*)."""
    if kind in ("beta", "posterior"):
        vp = discrete_vp()
        solver: Solver = Ancestral(Gaussian(vp, c), vp, discrete_times(t_star, dt, 1000), kind)
    else:
        process = ContinuousVP()
        solver = EulerMaruyama(Gaussian(process, c), process, continuous_times(t_star, dt), kind == "sde")
    alpha = float(solver.process.signal(solver.start())) ** 2
    return solver, alpha * c**2 + 1 - alpha


@pytest.mark.parametrize("kind", ["sde", "ode", "beta", "posterior"])
def test_noised_images_come_back_with_the_variance_of_the_data(kind) -> None:
    errors = [abs(variances(*course(kind, 0.4, dt, 0.5))[-1] - 0.25) for dt in (0.008, 0.004, 0.002)]
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.02


@pytest.mark.parametrize("dt", [0.001, 0.01, 0.1])
def test_ancestral_sampling_is_exact_at_both_of_its_extremes(dt) -> None:
    """Ho et al. 2020, Sec. 3.2: v = beta for images of variance 1, the posterior's for images that are all alike."""
    normal, _ = course("beta", 0.4, dt, 1.0)
    assert variances(normal, 1.0)[:-1] == pytest.approx([1.0] * len(normal), rel=1e-12)
    alike, start = course("posterior", 0.4, dt, 0.0)
    sigmas = [float(alike.process.sigma(torch.tensor(t))) ** 2 if t else 0.0 for t in alike.times]
    assert variances(alike, start) == pytest.approx(sigmas, rel=1e-9, abs=1e-12)


def test_without_leaving_steps_out_it_is_ddpm() -> None:
    beta = [(0.1 + 19.9 * t / 999) / 1000 for t in range(1000)]
    alpha = [math.prod(1 - b for b in beta[: t + 1]) for t in range(1000)]
    vp, x = discrete_vp(), torch.linspace(-1, 1, 16, dtype=torch.float64).view(1, 1, 4, 4)
    noisy = Gaussian(vp, 0.5)
    for variance in ("beta", "posterior"):
        ddpm = Ancestral(noisy, vp, discrete_times(0.1, 0.001, 1000), variance)
        assert len(ddpm) == 100
        for i, t in ((0, 100), (1, 99), (99, 1)):
            eps = noisy.eps(x, torch.tensor([t]))
            mean = (x - beta[t - 1] / math.sqrt(1 - alpha[t - 1]) * eps) / math.sqrt(1 - beta[t - 1])
            torch.testing.assert_close(ddpm.mean(i, x), mean, rtol=1e-9, atol=0)
            before = alpha[t - 2] if t > 1 else 1.0
            posterior = beta[t - 1] * (1 - before) / (1 - alpha[t - 1])
            expected = 0.0 if t == 1 else math.sqrt(beta[t - 1] if variance == "beta" else posterior)
            assert ddpm.spread(i) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kind", ["sde", "ode", "beta", "posterior"])
def test_a_step_is_undone_up_to_the_second_order(kind) -> None:
    x = torch.linspace(-1, 1, 16, dtype=torch.float64).view(1, 1, 4, 4)
    still = torch.zeros_like(x)

    def error(dt: float) -> float:
        solver, _ = course(kind, 0.4, dt, 0.5)
        return float((solver.undo(0, solver.step(0, x, lambda i: still), lambda i: still) - x).abs().max())

    assert error(0.002) < 1e-3
    assert error(0.004) / error(0.002) == pytest.approx(4, rel=0.2)


def test_undoing_takes_off_the_noise_that_was_added() -> None:
    solver, _ = course("sde", 0.4, 2e-5, 0.5)
    x, z = torch.zeros(1, 1, 4, 4, dtype=torch.float64), torch.full((1, 1, 4, 4), 3.0, dtype=torch.float64)
    after = solver.step(0, x, lambda i: z)
    assert float(after.min()) > 1e-2
    assert float(solver.undo(0, after, lambda i: z).abs().max()) < 1e-4


# --- times ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t_star", "dt", "count"), [(0.1, 1e-3, 100), (0.075, 1e-3, 75), (0.1, 0.03, 4), (1, 1, 1)])
def test_times_fall_from_t_star_to_the_end_in_steps_of_dt(t_star, dt, count) -> None:
    times = continuous_times(t_star, dt)
    assert (len(times), times[0], times[-1]) == (count + 1, t_star, END)
    assert [s - t for s, t in pairwise(times[:-1])] == pytest.approx([dt] * (count - 1))
    assert 0 < times[-2] - END <= dt


def test_discrete_times_are_whole_and_end_at_the_clean_image() -> None:
    assert discrete_times(0.125, 0.05, 1000) == [125, 75, 25, 0]
    assert discrete_times(0.1, 1e-3, 1000) == list(range(100, -1, -1))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: continuous_times(0, 1e-3), "t_star is 0"),
        (lambda: continuous_times(1.5, 1e-3), "t_star is 1.5"),
        (lambda: continuous_times(100, 1), "t_star is 100"),
        (lambda: continuous_times(0.1, 0), "dt is 0"),
        (lambda: continuous_times(0.1, 0.2), "dt is 0.2"),
        (lambda: discrete_times(0.1, 0.0005, 1000), "dt is 0.0005"),
        (lambda: discrete_times(0.1005, 0.001, 1000), "t_star is 0.1005"),
        (lambda: discrete_times(0.1, -0.001, 1000), "dt is -0.001"),
    ],
)
def test_times_that_mean_nothing_are_refused(make, complaint) -> None:
    with pytest.raises(UserError) as error:
        make()
    assert complaint in str(error.value)
