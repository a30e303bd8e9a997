"""Langevin purification against its formula in one graph, and against a Gaussian, whose chain is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from defenses.jem import JEM
from defenses.langevin import Langevin
from defenses.purification.inner_gradient import inner_gradient
from defenses.purification.purifier import PURIFY
from defenses.undefended import Undefended
from harness.errors import UserError
from harness.quantity import Quantity
from harness.randomness import fold, normal


def build(**options) -> Langevin:
    return Langevin("digits-jem", Undefended("digits-cnn"), **options).double()


def naive(defense: Langevin, image: Tensor, seeds: Tensor, steps: int, tau: float, temperature: float) -> Tensor:
    """The chain in one graph; the energy's network itself takes images in [-1, 1]."""
    x = 2 * image - 1
    for k in range(steps):
        energy = -torch.logsumexp(defense.model.network(x), 1)
        (slope,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        noise = normal(fold(seeds, PURIFY, k), (1, 8, 8), torch.float64)
        x = x - tau**2 / (2 * temperature) * slope + tau * noise
    return ((x + 1) / 2).clamp(0, 1)


def test_images_and_gradients_are_those_of_the_formula_in_one_graph(x, seeds) -> None:
    defense = build(steps=4, step_size=Quantity("0.05"), temperature=Quantity("0.01"))
    x.requires_grad_()
    with defense.drawing(seeds):
        found = defense.purify(x)
    expected = naive(defense, x, seeds, 4, 0.05, 0.01)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weights = torch.linspace(-1, 1, 128, dtype=torch.float64).view(2, 1, 8, 8)
    ours, theirs = (torch.autograd.grad((images * weights).sum(), x)[0] for images in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)
    identity = weights / 1.0
    assert float((ours - identity).norm()) > 0.05 * float(identity.norm())  # the energy's Hessian is in it


class Parabola(nn.Module):
    """A classifier of one class, whose energy on [0, 1] is 2 |x - 1/2|^2: that of N(0, I) on [-1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return -2 * (x - 0.5).square().sum((1, 2, 3))[:, None]


def test_on_a_gaussian_s_energy_the_chain_forgets_its_start_and_has_the_known_variance(seeds) -> None:
    """x_{k+1} = q x_k + tau z has the mean q^n x_0 and the variance tau^2 (1 - q^2n) / (1 - q^2)."""
    tau, temperature, steps = 0.1, 0.05, 25
    defense = build(steps=steps, step_size=Quantity(tau), temperature=Quantity(temperature))
    defense.model.classify = Parabola().forward  # type: ignore[method-assign]
    count = 20000
    image = torch.full((count, 1, 1, 1), 0.7, dtype=torch.float64)
    with torch.no_grad(), defense.drawing(torch.arange(count)):
        ends = 2 * defense.purify(image) - 1
    kept = 1 - tau**2 / (2 * temperature)
    variance = tau**2 * (1 - kept ** (2 * steps)) / (1 - kept**2)
    assert float(ends.mean()) == pytest.approx(kept**steps * 0.4, abs=4 * math.sqrt(variance / count))
    assert float(ends.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / count))


def test_a_gradient_is_taken_whether_or_not_gradients_are_enabled() -> None:
    x = torch.tensor([[[[0.5, -2.0]]]], dtype=torch.float64)

    def quartic(x: Tensor) -> Tensor:
        return x.pow(4).sum((1, 2, 3))

    with torch.no_grad():
        quiet = inner_gradient(quartic, x)
    assert not quiet.requires_grad
    torch.testing.assert_close(quiet, 4 * x**3)
    assert torch.autograd.gradcheck(lambda x: inner_gradient(quartic, x), (x.requires_grad_(),))


def test_energy_is_that_of_the_jem() -> None:
    x, defense = torch.rand(3, 1, 8, 8), Langevin("digits-jem", Undefended("digits-cnn"))
    torch.testing.assert_close(defense.energy(x), JEM("digits-jem").energy(x))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"step_size": Quantity(0)}, "step_size is 0"),
        ({"temperature": Quantity(-1)}, "temperature is -1"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(options, complaint) -> None:
    with pytest.raises(UserError) as error:
        build(**options)
    assert complaint in str(error.value)
