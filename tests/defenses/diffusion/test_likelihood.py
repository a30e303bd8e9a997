from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from defenses.diffusion.likelihood import LikelihoodMaximization, Norm, SignGradient
from defenses.diffusion.likelihood import maximize_likelihood as maximize
from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.noise import GaussianNoise
from defenses.diffusion.schedule import discrete_vp
from defenses.diffusion.timesteps import time_grid
from harness.errors import UserError
from harness.quantity import Quantity
from harness.randomness import fold
from harness.threat import L2, NORMS, Linf
from helpers.denoisers import ToyDenoiser

BALL = Linf(Quantity(0.1))
ETA = float(BALL.eps)


def by_hand(x: list[float], gradients: list[list[float]], momentum: float, norm: Norm) -> list[float]:
    """Algorithm 1 for one image, pixel by pixel."""
    moved, m = list(x), [0.0] * len(x)
    for g in gradients:
        size = sum(abs(value) for value in g)
        m = [momentum * old - value / size for old, value in zip(m, g, strict=True)]
        length = math.sqrt(sum(value**2 for value in m)) or 1
        steps = [(value > 0) - (value < 0) for value in m] if norm == "Linf" else [value / length for value in m]
        moved = [a + ETA / len(gradients) * s for a, s in zip(moved, steps, strict=True)]
        if norm == "Linf":
            moved = [min(max(a, b - ETA), b + ETA) for a, b in zip(moved, x, strict=True)]
        moved = [min(max(a, 0), 1) for a in moved]
    return moved


def pixels(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 2, -1)


def make(toy, **options) -> LikelihoodMaximization:
    """Two channels, 6 timesteps, float64."""
    loss = DiffusionLoss(toy(channels=2).double(), time_grid(discrete_vp(), 6), GaussianNoise(), chunk=5)
    return LikelihoodMaximization(loss, **options)


def images(low: float = 0.2, high: float = 0.8) -> Tensor:
    noise = torch.rand(2, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return low + (high - low) * noise


SEEDS = torch.tensor([3, 1 << 60])


def direction(**options) -> Callable[[Tensor], Tensor]:
    loss = DiffusionLoss(torch.nn.Identity(), time_grid(discrete_vp(), 1), GaussianNoise())  # is never asked
    return LikelihoodMaximization(loss, **options).direction


GRADIENTS = st.builds(
    lambda sizes, signs, scale: [scale * size * sign for size, sign in zip(sizes, signs, strict=True)],
    st.sampled_from([[0, 1, 3, 4], [1, 1, 2, 4], [2, 2, 2, 2]]).flatmap(st.permutations),
    st.lists(st.sampled_from([-1.0, 1.0]), min_size=4, max_size=4),
    st.sampled_from([2.0**-20, 1.0, 2.0**10]),
)
"""Their normalised sums are exact: the sign of what cancels depends on no rounding."""


@settings(deadline=None, max_examples=50)
@given(
    x=st.lists(st.sampled_from([0.0, 0.03, 0.5, 0.98, 1.0]), min_size=4, max_size=4),
    gradients=st.lists(GRADIENTS, min_size=1, max_size=5),
    momentum=st.sampled_from([0.0, 0.5, 1.0]),
    norm=st.sampled_from(["Linf", "L2"]),
)
def test_it_is_algorithm_1(x: list[float], gradients: list[list[float]], momentum: float, norm: Norm) -> None:
    ball = Linf(Quantity(ETA)) if norm == "Linf" else L2(Quantity(ETA))
    found = maximize(
        pixels(x),
        lambda _, n: pixels(gradients[n]),
        direction(norm=norm),
        ball=ball,
        steps=len(gradients),
        momentum=momentum,
    )
    assert found.flatten().tolist() == pytest.approx(by_hand(x, gradients, momentum, norm), abs=1e-12)


def test_gradients_are_normalised_image_by_image() -> None:
    x = torch.full((2, 1, 2, 2), 0.5)
    steps = [torch.tensor([1.0, 1e6]), torch.tensor([-0.5, -0.5])]  # each image's sum decides the second step
    signs = torch.ones(1, 2, 2)
    found = maximize(x, lambda _, n: steps[n].view(2, 1, 1, 1) * signs, direction(), ball=BALL, steps=2)
    torch.testing.assert_close(found, torch.full_like(x, 0.5 - ETA / 2))


def test_momentum_carries_earlier_gradients() -> None:
    g = [torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 3.0])]

    def move(momentum: float) -> list[float]:
        x = torch.full((1, 1, 1, 2), 0.5)
        moved = maximize(x, lambda _, n: g[n].view(x.shape), direction(), ball=BALL, steps=2, momentum=momentum)
        return (moved - x).flatten().tolist()

    assert move(0.0) == pytest.approx([0.0, -ETA], abs=1e-6)
    assert move(1.0) == pytest.approx([-ETA, -ETA], abs=1e-6)


