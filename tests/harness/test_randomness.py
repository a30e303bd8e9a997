from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.randomness import derive, fenced, fold, normal, rademacher, row_seeds, uniform


def splitmix64(state: int) -> int:
    """The finaliser, in Python's own integers."""
    mask = (1 << 64) - 1
    z = state & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_uniform_bits_are_those_of_splitmix64() -> None:
    seeds = torch.tensor([0, 1, -1, 2**62])
    got = uniform(seeds, (3,), torch.float64)
    golden = 0x9E3779B97F4A7C15
    for row, seed in enumerate(seeds.tolist()):
        for counter in range(3):
            assert got[row, counter] == (splitmix64(seed + (counter + 1) * golden) >> 40) * 2.0**-24


def test_derive_depends_on_every_part_and_on_their_order() -> None:
    assert derive("a", 1) == derive("a", 1)
    assert len({derive("a", 1), derive(1, "a"), derive("a", "1"), derive("a1"), derive("a", 1, None)}) == 5
    assert 0 <= derive("x") < 2**63


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 1000), st.integers(0, 1000))
@settings(deadline=None, max_examples=50)
def test_fold_is_a_function_of_seed_and_tags_in_order(seed: int, first: int, second: int) -> None:
    seeds = torch.tensor([seed])
    assert fold(seeds, first, second).equal(fold(fold(seeds, first), torch.tensor([second])))
    if first != second:
        assert not fold(seeds, first, second).equal(fold(seeds, second, first))


def test_fold_broadcasts_tags_over_seeds() -> None:
    seeds = torch.arange(3)
    grid = fold(seeds, torch.arange(2)[:, None])
    assert grid.shape == (2, 3)
    assert grid[1].equal(fold(seeds, 1))


def test_a_tag_is_the_same_as_a_number_and_as_a_tensor() -> None:
    seeds, tags = torch.arange(-3, 4), [0, 1, -1, 999, derive("a tag"), 2**63 - 1, -(2**63)]
    for tag in tags:
        assert fold(seeds, tag).equal(fold(seeds, torch.tensor(tag)))


@pytest.mark.parametrize("draw", [normal, uniform, rademacher])
@given(st.integers(0, 2**63 - 1), st.lists(st.integers(0, 19), min_size=1, max_size=30))
@settings(deadline=None, max_examples=30)
def test_noise_of_an_image_does_not_depend_on_its_batch(
    draw: Callable[..., Tensor], seed: int, some: list[int]
) -> None:
    seeds = row_seeds(seed, torch.arange(20))
    assert draw(seeds[some], (3, 4, 4)).equal(draw(seeds, (3, 4, 4))[some])


def test_neighbouring_seeds_and_tags_are_uncorrelated() -> None:
    seeds = row_seeds(0, torch.arange(64))
    noise = normal(torch.cat([seeds, fold(seeds, 0), fold(seeds, 1), torch.arange(64)]), (2000,), torch.float64)
    off_diagonal = torch.corrcoef(noise).fill_diagonal_(0)
    assert off_diagonal.abs().max() < 6 / 2000**0.5


def test_normal_has_the_moments_of_a_standard_gaussian() -> None:
    noise = normal(torch.arange(100), (5001,), torch.float64).flatten()
    error = len(noise) ** -0.5
    assert abs(noise.mean()) < 5 * error
    assert abs(noise.var() - 1) < 5 * 2**0.5 * error
    assert abs((noise**3).mean()) < 5 * 15**0.5 * error
    assert abs((noise**4).mean() - 3) < 5 * 96**0.5 * error
    assert torch.isfinite(noise).all()


def test_uniform_fills_the_half_open_interval_evenly() -> None:
    noise = uniform(torch.arange(100), (4000,))
    assert noise.dtype == torch.float32
    assert noise.min() >= 0 and noise.max() < 1
    counts = torch.histc(noise, 10, 0, 1)
    assert ((counts - 40_000).abs() < 5 * 36_000**0.5).all()


def test_rademacher_is_a_balanced_sign() -> None:
    signs = rademacher(torch.arange(100), (1000,))
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(signs.mean()) < 5 / 100_000**0.5


def draw_from_all_generators() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_fenced_draws_repeat_and_leave_all_global_generators_as_they_were() -> None:
    with fenced(3):
        expected = draw_from_all_generators()
    with fenced(11):
        outside = draw_from_all_generators()
    with fenced(11):
        with fenced(3):
            assert draw_from_all_generators() == expected
        assert draw_from_all_generators() == outside


def test_fenced_restores_after_an_exception() -> None:
    with fenced(11):
        outside = draw_from_all_generators()
    with fenced(11):
        with pytest.raises(KeyError), fenced(3):
            draw_from_all_generators()
            raise KeyError
        assert draw_from_all_generators() == outside
