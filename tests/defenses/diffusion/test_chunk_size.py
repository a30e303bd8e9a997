"""Chunks as large as a device's memory allows, decided once for each network and shape of image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from defenses.diffusion import graph_memory
from defenses.diffusion.chunk_size import LARGEST, bytes_of, chunk_size, fitting
from defenses.diffusion.graph_memory import SHARE
from defenses.diffusion.loss import DiffusionLoss
from defenses.diffusion.noise import GaussianNoise
from defenses.diffusion.schedule import discrete_vp
from defenses.diffusion.timesteps import time_grid
from helpers.denoisers import ToyDenoiser


@given(free=st.floats(0, 1e12), each=st.integers(0, 10**10))
def test_the_graphs_of_a_chunk_fit_and_those_of_twice_as_many_would_not(free: float, each: int) -> None:
    count = fitting(free, each)
    assert count.bit_count() == 1 and count <= LARGEST
    assert count == 1 or count * each <= free
    assert count == LARGEST or 2 * count * max(1, each) > free


def test_the_bytes_of_an_evaluation_are_those_of_its_tensors_and_not_of_what_all_share() -> None:
    weight = torch.rand(16, 16)

    def evaluate(image: Tensor) -> Tensor:
        return (image.flatten(1) @ weight).exp().exp()  # keeps the weight, and both exponentials

    assert bytes_of(evaluate, torch.rand(1, 1, 4, 4)) == 2 * 16 * 4


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes that a meta device, which stands for a GPU, says are free under "bytes"."""
    said = {"bytes": 0}
    monkeypatch.setattr(graph_memory, "device_memory", lambda device: said["bytes"])
    return said


def test_a_chunk_follows_the_memory_of_the_device_and_what_the_network_keeps(free) -> None:
    x, classes, seeds = torch.rand(3, 1, 8, 8, device="meta"), torch.arange(10), torch.arange(3, device="meta")

    def largest(mib: int) -> int:
        free["bytes"] = mib * 2**20
        denoiser = ToyDenoiser(1).to("meta")
        DiffusionLoss(denoiser, time_grid(discrete_vp(), 128), GaussianNoise())(x, classes, seeds)
        return denoiser.largest

    each = 8 * 8 * 4 * (1 + 6 + 6 + 1)  # about: the noisy image, two hidden maps, the error
    chunks = [largest(mib) for mib in (1, 4, 16)]
    assert chunks == [chunks[0], 4 * chunks[0], 16 * chunks[0]]
    assert 0.25 * SHARE * 2**20 / each < chunks[0] <= 2 * SHARE * 2**20 / each
    assert largest(10**6) == 3 * 10 * 128  # all there is


def test_it_is_decided_once_whatever_is_free_later(free) -> None:
    denoiser, x, asked = ToyDenoiser(1), torch.rand(1, 1, 8, 8, device="meta"), []

    def evaluate(image: Tensor) -> Tensor:
        asked.append(len(image))
        return image.exp()

    free["bytes"] = 2**20
    first = chunk_size(denoiser, x, evaluate, "float32")
    free["bytes"] = 2**30
    assert chunk_size(denoiser, x, evaluate, "float32") == first == SHARE * 2**20 / 256
    assert asked == [1, 1]
    assert chunk_size(denoiser, x, evaluate, "bf16") == LARGEST


@pytest.mark.parametrize(("side", "on_cpu", "elsewhere"), [(8, 256, 1024), (32, 16, 64), (512, 1, 1)])
def test_a_cpu_takes_what_its_cache_likes_and_a_silent_device_four_times_as_much(side, on_cpu, elsewhere) -> None:
    def refused(image: Tensor) -> Tensor:
        raise AssertionError("nothing need be measured")

    for device, expected in (("cpu", on_cpu), ("meta", elsewhere)):
        assert chunk_size(torch.nn.Identity(), torch.rand(1, 3, side, side, device=device), refused) == expected
