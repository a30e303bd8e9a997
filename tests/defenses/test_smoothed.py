"""Noise in front of any defense."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from defenses.canaries.bit_depth import BitDepth
from defenses.smoothed import Smoothed
from harness.checks.forward import smoothing
from harness.checks.probe import Probe
from harness.errors import UserError
from harness.gradients import VIEWS
from harness.predict import query
from harness.quantity import Quantity
from harness.randomness import uniform
from helpers.linear import Linear

SEEDS = torch.arange(64)


def defense() -> Smoothed:
    return Smoothed(Linear(torch.eye(4)), Quantity("0.5"))


def test_its_logits_are_the_classifiers_on_noise_of_the_standard_deviation_that_it_says() -> None:
    x = torch.full((4000, 1, 2, 2), 0.5)
    logits = query(defense(), x, torch.arange(4000))
    assert torch.allclose(logits.mean(0), torch.full((4,), 0.5), atol=0.03)
    assert torch.allclose(logits.std(0), torch.full((4,), 0.5), atol=0.02)


def test_noisy_images_are_not_clipped() -> None:
    seen = query(defense(), torch.ones(64, 1, 2, 2), SEEDS)
    assert seen.max() > 1.5


def test_the_check_passes_where_the_certificate_adds_the_same_noise() -> None:
    assert smoothing(Probe(defense(), uniform(SEEDS, (1, 2, 2)))).status == "passed"


def test_the_check_finds_a_defense_that_answers_without_the_noise_that_is_certified() -> None:
    class LessNoise(Smoothed):
        def noised(self, x: Tensor) -> Tensor:
            return x + 0.1 * (super().noised(x) - x)

    weaker = LessNoise(Linear(torch.eye(4)), Quantity("0.5"))
    found = smoothing(Probe(weaker, uniform(SEEDS, (1, 2, 2))))
    assert found.status == "failed" and "another defense" in found.message


def test_every_view_of_the_inner_defense_is_a_view_of_the_smoothed_one() -> None:
    inner = BitDepth(Linear(torch.eye(4)), bits=2)
    smoothed, x = Smoothed(inner, Quantity("0.1")), uniform(SEEDS[:4], (1, 2, 2)).requires_grad_()
    exact = query(smoothed, x, SEEDS[:4])
    for view in ("exact", "bpda"):
        logits = query(smoothed, x, SEEDS[:4], lambda images, view=view: VIEWS[view](smoothed, images))
        assert torch.equal(logits, exact)
    (grad,) = torch.autograd.grad(logits[:, 0].sum(), x)
    assert torch.equal(grad.flatten(1)[:, 0], torch.ones(4))  # rounding has a derivative of 0, BPDA's is 1


def test_sigma_must_be_positive() -> None:
    with pytest.raises(UserError, match="sigma is 0"):
        Smoothed(Linear(torch.eye(4)), Quantity("0"))
