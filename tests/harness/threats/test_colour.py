"""Colours against Python's colorsys, and against known values."""

from __future__ import annotations

import colorsys

import pytest
import torch
from torch import Tensor

from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.threats import PARAMETRIC
from harness.threats.hue import Hue, Saturation, to_hue
from harness.threats.recolor import GRID, ReColorAdv, from_luv, interpolated, to_luv

X = (uniform(torch.arange(2), (3, 6, 5)) * 255).round() / 255


def by_colorsys(h: float, s: float) -> Tensor:
    """Every pixel of X with its hue moved on by h turns and its saturation multiplied by s."""
    result = X.clone()
    for n in range(len(X)):
        for row in range(X.shape[2]):
            for column in range(X.shape[3]):
                hue, saturation, value = colorsys.rgb_to_hsv(*X[n, :, row, column].tolist())
                moved = colorsys.hsv_to_rgb((hue + h) % 1, min(1, saturation * s), value)
                result[n, :, row, column] = torch.tensor(moved)
    return result


@pytest.mark.parametrize("turn", [0.1, -0.4, 0.5])
def test_hues_turn_as_colorsys_turns_them(turn: float) -> None:
    moved = Hue(Quantity("0.5")).render(X, torch.full((2, 1), turn))
    assert torch.allclose(moved, by_colorsys(turn, 1), atol=1e-6)


@pytest.mark.parametrize("change", [0.4, -0.7, 3.0])
def test_saturation_changes_as_colorsys_changes_it(change: float) -> None:
    moved = Saturation(Quantity(3)).render(X, torch.full((2, 1), change))
    assert torch.allclose(moved, by_colorsys(0, 1 + change), atol=1e-6)


def test_grey_and_black_stay_grey_and_black() -> None:
    grey = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    for threat in (Hue(Quantity("0.5")), Saturation(Quantity(1))):
        assert torch.allclose(threat.render(grey, torch.full((3, 1), 0.3)), grey)
    assert to_hue(grey)[0].eq(0).all()


def test_luv_of_known_colours() -> None:
    """Red, white and a dark grey of sRGB: published values, within the rounding of the matrix."""
    rgb = torch.tensor([[1.0, 0, 0], [1, 1, 1], [0.1, 0.1, 0.1]]).double().view(3, 3, 1, 1)
    luv = to_luv(rgb).flatten(1) * torch.tensor([100, 200, 200]) - torch.tensor([0, 100, 100])
    expected = torch.tensor([[53.24, 175.01, 37.76], [100, 0, 0], [9.0, 0, 0]]).double()
    assert torch.allclose(luv, expected, atol=0.05)


def test_luv_and_back_is_the_identity_from_black_to_white() -> None:
    steps = torch.linspace(0, 1, 9).double()
    every = torch.cartesian_prod(steps, steps, steps).T.reshape(1, 3, 27, 27)
    assert torch.allclose(from_luv(to_luv(every)), every, atol=1e-12)


def test_points_of_the_grid_are_met_and_a_linear_function_is_interpolated_exactly() -> None:
    axes = torch.meshgrid(*[torch.linspace(0, 1, size).double() for size in GRID], indexing="ij")
    colours = uniform(torch.arange(1), (3, 5, 5)).double()
    weights = normal(torch.arange(3), (3,)).double()
    z = (torch.stack(axes, -1) @ weights)[None]
    expected = torch.einsum("cd,nchw->ndhw", weights, colours)
    assert torch.allclose(interpolated(z, colours), expected, atol=1e-12)
    assert torch.allclose(
        interpolated(z, torch.ones_like(colours)), weights.sum(0)[None, :, None, None].expand(1, 3, 5, 5)
    )


def test_pixels_of_one_colour_keep_one_colour() -> None:
    x = X.clone()
    x[:, :, 0, 0] = x[:, :, 3, 3]
    threat = ReColorAdv(Quantity("0.06"))
    moved = threat.render(x, threat.random(uniform(torch.arange(2), threat.shape((3, 6, 5)))))
    assert torch.equal(moved[:, :, 0, 0], moved[:, :, 3, 3])
    assert (to_luv(moved.double()) - to_luv(x.double())).abs().median() > 0.001


def test_gradients_are_finite_at_black_white_and_pure_colours() -> None:
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).T.reshape(1, 3, 2, 4)
    for name in ("ReColorAdv", "Hue", "Saturation"):
        threat = PARAMETRIC[name](Quantity("0.3"))
        for z in (torch.zeros(1, *threat.shape((3, 2, 4))), -0.3 * torch.ones(1, *threat.shape((3, 2, 4)))):
            z.requires_grad_()
            (grad,) = torch.autograd.grad(threat.render(corners, z).square().sum(), z)
            assert torch.isfinite(grad).all()


@pytest.mark.parametrize("name", ["ReColorAdv", "Hue", "Saturation"])
def test_grey_images_are_refused_and_the_message_says_why(name: str) -> None:
    threat = PARAMETRIC[name](Quantity("0.1"))
    assert threat.unsuitable((1, 8, 8)) == f"{name} changes colours: it needs images of 3 channels, not 1"
    assert threat.unsuitable((3, 8, 8)) is None
