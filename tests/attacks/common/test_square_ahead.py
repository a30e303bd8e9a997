"""Square with several proposals in one batch keeps what the library keeps, proposal by proposal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import Tensor

from attacks.common.one_draw import OneDraw
from attacks.common.square_ahead import WASTED, SquareAhead
from harness.defense import Defense
from harness.predict import margin
from harness.randomness import fenced, uniform
from harness.target import Target

QUERIES = 400


class Exact(Defense):
    """Three classes; all numbers are small multiples of powers of two, so that no sum is rounded in any batch size.

    Args:
        bias: of class 0, so that it is chosen.
    """

    num_classes = 3

    def __init__(self, shape: tuple[int, int, int], bias: float) -> None:
        super().__init__()
        size = torch.Size(shape).numel()
        self.bias, self.asked = torch.tensor([bias, 0.0, 0.0]), 0
        self.register_buffer("weight", (uniform(torch.arange(3), (size,)) * 16 - 8).round() / 8)

    def classify(self, x: Tensor) -> Tensor:
        self.asked += 1
        z = x.flatten(1) @ self.weight.T
        return z * z.round().abs() / 4 + self.bias  # not linear, so that few changes are better


def attacked(cls: Any, model: Any, x: Tensor, y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """How many proposals each image had, and the images. The library counts the start as one more."""
    attack = cls(model, norm="Linf", eps=0.125, n_queries=QUERIES, p_init=0.8, resc_schedule=False, seed=seed)
    attack.init_hyperparam(x)
    with fenced(seed):
        counts, images = attack.attack_single_run(x, y)
    return counts - int(cls is SquareAttack), images


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 9), (2, 12, 5)])
def test_images_and_numbers_of_queries_are_the_librarys_to_the_bit(shape: tuple[int, int, int]) -> None:
    fooled, batches = 0, []
    for seed, bias in enumerate((4.0, 8.0, 16.0, 32.0)):
        defense, shard = Exact(shape, bias), (uniform(torch.arange(40) + 40 * seed, shape) * 8).round() / 8
        x, y = shard[:4], torch.zeros(4, dtype=torch.int64)
        (expected, theirs), long = attacked(SquareAttack, defense, x, y, seed), defense.asked
        defense.asked = 0
        target = Target(defense, shard, torch.arange(40))
        made, images = attacked(SquareAhead, OneDraw(target), x, y, seed)
        assert images.equal(theirs) and made.tolist() == expected.tolist()
        assert (images - x).abs().max() <= 0.125
        wasted = target.forwards[:4] - 1 - made
        assert ((wasted >= 0) & (wasted <= made // WASTED)).all()
        assert (target.forwards[4:] == 0).all()
        fooled += int((margin(defense(images), y) <= 0).sum())
        batches.append(defense.asked / long)
    assert 0 < fooled < 16 and min(batches) < 0.5
