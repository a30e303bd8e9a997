"""Fog, Gabor and snow against naive drawings."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from harness.quantity import Quantity
from harness.randomness import uniform
from harness.threats.fog import Fog, heights
from harness.threats.gabor import KERNEL, Gabor, places, stripes
from harness.threats.parametric import image_seeds
from harness.threats.snow import LATTICE, SHIFTS, Snow, streaks


def naive_heights(z: Tensor, side: int) -> Tensor:
    """Diamond-square of one map (S^2 - 1,), point by point, on a grid that is filled in."""
    grid, step, weight, used = torch.zeros(side, side, dtype=torch.float64), side, 1.0, 0
    while step > 1:
        half, count = step // 2, side // step
        for part, (down, right) in enumerate(((half, half), (0, half), (half, 0))):
            for row in range(count):
                for column in range(count):
                    y, x = row * step + down, column * step + right
                    if part == 0:
                        around = [
                            (y - half, x - half),
                            (y - half, x + half),
                            (y + half, x - half),
                            (y + half, x + half),
                        ]
                    else:
                        around = [(y - half, x), (y + half, x), (y, x - half), (y, x + half)]
                    mean = sum(grid[a % side, b % side] for a, b in around) / 4
                    grid[y, x] = mean + weight * z[used + part * count * count + row * count + column]
        used, step, weight = used + 3 * count * count, half, weight / 2
    return grid


@pytest.mark.parametrize("side", [2, 8, 16])
def test_fog_is_drawn_by_the_diamond_square_algorithm(side: int) -> None:
    z = uniform(torch.arange(2), (side * side - 1,), torch.float64)
    assert torch.allclose(heights(z), torch.stack([naive_heights(each, side) for each in z]), atol=1e-12)


def test_fog_keeps_the_brightest_value_and_reaches_its_bound_where_all_of_it_is_thick() -> None:
    x, threat = uniform(torch.arange(2), (1, 8, 8)), Fog(Quantity("0.5"))
    z = torch.full((2, 63), 0.5)
    hazy, m = threat.render(x, z), x.flatten(1).amax(1)
    fog = 0.5 * heights(torch.ones(1, 63, dtype=torch.float64)) / heights(torch.ones(1, 63)).amax()
    assert fog.amax().item() == pytest.approx(0.5) and fog.flatten()[0] == 0
    assert (hazy.flatten(1).amax(1) <= m + 1e-6).all()
    expected = (x + fog[:, None]) * m.view(-1, 1, 1, 1) / (m.view(-1, 1, 1, 1) + 0.5)
    assert torch.allclose(hazy, expected.float(), atol=1e-6)
    assert torch.isfinite(threat.render(torch.zeros_like(x), z)).all()


def test_gabor_noise_is_the_sum_of_its_kernels_and_bounded() -> None:
    x, threat = 0.5 * torch.ones(1, 1, 8, 8), Gabor(Quantity("0.1"))
    z, where = 0.02 * (uniform(torch.arange(1), (8, 8)) - 0.5), places(x)[0]
    kernel, noise = stripes(image_seeds(x))[0], torch.zeros(8, 8, dtype=torch.float64)
    for row, column in where.nonzero().tolist():
        for y in range(8):
            for i in range(8):
                noise[y, i] += z[0, row, column] * kernel[row - y + KERNEL // 2, column - i + KERNEL // 2]
    assert torch.allclose(threat.render(x, z)[0, 0] - 0.5, noise.float(), atol=1e-6)
    strong = threat.render(x, 0.1 * z.sign())
    assert (strong - x).abs().max() <= 0.1 + 1e-6


def test_a_gabor_kernel_is_1_in_its_middle_and_nowhere_more() -> None:
    seeds = torch.arange(200)
    kernels = stripes(seeds)
    centre = KERNEL // 2
    assert torch.allclose(kernels[:, centre, centre], torch.ones(200, dtype=torch.float64))
    assert kernels.abs().max() <= 1
    assert torch.allclose(kernels, kernels.flip(1, 2), atol=1e-12), "it looks the same from the other side"


def test_a_lone_flake_is_its_streak_where_it_falls() -> None:
    x, threat = torch.zeros(1, 1, 32, 32), Snow(Quantity("0.8"))
    for layer in range(len(SHIFTS)):
        z = torch.zeros(1, *threat.shape((1, 32, 32)))
        z[0, layer, 4, 4] = 0.5
        row, column = (4 * LATTICE + shift for shift in SHIFTS[layer])
        drawn = threat.render(x, z)[0, 0, row - 6 : row + 7, column - 6 : column + 7]
        assert torch.allclose(drawn, 0.5 * streaks(image_seeds(x))[0, layer].flip(0, 1).float(), atol=1e-6)


def test_snow_is_bounded_in_all_and_adds_up() -> None:
    threat = Snow(Quantity("0.5"))
    z = threat.project(torch.ones(1, 7, 8, 8))
    assert z.mean().item() == pytest.approx(0.1) and z.max() <= 0.5
    assert threat.used(z).item() == pytest.approx(0.5)
    assert threat.used(torch.full((1, 7, 8, 8), 0.3)).item() == pytest.approx(1.5), "too much snow"
    assert math.isinf(threat.used(-z))
    assert streaks(torch.arange(50)).amax() <= 1
    drawn = threat.render(torch.zeros(1, 1, 32, 32), z)
    assert drawn.mean() > 0 and drawn.max() <= 0.5
