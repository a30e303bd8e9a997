from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from defenses.diffusion.noise import GaussianNoise, Share

SHAPE = (2, 4, 4)


def draw(share: Share, seeds: list[int], classes: list[int], timesteps: list[int], samples: list[int]) -> Tensor:
    """Noise of every combination, (seeds, classes, timesteps, samples, *SHAPE)."""
    axes = [torch.tensor(tags) for tags in (seeds, classes, timesteps, samples)]
    grid = [axis.view([-1 if i == j else 1 for j in range(4)]) for i, axis in enumerate(axes)]
    return GaussianNoise(share)(*grid, SHAPE, torch.float64)


def distinct(noise: Tensor) -> int:
    return len(noise.flatten(0, 3).flatten(1).unique(dim=0))


@pytest.mark.parametrize(("share", "draws"), [("none", 24), ("classes", 8), ("timesteps", 12), ("both", 4)])
def test_noise_is_shared_over_what_the_option_names_and_nothing_else(share: Share, draws: int) -> None:
    noise = draw(share, [11, 12], [-1, 0, 1], [1, 500], [0, 1])
    assert distinct(noise) == draws
    if share in ("classes", "both"):
        assert torch.equal(noise[:, 0], noise[:, 2])
    if share in ("timesteps", "both"):
        assert torch.equal(noise[:, :, 0], noise[:, :, 1])


def test_unshared_draws_are_uncorrelated_standard_normals() -> None:
    noise = draw("none", list(range(20)), [0, 1], list(range(1, 31)), [0])
    flat = noise.flatten(0, 3).flatten(1)
    assert abs(float(flat.mean())) < 0.02
    assert abs(float(flat.var()) - 1) < 0.03
    for other in (noise.roll(1, 0), noise.roll(1, 1), noise.roll(1, 2)):
        assert abs(float((noise * other).mean())) < 0.03


@settings(deadline=None, max_examples=25)
@given(
    share=st.sampled_from(["none", "classes", "timesteps", "both"]),
    seeds=st.lists(st.integers(0, 2**62), min_size=1, max_size=3, unique=True),
    pick=st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3), st.integers(0, 1)),
)
def test_a_draw_does_not_depend_on_those_beside_it(share: Share, seeds: list[int], pick: tuple[int, ...]) -> None:
    tags = seeds, [-1, 0, 1, 7], [1, 2, 999, 1000], [0, 1]
    place = (pick[0] % len(seeds), *pick[1:])
    alone = draw(share, *([axis[at]] for axis, at in zip(tags, place, strict=True)))
    assert torch.equal(draw(share, *tags)[place], alone[0, 0, 0, 0])
