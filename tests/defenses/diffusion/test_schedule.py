from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from defenses.diffusion.schedule import ContinuousVE, ContinuousVP, Process, discrete_ve, discrete_vp
from defenses.diffusion.timesteps import time_grid
from harness.errors import UserError
from helpers.originals import golden

SIGMAS = torch.tensor([0.002, 0.5, 3.0, 80.0])
PROCESSES: dict[str, tuple[Process, list[float]]] = {
    "discrete_vp": (discrete_vp(), [1, 2, 126, 500, 999, 1000]),
    "continuous_vp": (ContinuousVP(), [1e-5, 0.001, 0.1, 0.5, 1.0]),
    "discrete_ve": (discrete_ve(SIGMAS), [1, 2, 3, 4]),
    "continuous_ve": (ContinuousVE(), [1e-4, 0.002, 1.0, 80.0]),
}
EVERY = pytest.mark.parametrize(("process", "times"), PROCESSES.values(), ids=PROCESSES.keys())
levels = st.floats(1e-4, 100)


def exactly(values: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(values, expected.double(), rtol=tolerance, atol=0)


def test_alphas_equal_the_original_implementation() -> None:
    alphas = discrete_vp().signal(torch.arange(1, 1001, 125)) ** 2
    assert alphas.tolist() == pytest.approx(golden("dc_vp")["float64"]["alpha_bar_at_ts"], rel=1e-12)


def test_noise_levels_of_the_continuous_process_equal_the_original_implementation() -> None:
    measured = golden("ncsnpp_diffpure")["outputs_f64"]
    for t in (0.001, 0.1, 0.5):
        sigma = ContinuousVP().sigma(torch.tensor(t, dtype=torch.float64))
        assert float(sigma) == pytest.approx(measured[f"std_t_{t}"], rel=1e-12)


@EVERY
def test_there_is_more_noise_later(process: Process, times: list[float]) -> None:
    t = torch.tensor(times)
    assert (process.level(t).diff() > 0).all()
    assert (process.snr(t).diff() < 0).all()


@EVERY
def test_level_and_signal_to_noise_ratio_are_those_of_signal_and_noise(process: Process, times: list[float]) -> None:
    t = torch.tensor(times)
    exactly(process.level(t), process.sigma(t) / process.signal(t))
    exactly(process.snr(t), process.signal(t) ** 2 / process.sigma(t) ** 2)


@EVERY
def test_the_time_of_a_level_is_the_time_it_came_from(process: Process, times: list[float]) -> None:
    t = torch.tensor(times)
    found = process.time(process.level(t))
    exactly(found.double(), t, 1e-9)
    assert found.is_floating_point() == t.is_floating_point()


@settings(deadline=None, max_examples=50)
@given(level=levels, other=levels)
def test_the_level_of_a_time_is_the_level_it_came_from(level: float, other: float) -> None:
    two = torch.tensor([level, other], dtype=torch.float64)
    for process in (ContinuousVP(), ContinuousVP(0.5, 0.5), ContinuousVE()):
        t = process.time(two)
        exactly(process.level(t), two, 1e-9)
        assert (t[0] < t[1]) == (level < other)


@settings(deadline=None, max_examples=50)
@given(level=levels)
def test_a_discrete_time_is_the_one_of_the_nearest_level(level: float) -> None:
    for schedule in (discrete_vp(), discrete_ve(SIGMAS), discrete_ve(SIGMAS.flip(0))):
        known = schedule.level(torch.arange(1, len(schedule) + 1)).tolist()
        t = schedule.time(torch.tensor(level, dtype=torch.float64))
        assert t.dtype == torch.int64
        assert max(known[t - 1] / level, level / known[t - 1]) == min(max(k / level, level / k) for k in known)


@pytest.mark.parametrize("process", [discrete_vp(), ContinuousVP()], ids=["discrete", "continuous"])
def test_signal_and_noise_preserve_variance(process: Process) -> None:
    t = torch.arange(1, 1001)
    t = t if process.time(torch.ones(1)).dtype == torch.int64 else t / 1000
    total = process.signal(t) ** 2 + process.sigma(t) ** 2
    torch.testing.assert_close(total, torch.ones(1000, dtype=torch.float64), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("t", [1e-3, 0.1, 1.0])
def test_beta_is_the_rate_at_which_the_signal_fades(t: float) -> None:
    process, step = ContinuousVP(), 1e-6
    before, after = (float(process.signal(torch.tensor(t + h, dtype=torch.float64))) for h in (-step, step))
    rate = -2 * (math.log(after) - math.log(before)) / (2 * step)
    assert float(process.beta(torch.tensor(t, dtype=torch.float64))) == pytest.approx(rate, rel=1e-6)


def test_many_discrete_steps_are_the_continuous_process() -> None:
    t = torch.tensor([10, 1000, 50_000, 100_000])
    exactly(discrete_vp(100_000).level(t), ContinuousVP().level(t / 100_000), 2e-3)


def test_a_thousand_steps_are_the_linear_schedule_of_ddpm() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    exactly(discrete_vp().signal(torch.arange(1, 1001)) ** 2, (1 - betas).cumprod(0))


def test_the_first_step_is_its_closed_form() -> None:
    assert float(discrete_vp().sigma(torch.tensor([1]))) == pytest.approx(math.sqrt(0.1 / 1000), rel=1e-12)


def test_variance_explodes_at_the_times_or_the_levels_themselves() -> None:
    assert torch.equal(ContinuousVE().sigma(SIGMAS), SIGMAS.double())
    assert torch.equal(discrete_ve(SIGMAS).sigma(torch.tensor([4, 1])), SIGMAS[[3, 0]].double())
    for process, t in ((ContinuousVE(), SIGMAS), (discrete_ve(SIGMAS), torch.arange(1, 5))):
        assert (process.signal(t) == 1).all()


@pytest.mark.parametrize(
    ("timesteps", "spacing", "expected"),
    [
        (8, "uniform", [125, 250, 375, 500, 625, 750, 875, 1000]),
        (3, "uniform", [333, 666, 1000]),
        (1, "uniform", [1000]),
        (4, "first", [1, 2, 3, 4]),
        ([1, 126, 7], "uniform", [1, 126, 7]),
        ("all", "uniform", list(range(1, 1001))),
        (1000, "uniform", list(range(1, 1001))),
        (1000, "first", list(range(1, 1001))),
    ],
)
def test_timesteps_are_those_of_section_4_5(timesteps, spacing, expected) -> None:
    grid = time_grid(discrete_vp(), timesteps, spacing)
    assert grid.timesteps.tolist() == expected
    assert float(grid.weights.sum()) == pytest.approx(1)


@pytest.mark.parametrize("timesteps", [0, -3, 1001, [], [0], [5, 1001]])
def test_timesteps_outside_the_schedule_are_refused(timesteps) -> None:
    with pytest.raises(UserError, match=r"1\.\.1000"):
        time_grid(discrete_vp(), timesteps)