def test_steps_of_l2_go_where_the_gradient_goes_by_eta_over_n() -> None:
    x, g = torch.full((1, 1, 1, 2), 0.5), torch.tensor([3.0, -4.0]).view(1, 1, 1, 2)
    moved = maximize(x, lambda *_: g, direction(norm="L2"), ball=L2(Quantity(0.1)), steps=5)
    assert (moved - x).flatten().tolist() == pytest.approx([-0.06, 0.08], abs=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"sign_gradient": "straight_through"}, {"sign_gradient": "tanh"}, {"norm": "L2"}]
)
def test_an_image_without_gradient_stays_where_it_is_and_has_a_gradient(options) -> None:
    x = torch.rand(2, 1, 3, 3).requires_grad_()
    moved = maximize(x, lambda z, _: 0 * z, direction(**options), ball=BALL, steps=3)
    assert torch.equal(moved, x)
    assert torch.equal(torch.autograd.grad(moved.sum(), x)[0], torch.ones_like(x))


def test_the_gradient_passes_where_a_pixel_was_not_stopped_by_0_or_1() -> None:
    x = pixels([0.0, 0.5, 0.99, 1.0, 0.02, 0.0]).requires_grad_()
    down = pixels([1, 1, -1, 1, -1, -1])
    maximize(x, lambda _, n: down, direction(), ball=BALL, steps=2).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0, 1, 0, 1, 1, 1]


def test_the_gradient_is_that_of_finite_differences() -> None:
    x, down = pixels([0.01, 0.5, 0.99, 0.98, 0.02, 0.97]).requires_grad_(), pixels([1, 1, -1, 1, -1, -1])
    assert torch.autograd.gradcheck(lambda x: maximize(x, lambda z, n: down, direction(), ball=BALL, steps=3), x)


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_gradient_in_l2_is_that_of_finite_differences_second_derivatives_included(steps, momentum) -> None:
    purify = make(ToyDenoiser, norm="L2", steps=steps, momentum=momentum)
    x = images()[:, :, :2, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: purify(x, SEEDS), x)
    moved = purify(x, SEEDS)
    assert (torch.autograd.grad(moved.sum(), x)[0] - 1).abs().max() > 0.01


@pytest.mark.parametrize("sign_gradient", ["straight_through", "tanh"])
def test_no_value_depends_on_how_the_sign_is_differentiated(sign_gradient: SignGradient) -> None:
    x = images(0, 1).requires_grad_()
    true = make(ToyDenoiser, steps=4)(x, SEEDS)
    surrogate = make(ToyDenoiser, steps=4, sign_gradient=sign_gradient, sign_temperature=0.3)(x, SEEDS)
    with torch.no_grad():
        assert torch.equal(true, make(ToyDenoiser, steps=4)(x, SEEDS))
    assert torch.equal(true, surrogate)
    found, expected = (torch.autograd.grad(moved.square().sum(), x)[0] for moved in (surrogate, true))
    assert float((found - expected).norm() / expected.norm()) > 0.01


