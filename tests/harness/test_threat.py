from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.quantity import Quantity
from harness.randomness import normal, uniform
from harness.threat import L0, L1, L2, TOLERANCE, WARP_TOLERANCE, Flow, Linf, Pixels, warp
from helpers.examples import examples

BALLS = [Linf, L2, L1]
SHAPE = (3, 2, 5, 4)


def images(seed: int) -> Tensor:
    """Images with pixels at 0 and 1 too."""
    return (uniform(torch.arange(SHAPE[0]) + seed, SHAPE[1:]) * 1.4 - 0.2).clamp(0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("ball", BALLS)
@given(
    seed=st.integers(0, 10**6),
    eps=st.sampled_from(["0", "1e-9", "8/255", "0.5", "1", "3", "60", "1e30"]),
    scale=st.sampled_from([0.0, 1e-8, 0.1, 1.0, 1e4, 1e30]),
)
@settings(deadline=None, max_examples=examples(60))
def test_projection_lands_in_the_budget_and_stays_there(ball: type[Pixels], seed: int, eps: str, scale: float) -> None:
    threat, x = ball(Quantity(eps)), images(seed)
    projected = threat.project(x, x + scale * normal(torch.arange(SHAPE[0]) + seed, SHAPE[1:]))
    assert threat.violation(x, projected).max() <= TOLERANCE
    assert projected.min() >= 0 and projected.max() <= 1
    assert torch.allclose(threat.project(x, projected), projected, rtol=0, atol=1e-7)
    if threat.eps == 0:
        assert projected.equal(x)


@pytest.mark.parametrize("ball", BALLS)
def test_projection_leaves_an_image_within_the_budget_alone(ball: type[Pixels]) -> None:
    x = images(0)
    inside = (x + 0.001 * normal(torch.arange(SHAPE[0]), SHAPE[1:])).clamp(0, 1)
    assert torch.allclose(ball(Quantity("0.2")).project(x, inside), inside, rtol=0, atol=1e-7)


def test_l2_projection_of_a_large_image_stays_within_the_tolerance() -> None:
    x = torch.zeros(1, 3, 224, 224)
    threat = L2(Quantity(100))
    assert threat.violation(x, threat.project(x, torch.ones_like(x))).max() <= TOLERANCE


@pytest.mark.slow
@given(seed=st.integers(0, 10**6), eps=st.sampled_from([0.05, 0.5, 3.0, 15.0]), scale=st.sampled_from([0.1, 1.0, 5.0]))
@settings(deadline=None, max_examples=40)
def test_no_other_point_of_the_l1_ball_and_the_box_is_nearer(seed: int, eps: float, scale: float) -> None:
    """The nearest point p of a convex set makes an obtuse angle with every other q: <u - p, q - p> <= 0."""
    threat, x = L1(Quantity(eps)), images(seed)
    u = x + scale * normal(torch.arange(SHAPE[0]) + seed, SHAPE[1:])
    p = threat.project(x, u).double()
    for tag in range(5):
        noise = [draw(torch.arange(SHAPE[0]) + 7 * seed + tag, SHAPE[1:]) for draw in (uniform, normal)]
        inner = threat.project(x, p.float() + scale * noise[1])
        for q in (inner, threat.random(x, *noise), x):
            assert ((u - p) * (q - p)).flatten(1).sum(1).max() <= 1e-4 * scale


def test_l1_projection_of_a_large_image_stays_within_the_tolerance() -> None:
    x = uniform(torch.arange(1), (3, 224, 224))
    threat = L1(Quantity(12))
    moved = threat.project(x, x + normal(torch.arange(1), (3, 224, 224)))
    assert threat.violation(x, moved).max() <= TOLERANCE and threat.size(x, moved).item() > 11.98


def test_an_l1_step_leaves_out_pixels_that_the_box_stops() -> None:
    x, grad = torch.zeros(1, 1, 4, 5), torch.ones(1, 1, 4, 5)
    grad[0, 0, 0, 0], grad[0, 0, 3, 3] = -9.0, 2.0
    assert L1(Quantity(1)).steepest(grad, x).nonzero().tolist() == [[0, 0, 3, 3]]


def test_sizes_are_the_norms() -> None:
    x, moved = torch.zeros(1, 1, 2, 2), torch.tensor([[[[0.3, -0.4], [0.0, 0.0]]]])
    assert Linf(Quantity(1)).size(x, moved).item() == pytest.approx(0.4)
    assert L2(Quantity(1)).size(x, moved).item() == pytest.approx(0.5)


@pytest.mark.parametrize("ball", BALLS)
@pytest.mark.parametrize("magnitude", [1e-40, 1e-20, 1.0, 1e30])
def test_the_steepest_step_has_size_one_and_the_largest_inner_product(ball: type[Pixels], magnitude: float) -> None:
    threat = ball(Quantity(1))
    grad = normal(torch.arange(2), (3, 4, 4))
    step = threat.steepest(grad * magnitude)
    assert torch.allclose(
        threat.size(torch.zeros_like(step), step), torch.ones(2), atol=1e-3 if magnitude < 1e-37 else 1e-5
    )
    sizes = grad.flatten(1).abs()
    dual = {Linf: sizes.sum(1), L2: sizes.norm(dim=1), L1: sizes.topk(2, dim=1).values.mean(1)}[ball]
    assert torch.allclose((grad * step).flatten(1).sum(1), dual, rtol=1e-3)


@pytest.mark.parametrize("ball", BALLS)
def test_the_steepest_step_of_no_gradient_is_no_step(ball: type[Pixels]) -> None:
    assert ball(Quantity(1)).steepest(torch.zeros(1, 1, 2, 2)).equal(torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("ball", BALLS)
def test_random_points_fill_the_ball(ball: type[Pixels]) -> None:
    seeds, shape, threat = torch.arange(500), (1, 2, 2), ball(Quantity("0.1"))
    x = torch.full((500, *shape), 0.5)
    points = threat.random(x, uniform(seeds, shape), normal(seeds + 500, shape))
    sizes = threat.size(x, points)
    assert threat.violation(x, points).max() <= TOLERANCE
    # The volume within radius r of a 4-dimensional ball is r^4.
    assert abs((sizes < 0.1 * 0.5**0.25).float().mean() - 0.5) < 0.1
    assert (points - x).mean().abs() < 0.01


@pytest.mark.parametrize("ball", BALLS)
def test_violation_measures_the_excess(ball: type[Pixels]) -> None:
    x = torch.full((5, 1, 1, 2), 0.5)
    x_adv = x.clone()
    x_adv[1, 0, 0, 0] += 0.3
    x_adv[2, 0, 0, 0] = 1.01
    x_adv[3, 0, 0, 0] = torch.nan
    x_adv[4, 0, 0, 0] = -torch.inf
    assert torch.allclose(ball(Quantity("0.2")).violation(x, x_adv), torch.tensor([0, 0.1, 0.31, torch.inf, torch.inf]))
    assert torch.allclose(ball(Quantity(9)).violation(x, x_adv)[:3], torch.tensor([0, 0, 0.01]), atol=1e-7)


def test_a_warp_by_no_flow_is_the_identity() -> None:
    x = images(3)
    assert torch.allclose(warp(x, torch.zeros(SHAPE[0], *SHAPE[2:], 2)), x, atol=1e-6)


def test_a_warp_by_one_pixel_shifts_the_image() -> None:
    x = images(4)
    flow = torch.zeros(SHAPE[0], *SHAPE[2:], 2)
    flow[..., 0] = 2 / SHAPE[3]
    assert torch.allclose(warp(x, flow)[..., :-1], x[..., 1:], atol=1e-5)


@given(
    seed=st.integers(0, 10**6), eps=st.sampled_from(["0", "0.05", "0.5", "10"]), scale=st.sampled_from([0.01, 1.0, 1e4])
)
@settings(deadline=None, max_examples=40)
def test_flow_projection_is_idempotent_and_within_the_bound(seed: int, eps: str, scale: float) -> None:
    threat, x = Flow(Quantity(eps)), images(seed)
    projected = threat.project(scale * normal(torch.arange(SHAPE[0]) + seed, (*SHAPE[2:], 2)))
    assert torch.allclose(threat.project(projected), projected, rtol=0, atol=1e-6)
    assert threat.violation(x, warp(x, projected).clamp(0, 1), projected).max() <= TOLERANCE


def test_a_dishonest_flow_is_a_violation() -> None:
    x = images(5)
    threat = Flow(Quantity("0.5"))
    flow = 0.1 * uniform(torch.arange(SHAPE[0]), (*SHAPE[2:], 2))
    honest = warp(x, flow)
    assert threat.violation(x, honest, flow).max() == 0
    assert threat.size(x, honest, flow).equal(flow.abs().flatten(1).amax(1))
    retouched = honest.clone()
    retouched[0, 0, 0, 0] += 0.5 - honest[0, 0, 0, 0] + 10 * WARP_TOLERANCE
    assert torch.isinf(threat.violation(x, retouched, flow)[0])
    assert torch.isinf(threat.violation(x, honest)).all()
    assert torch.isinf(threat.violation(x, honest, flow * torch.nan)).all()
    assert threat.violation(x, x).max() == 0
    assert torch.allclose(Flow(Quantity("0.05")).violation(x, honest, flow), flow.flatten(1).amax(1) - 0.05)


def test_a_threat_prints_as_it_was_written() -> None:
    assert str(Linf(Quantity("8/255"))) == "Linf 8/255"


def test_an_l2_ball_without_the_box_shrinks_only_what_lies_outside_along_its_ray() -> None:
    x, direction = torch.rand(4, 1, 3, 3), normal(torch.arange(4), (1, 3, 3))
    direction = direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    threat, lengths = L2(Quantity(2)), torch.tensor([0.5, 1.9, 2.1, 50.0])
    shrunk = threat.shrink(x, x + lengths.view(-1, 1, 1, 1) * direction)
    expected = x + lengths.clamp(max=2).view(-1, 1, 1, 1) * direction
    assert torch.allclose(shrunk, expected, atol=1e-5)
    assert shrunk.amin() < 0 or shrunk.amax() > 1
    assert torch.equal(threat.project(x, expected * 3), threat.shrink(x, (expected * 3).clamp(0, 1)))


@pytest.mark.parametrize("eps", [0, 1, 7, 100])
def test_no_image_with_as_few_changes_is_nearer_than_the_l0_projection(eps: int) -> None:
    """Of all sets of eps values, the one whose changes are the largest leaves the least behind: tried by brute force
    on the squares, sorted."""
    threat, x = L0(Quantity(eps)), images(3)
    u = x + normal(torch.arange(SHAPE[0]), SHAPE[1:])
    found = threat.project(x, u)
    assert threat.violation(x, found).max() == 0 and threat.project(x, found).equal(found)
    left = (u.clamp(0, 1) - found).flatten(1).square().sum(1)
    squares = (u.clamp(0, 1) - x).flatten(1).square().sort(1).values
    assert torch.allclose(left, squares[:, : max(0, squares.shape[1] - eps)].sum(1), atol=1e-5)


def test_l0_counts_a_value_that_differs_in_its_last_bit() -> None:
    x = images(0).clamp(0.1, 0.9)
    moved = x.clone()
    moved[0, 1, 2, 3] = torch.nextafter(x[0, 1, 2, 3], torch.tensor(1.0))
    moved[1, :, 2, 3] = 1.0  # one position of two channels
    assert L0(Quantity(1)).size(x, moved).tolist() == [1.0, 2.0, 0.0]
    assert L0(Quantity(1)).violation(x, moved).tolist() == [0.0, 1.0, 0.0]
    moved[2, 0, 0, 0] = torch.nan
    assert L0(Quantity(1)).violation(x, moved)[2] == torch.inf
