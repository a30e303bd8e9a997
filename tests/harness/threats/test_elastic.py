from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.threats.elastic import Elastic, reflected, smoothed


def test_a_constant_field_of_one_pixel_shifts_the_image() -> None:
    x = uniform(torch.arange(2), (3, 10, 12))
    z = torch.zeros(2, 2, 10, 12)
    z[:, 0] = 1
    moved = Elastic(Quantity(1)).render(x, z)
    assert torch.allclose(moved[..., :-1], x[..., 1:], atol=1e-6)
    z[:, 0], z[:, 1] = 0, -1
    assert torch.allclose(Elastic(Quantity(1)).render(x, z)[:, :, 1:], x[:, :, :-1], atol=1e-6)


def test_the_field_is_smoothed_as_scipy_does() -> None:
    field = normal(torch.arange(1), (2, 32, 20)).double()
    theirs = gaussian_filter(field.numpy(), sigma=(0, 0, 3, 3), mode="mirror", truncate=4)
    assert np.allclose(smoothed(field, 3.0).numpy(), theirs, atol=1e-12)


def test_no_pixel_moves_by_more_than_the_bound() -> None:
    field = smoothed(0.5 * normal(torch.arange(1), (2, 8, 8)).sign().double(), 0.75)
    assert field.abs().max() <= 0.5


def test_a_row_is_reflected_however_short_it_is() -> None:
    assert reflected(5, 2).tolist() == [2, 1, 0, 1, 2, 3, 4, 3, 2]
    assert reflected(1, 3).tolist() == [0] * 7
