"""The rectified flow against its formula in one graph, against DDIM, and on images whose flow is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from defenses.ddim import DDIM
from defenses.diffusion.denoiser import adapted
from defenses.diffusion.reverse import Implicit
from defenses.diffusion.schedule import ContinuousVP, discrete_vp
from defenses.purification.purifier import FORWARD, PURIFY
from defenses.rectified_flow import RectifiedFlow
from harness.errors import UserError
from harness.quantity import Quantity
from harness.randomness import fold, normal

pytestmark = pytest.mark.slow


def velocity(network, z: Tensor, s: float) -> Tensor:
    """eps - x^ of the network at the time with as much noise: s / (1 - s) = sqrt(exp(B) - 1), B = 0.1 t + 9.95 t^2."""
    level = s / (1 - s)
    integral = math.log1p(level**2)
    t = (-0.1 + math.sqrt(0.01 + 4 * 9.95 * integral)) / (2 * 9.95)
    signal, sigma = math.exp(-integral / 2), math.sqrt(1 - math.exp(-integral))
    x_t = signal * z / (1 - s)
    eps = network(x_t, torch.full((len(z),), 999 * t, dtype=z.dtype))
    return eps - (x_t - sigma * eps) / signal


def naive(defense: RectifiedFlow, image: Tensor, seeds: Tensor, solver: str) -> Tensor:
    """Two rounds of two steps from s = 0.3, in one graph."""
    network, x = defense.denoiser.network, 2 * image - 1
    for number in range(2):
        z = 0.7 * x + 0.3 * normal(fold(seeds, PURIFY, number, FORWARD), (1, 8, 8), torch.float64)
        for s in (0.3, 0.15):
            slope = velocity(network, z, s)
            if solver == "midpoint":
                slope = velocity(network, z - 0.075 * slope, s - 0.075)
            z = z - 0.15 * slope
        x = z
    return ((x + 1) / 2).clamp(0, 1)


@pytest.mark.parametrize("solver", ["euler", "midpoint"])
def test_images_and_gradients_are_those_of_the_formula_in_one_graph(make, x, seeds, solver) -> None:
    defense = make(RectifiedFlow, s_star=Quantity("0.3"), steps=2, rounds=2, solver=solver)
    x.requires_grad_()
    with defense.drawing(seeds):
        found = defense.purify(x)
    expected = naive(defense, x, seeds, solver)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    weights = torch.linspace(-1, 1, 128, dtype=torch.float64).view(2, 1, 8, 8)
    ours, theirs = (torch.autograd.grad((images * weights).sum(), x)[0] for images in (found, expected))
    assert float(theirs.abs().max()) > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_an_euler_step_is_a_ddim_step_between_the_two_levels(make, x) -> None:
    flow, process = make(RectifiedFlow, solver="euler"), discrete_vp()
    times = [300, 120, 0]
    ddim = Implicit(adapted(flow.denoiser.network, process), process, times)
    levels = [float(process.level(torch.tensor(t))) for t in times[:2]]
    first, second = (level / (1 + level) for level in levels)
    flow.denoiser = ddim.denoiser  # told the same discrete times
    flow.process = process
    noisy = ddim.noised(2 * x - 1, torch.ones_like(x))
    signal, after = (float(process.signal(torch.tensor(t))) for t in times[:2])
    z = (1 - first) / signal * noisy
    moved = z + (second - first) * flow.velocity(z, first)
    expected = ddim.step(0, noisy, lambda i: torch.zeros(()))
    torch.testing.assert_close(after / (1 - second) * moved, expected)


class Gaussian(nn.Module):
    """The noise predictor of images (2 image - 1) ~ N(0, v I)."""

    def __init__(self, variance: float) -> None:
        super().__init__()
        self.variance, self.process = variance, ContinuousVP()

    def eps(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        signal, sigma = (found(t).to(x_t)[:, None, None, None] for found in (self.process.signal, self.process.sigma))
        return sigma / (signal**2 * self.variance + sigma**2) * x_t


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2)])
def test_on_gaussian_images_it_converges_to_the_flow_at_least_at_the_solver_s_order(make, x, solver, order) -> None:
    """The flow keeps z over its standard deviation: z_0 = sqrt(v) z_s / sqrt((1 - s)^2 v + s^2)."""
    variance, share = 0.3, 0.4
    exact = math.sqrt(variance / ((1 - share) ** 2 * variance + share**2))
    errors = []
    for steps in (8, 16):
        defense = make(RectifiedFlow, s_star=Quantity(share), steps=steps, solver=solver)
        defense.denoiser = Gaussian(variance)
        z = 2 * x - 1
        for i in range(steps):
            s, h = defense.shares[i], defense.shares[i] - defense.shares[i + 1]
            slope = defense.velocity(z, s)
            if solver == "midpoint":
                slope = defense.velocity(z - h / 2 * slope, s - h / 2)
            z = z - h * slope
        errors.append(float((z - exact * (2 * x - 1)).norm()))
    assert errors[0] / errors[1] > 0.9 * 2**order


def test_ddim_and_the_flow_have_the_same_end_from_the_same_noise(make, x, seeds) -> None:
    """Both solve the probability-flow ODE from the same noisy image, if t* and s* have the same level."""
    level = float(discrete_vp().level(torch.tensor(150)))
    flow = make(RectifiedFlow, s_star=Quantity(level / (1 + level)), steps=40)
    ddim, coarse = (make(DDIM, t_star=Quantity("0.15"), steps=steps) for steps in (150, 3))
    with torch.no_grad(), flow.drawing(seeds), ddim.drawing(seeds), coarse.drawing(seeds):
        end, same, other = (defense.purify(x) for defense in (flow, ddim, coarse))
    assert float((end - same).norm()) < 0.25 * float((end - other).norm())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"s_star": Quantity(0)}, "s_star is 0"),
        ({"s_star": Quantity(1)}, "s_star is 1"),
        ({"steps": 0}, "steps is 0"),
        ({"rounds": 0}, "rounds is 0"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(make, options, complaint) -> None:
    with pytest.raises(UserError) as error:
        make(RectifiedFlow, **options)
    assert complaint in str(error.value)
