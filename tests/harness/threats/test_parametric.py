"""What every threat model of `harness.threats` keeps, whatever it draws."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.threat import TOLERANCE
from harness.threats import CORRUPTIONS, PARAMETRIC, Parametric
from harness.threats.parametric import image_seeds

EPS = {
    **{"Elastic": "0.6", "JPEG": "0.4", "Fog": "0.5", "Snow": "0.5", "Gabor": "0.1"},
    **{"Hue": "0.2", "Saturation": "0.5", "ReColorAdv": "0.06"},
}
"""Of each threat model, a bound at which it changes images visibly and hardly clips them."""

GREY, COLOUR = (1, 8, 8), (3, 9, 12)
CASES = [(name, shape) for name in PARAMETRIC for shape in (GREY, COLOUR) if shape[0] in PARAMETRIC[name].channels]

each = pytest.mark.parametrize(("name", "shape"), CASES, ids=[f"{name}-{shape[0]}" for name, shape in CASES])


def made(name: str, eps: str | None = None) -> Parametric:
    return PARAMETRIC[name](Quantity(eps or EPS[name]))


def images(shape: tuple[int, ...], seed: int = 0, count: int = 3) -> Tensor:
    return (uniform(torch.arange(count) + seed, shape) * 255).round() / 255


def drawn(threat: Parametric, shape: tuple[int, ...], seed: int = 0, count: int = 3) -> Tensor:
    return threat.random(uniform(torch.arange(count) + 100 + seed, threat.shape(shape)))


@each
def test_without_parameters_the_image_stays_as_it_is(name: str, shape: tuple[int, ...]) -> None:
    threat, x = made(name), images(shape)
    nothing = torch.zeros(3, *threat.shape(shape))
    assert torch.allclose(threat.render(x, nothing), x, rtol=0, atol=1e-6)
    assert threat.violation(x, threat.render(x, nothing), nothing).eq(0).all()


@each
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.1, 1.0, 100.0]), share=st.sampled_from([0.01, 1.0]))
@settings(deadline=None, max_examples=10)
def test_projected_parameters_make_images_within_the_budget(
    name: str, shape: tuple[int, ...], seed: int, scale: float, share: float
) -> None:
    threat, x = made(name, str(share * float(EPS[name]))), images(shape, seed)
    z = threat.project(scale * normal(torch.arange(3) - seed, threat.shape(shape)))
    x_adv = threat.render(x, z)
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype
    assert threat.violation(x, x_adv, z).max() <= TOLERANCE
    assert torch.allclose(threat.project(z), z, rtol=0, atol=1e-5 * float(threat.eps))
    assert threat.violation(x, threat.render(x, drawn(threat, shape, seed)), drawn(threat, shape, seed)).max() <= 1e-6


@each
def test_what_is_out_of_bounds_or_was_tampered_with_is_a_violation(name: str, shape: tuple[int, ...]) -> None:
    threat, x = made(name), images(shape)
    z = drawn(threat, shape)
    honest = threat.render(x, z)
    assert (honest != x).flatten(1).any(1).all()
    smaller = made(name, str(0.5 * float(threat.used(z).min())))
    assert (smaller.violation(x, honest, z) >= threat.used(z) - float(smaller.eps) - 1e-6).all()
    retouched = honest.clone()
    retouched[:, 0, 4, 4] += torch.where(honest[:, 0, 4, 4] > 0.5, -1e-3, 1e-3)
    for image, parameters in (
        (retouched, z),
        (honest, None),
        (honest, -z),
        (honest, z[..., 1:]),
        (honest, torch.full_like(z, torch.nan)),
        (torch.full_like(honest, torch.nan), z),
    ):
        assert torch.isinf(threat.violation(x, image, parameters)).all()
    assert threat.violation(x, x, z).eq(0).all(), "the clean image uses nothing of the budget"


@each
def test_the_gradient_is_that_of_finite_differences(name: str, shape: tuple[int, ...]) -> None:
    threat, x = made(name), (0.3 + 0.4 * uniform(torch.arange(2), shape)).double()
    z = (0.9 * drawn(threat, shape, count=2)).double().requires_grad_()
    weights = normal(torch.arange(2) + 7, shape).double()
    (grad,) = torch.autograd.grad((threat.render(x, z) * weights).sum(), z)
    for seed in range(4):
        direction = normal(torch.arange(2) + 50 * seed, threat.shape(shape)).double() * (z != 0)
        step = 1e-6 * direction
        with torch.no_grad():
            rise = ((threat.render(x, z + step) - threat.render(x, z - step)) * weights).sum() / 2e-6
        assert torch.allclose((grad * direction).sum(), rise, rtol=1e-4, atol=1e-4 * float(grad.abs().sum()))
    assert grad.flatten(1).any(1).all()


@each
def test_an_image_is_drawn_in_the_same_way_whatever_others_are_in_the_batch(name: str, shape: tuple[int, ...]) -> None:
    threat, x = made(name), images(shape)
    z = drawn(threat, shape)
    alone = torch.cat([threat.render(x[n : n + 1], z[n : n + 1]) for n in range(3)])
    assert torch.allclose(threat.render(x, z), alone, rtol=0, atol=1e-6)


def test_the_seed_of_an_image_follows_from_its_pixels() -> None:
    x = images(COLOUR, count=50)
    assert len(set(image_seeds(x).tolist())) == 50
    assert torch.equal(image_seeds(x), image_seeds(x.double() + 1e-7))
    assert torch.equal(image_seeds(x)[[3, 1]], image_seeds(x[[3, 1]]))


def test_every_threat_model_is_in_the_page_about_them_with_its_source() -> None:
    page = (Path(__file__).parents[3] / "docs" / "threats.md").read_text()
    for name, threat in (PARAMETRIC | CORRUPTIONS).items():
        assert f"**{name}**" in page
        assert threat.source.removeprefix("arXiv:") in page
