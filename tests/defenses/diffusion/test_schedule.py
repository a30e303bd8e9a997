from __future__ import annotations

import math

import pytest
import torch

from defenses.diffusion.schedule import discrete_vp
from defenses.diffusion.timesteps import time_grid
from harness.errors import UserError


def test_alphas_equal_the_original_implementation(golden) -> None:
    expected = golden("dc_vp")["float64"]["alpha_bar_at_ts"]
    assert discrete_vp().alphas[::125].tolist() == pytest.approx(expected, rel=1e-12)


def test_signal_and_noise_preserve_variance_at_every_timestep() -> None:
    schedule, every = discrete_vp(), torch.arange(1, 1001)
    total = schedule.signal(every) ** 2 + schedule.sigma(every) ** 2
    torch.testing.assert_close(total, torch.ones(1000, dtype=torch.float64), rtol=1e-15, atol=1e-15)


def test_the_first_step_is_its_closed_form() -> None:
    one = torch.tensor([1])
    assert float(discrete_vp().sigma(one)) == pytest.approx(math.sqrt(0.1 / 1000), rel=1e-12)


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
