from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.common.losses import (
    LOSSES,
    LossName,
    ce,
    ce_plain,
    ce_targeted,
    dlr,
    dlr_targeted,
    margin,
    margin_targeted,
)
from harness.randomness import normal


def naive_dlr(z: list[float], y: int) -> float:
    top = sorted(z, reverse=True)
    rival = max(v for j, v in enumerate(z) if j != y)
    return -(z[y] - rival) / (top[0] - top[2] + 1e-12)


@given(st.integers(0, 10**6), st.integers(4, 12))
@settings(deadline=None, max_examples=40)
def test_losses_equal_their_definitions(seed: int, classes: int) -> None:
    z = normal(torch.tensor([seed, seed + 1]), (classes,), torch.float64)
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
        total = math.log(sum(math.exp(v) for v in values))
        assert ce(z, y)[row].item() == pytest.approx(total - values[label])
        assert ce_targeted(z, y, t)[row].item() == pytest.approx(values[goal] - total)


def test_ce_is_plain_cross_entropy_to_the_bit_while_the_gap_is_small() -> None:
    z, y = 3 * normal(torch.arange(20), (10,)), torch.arange(20) % 10
    near = -margin(z, y) < 10
    assert near.sum() > 10
    assert ce(z, y)[near].equal(F.cross_entropy(z, y, reduction="none")[near])


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
