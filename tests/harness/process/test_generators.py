"""The states of the global generators, against what the libraries themselves say they are."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from harness.process import generators


def states() -> tuple[object, ...]:
    kind, words, *rest = np.random.get_state()
    return random.getstate(), kind, words.tobytes(), *rest, torch.get_rng_state().numpy().tobytes()


@pytest.mark.parametrize("normals", [0, 1, 2, 3])
def test_restoring_brings_back_what_the_libraries_call_their_state(normals: int) -> None:
    """Also half of a pair of normal numbers, which NumPy keeps after an odd number of them."""
    outside = generators.save()
    try:
        generators.seed(5)
        for _ in range(normals):
            np.random.standard_normal(), random.gauss(0, 1), torch.randn(1)
        before = states()
        saved = generators.save()
        generators.seed(77)
        np.random.standard_normal(), random.random(), torch.rand(3)
        generators.restore(saved)
        assert states() == before
    finally:
        generators.restore(outside)


@pytest.mark.parametrize(
    "draw",
    [
        random.random,
        lambda: torch.rand(1),
        np.random.standard_normal,
        lambda: np.random.randint(2, dtype=np.uint8),
        lambda: np.random.bytes(1),
        lambda: np.random.seed(1),
        lambda: torch.default_generator.manual_seed(1),
    ],
)
def test_any_draw_or_seed_shows(draw: object) -> None:
    outside = generators.save()
    try:
        drawn = generators.seed(3)
        assert not drawn() and not drawn()
        draw()  # type: ignore[operator]
        assert drawn()
    finally:
        generators.restore(outside)


def test_seeding_is_that_of_the_libraries() -> None:
    outside = generators.save()
    try:
        generators.seed(2**40 + 3)
        found = torch.rand(3), np.random.rand(3).tolist(), random.random()
        torch.manual_seed(2**40 + 3), np.random.seed(2**40 % 2**32 + 3), random.seed(2**40 + 3)
        assert found[0].equal(torch.rand(3)) and found[1:] == (np.random.rand(3).tolist(), random.random())
    finally:
        generators.restore(outside)
