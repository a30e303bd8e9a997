from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.common.losses import (
    LOSSES,
    Loss,
    LossName,
    ce,
    ce_plain,
    ce_targeted,
    dlr,
    dlr_targeted,
    margin,
    margin_targeted,
    pma,
)
from harness.randomness import normal


def naive_dlr(z: list[float], y: int) -> float:
    top = sorted(z, reverse=True)
    rival = max(v for j, v in enumerate(z) if j != y)
    return -(z[y] - rival) / (top[0] - top[2] + 1e-12)


def naive_ce(z: list[float], y: int, gap: float) -> float:
    """Between its bounds, the scale is 1; nearer to 1 than a bound it is not allowed to be."""
    low, high = gap / 10, (max(z) - min(z)) / 10
    scale = low if low > 1 else high if high < 1 else 1.0
    return min(scale, 1) * (math.log(sum(math.exp(v / scale) for v in z)) - z[y] / scale)


def naive_pma(z: list[float], y: int) -> float:
    gap = z[y] - max(v for j, v in enumerate(z) if j != y)
    low, high = abs(gap) / 10, (max(z) - min(z)) / 10
    scale = low if low > 1 else high if high < 1 else 1.0
    powers = [math.exp(v / scale - max(z) / scale) for v in z]
    rival = max(v for j, v in enumerate(powers) if j != y)
    return scale * (rival - powers[y]) / sum(powers)


def _gradient(loss: Loss, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    z = z.clone().requires_grad_()
    return torch.autograd.grad(loss(z, y).sum(), z)[0]


@given(st.integers(0, 10**6), st.integers(4, 12))
@settings(deadline=None, max_examples=40)
def test_losses_equal_their_definitions(seed: int, classes: int) -> None:
    z = 10 ** (seed % 7 / 2 - 1) * normal(torch.tensor([seed, seed + 1]), (classes,), torch.float64)
    y, t = torch.tensor([seed % classes, 0]), torch.tensor([1, classes - 1])
    for row, values in enumerate(z.tolist()):
        label, goal, top = int(y[row]), int(t[row]), sorted(values, reverse=True)
        rival = max(v for j, v in enumerate(values) if j != label)
        assert margin(z, y)[row].item() == pytest.approx(rival - values[label])
        assert dlr(z, y)[row].item() == pytest.approx(naive_dlr(values, label))
        assert margin_targeted(z, y, t)[row].item() == pytest.approx(values[goal] - values[label])
        assert dlr_targeted(z, y, t)[row].item() == pytest.approx(
            (values[goal] - values[label]) / (top[0] - (top[2] + top[3]) / 2 + 1e-12)
        )
        assert pma(z, y)[row].item() == pytest.approx(naive_pma(values, label), rel=1e-6)
        assert ce(z, y)[row].item() == pytest.approx(naive_ce(values, label, values[label] - rival))
        assert ce_targeted(z, y, t)[row].item() == pytest.approx(-naive_ce(values, goal, top[0] - values[goal]))


def test_ce_is_plain_cross_entropy_to_the_bit_while_the_gap_is_small_and_the_spread_is_not() -> None:
    z, y = 5 * normal(torch.arange(40), (10,)), torch.arange(40) % 10
    plain = (-margin(z, y) < 10) & (z.amax(1) - z.amin(1) > 10)
    assert 10 < plain.sum() < 40
    assert ce(z, y)[plain].equal(F.cross_entropy(z, y, reduction="none")[plain])


@pytest.mark.parametrize("name", ["ce", "dlr", "margin"])
@pytest.mark.parametrize("scale", [1e-2, 1e-13, 1e-25])
def test_the_direction_of_a_gradient_does_not_depend_on_how_small_the_logits_are(name: LossName, scale: float) -> None:
    z, y = 2 * normal(torch.arange(6), (5,)), torch.arange(6) % 5
    one, other = (_gradient(LOSSES[name], factor * z, y).double() for factor in (1.0, scale))
    assert torch.allclose(F.normalize(one), F.normalize(other), rtol=1e-4, atol=1e-6)
    if name == "ce":
        assert torch.allclose(one, other, rtol=1e-4)  # in the logits' own units, so that half precision holds it


def test_plain_cross_entropy_of_small_logits_forgets_the_rival() -> None:
    z, y = torch.tensor([[3.0, 2.9, -5.0, -5.0]]), torch.tensor([0])
    plain, ours = (_gradient(LOSSES[name], 1e-6 * z, y)[0] for name in ("ce-plain", "ce"))
    assert torch.allclose(plain[1:], torch.full((3,), 0.25))
    assert ours[1] > 1000 * ours[2]


@pytest.mark.parametrize("name", ["ce", "dlr", "margin", "ce-plain"])
def test_equal_logits_have_a_finite_gradient(name: LossName) -> None:
    assert _gradient(LOSSES[name], torch.full((2, 4), 0.3), torch.tensor([0, 3])).isfinite().all()


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e6])
def test_saturated_logits_silence_plain_cross_entropy_only(scale: float) -> None:
    z = (torch.tensor([[3.0, 1.0, 0.5, 0.0]]) * scale).requires_grad_()
    y = torch.tensor([0])
    grads = {loss: torch.autograd.grad(LOSSES[loss](z, y).sum(), z)[0] for loss in LOSSES}
    assert grads["ce-plain"].abs().max() < 1e-30
    for name in ("ce", "dlr", "margin"):
        assert grads[name][0, 1] > 0 > grads[name][0, 0]