def test_straight_through_is_the_nearest_multiple_of_m_and_tanh_tends_to_it_and_to_zero() -> None:
    m = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_()

    def slopes(**options) -> Tensor:
        return torch.autograd.grad(direction(**options)(m).sum(), m)[0]

    flat = m.detach().flatten(1)
    nearest = (flat * flat.sign()).sum(1) / (flat * flat).sum(1)  # the c that minimises ||sign(m) - c m||
    straight = slopes(sign_gradient="straight_through")
    torch.testing.assert_close(straight, nearest.view(2, 1, 1, 1).expand_as(m))
    torch.testing.assert_close(100 * slopes(sign_gradient="tanh", sign_temperature=100.0), straight, rtol=1e-3, atol=0)
    assert float(slopes(sign_gradient="tanh", sign_temperature=1e-4).max()) < 1e-6
    torch.testing.assert_close(
        torch.autograd.grad(direction(sign_gradient="tanh")(1e-5 * m).sum(), m)[0], slopes(sign_gradient="tanh")
    )


def test_the_true_gradient_of_signs_takes_no_second_derivative() -> None:
    purify, x = make(ToyDenoiser, steps=3), images().requires_grad_()
    moved = purify(x, SEEDS)
    before = purify.loss.denoiser.rows
    moved.square().sum().backward()
    assert before == 2 * 6 * 3
    assert purify.loss.denoiser.rows == before


@pytest.mark.parametrize(("norm", "ball"), [("Linf", Linf(Quantity("8/255"))), ("L2", L2(Quantity("0.5")))])
def test_budgets_left_out_are_the_papers(norm: Norm, ball) -> None:
    purify, x = make(ToyDenoiser, norm=norm), images(0, 1)
    assert purify.ball == ball
    assert float(ball.violation(x, purify(x, SEEDS)).max()) < 1e-9
    assert float(ball.size(x, purify(x, SEEDS)).max()) > 0.9 * float(ball.eps)


@settings(deadline=None, max_examples=20)
@given(
    eta=st.floats(1e-3, 1),
    steps=st.integers(1, 12),
    momentum=st.sampled_from([0.0, 1.0]),
    norm=st.sampled_from(["Linf", "L2"]),
)
def test_no_image_leaves_its_ball_or_0_and_1_in_float32(eta: float, steps: int, momentum: float, norm: Norm) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 3, 5, 5, generator=generator).mul(1.4).sub(0.2).clamp(0, 1)
    ball = NORMS[norm](Quantity(eta))
    moved = maximize(
        x,
        lambda z, _: torch.randn(z.shape, generator=generator),
        direction(norm=norm),
        ball=ball,
        steps=steps,
        momentum=momentum,
    )
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    assert float(ball.size(x, moved).max()) <= eta + 1e-6


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_it_lowers_the_loss_under_noise_it_has_not_seen(norm: Norm) -> None:
    purify, x = make(ToyDenoiser, norm=norm, eta=Quantity(0.2)), images()
    before, after = (purify.loss(z, torch.tensor([-1]), fold(SEEDS, 7)) for z in (x, purify(x, SEEDS)))
    assert (after < before).all()


def test_equal_seeds_give_equal_bits_and_others_other_noise() -> None:
    purify, x = make(ToyDenoiser, steps=3), images()
    assert torch.equal(purify(x, SEEDS), purify(x, SEEDS))
    assert (purify(x, SEEDS) != purify(x, fold(SEEDS, 1))).flatten(1).any(1).all()


def test_its_cost_grows_with_steps_timesteps_and_samples() -> None:
    assert make(ToyDenoiser, steps=4).cost() == pytest.approx(4 * make(ToyDenoiser, steps=1).cost())
    assert make(ToyDenoiser, steps=1).cost() >= 2 * 6


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"eta": Quantity(8)}, "eta is 8"),
        ({"eta": Quantity(0)}, "eta is 0"),
        ({"eta": Quantity(200), "norm": "L2"}, "eta is 200"),
        ({"momentum": -1.0}, "momentum is -1"),
        ({"norm": "L2", "sign_gradient": "tanh"}, "sign_gradient is 'tanh'"),
        ({"sign_gradient": "tanh", "sign_temperature": 0.0}, "sign_temperature is 0"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(options, complaint) -> None:
    with pytest.raises(UserError) as error:
        make(ToyDenoiser, **options)
    assert complaint in str(error.value)
