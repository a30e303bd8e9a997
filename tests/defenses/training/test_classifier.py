"""Ordinary training: images move as whole pixels, and the loss is cross-entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from defenses.training.classifier import Classifier, shifted


@settings(deadline=None, max_examples=30)
@given(st.integers(-3, 3), st.integers(-3, 3))
def test_a_shift_moves_pixels_and_fills_with_zeros(down: int, right: int) -> None:
    x = torch.rand(2, 3, 5, 4)
    moved = shifted(x, torch.tensor([[down, right], [0, 0]]))
    for row in range(5):
        for column in range(4):
            source = row - down, column - right
            inside = 0 <= source[0] < 5 and 0 <= source[1] < 4
            expected = x[0, :, source[0], source[1]] if inside else torch.zeros(3)
            assert torch.equal(moved[0, :, row, column], expected)
    assert torch.equal(moved[1], x[1])


def test_without_options_the_loss_is_cross_entropy() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    x, y = torch.rand(6, 1, 4, 4), torch.randint(3, (6,))
    assert torch.equal(Classifier().loss(network, x, y), F.cross_entropy(network(x), y))