def test_the_narrowed_gradient_is_accurate_in_float32() -> None:
    z, y = torch.tensor([[900.0, 100.0, 50.0, 70.0]]), torch.tensor([0])
    grads = []
    for dtype in (torch.float32, torch.float64):
        logits = z.to(dtype).requires_grad_()
        grads.append(torch.autograd.grad(ce(logits, y).sum(), logits)[0].double())
    assert torch.allclose(grads[0], grads[1], rtol=2e-3, atol=0)


@pytest.mark.parametrize("name", ["ce", "ce-plain", "dlr", "margin"])
def test_losses_of_an_image_do_not_depend_on_the_others(name: LossName) -> None:
    z, y = 40 * normal(torch.arange(7), (5,)), torch.arange(7) % 5
    some = torch.tensor([6, 2])
    assert LOSSES[name](z[some], y[some]).equal(LOSSES[name](z, y)[some])


def test_dlr_ignores_shift_and_scale() -> None:
    z, y = normal(torch.arange(7), (5,), torch.float64), torch.arange(7) % 5
    assert torch.allclose(dlr(1e4 * z + 3, y), dlr(z, y))


def test_two_classes_have_a_margin_and_no_dlr() -> None:
    z, y = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    assert margin(z, y).item() == -1
    assert ce_plain(z, y).item() == pytest.approx(math.log(1 + math.exp(-1)))
    with pytest.raises(ValueError, match="at least 3 classes, not 2"):
        dlr(z, y)
    with pytest.raises(ValueError, match="at least 4 classes, not 2"):
        dlr_targeted(z, y, y)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_the_probability_margin_has_the_gradient_of_double_precision_at_any_scale(scale: float) -> None:
    z, y = scale * torch.tensor([[2.0, 1.0, -1.0, 0.5], [3.0, 2.9, 2.0, -7.0]]), torch.tensor([0, 3])
    single, double = _gradient(pma, z, y), _gradient(pma, z.double(), y)
    size = double.norm(dim=1)
    assert (size > 1e-6).all(), "in the logits' own units it does not depend on the scale"
    assert ((single.double() - double).norm(dim=1) < 0.005 * size).all()


def test_the_probability_margin_rises_with_the_margin_even_where_softmax_saturates() -> None:
    gaps = torch.tensor([1e4, 1e3, 500.0, 101.0, 99.0, 20.0, 5.0, 0.1, 0.0, -1.0, -30.0])
    z = torch.stack([gaps, torch.zeros_like(gaps), torch.full_like(gaps, -40.0)], 1)
    values = pma(z, torch.zeros(len(gaps), dtype=torch.int64))
    assert (values.diff() > 0).all() and (torch.sign(values) == torch.sign(-gaps)).all()
