"""Randomness that depends only on what is computed, not on when, or together with what, it is computed.

A row of a batch carries its own 64-bit seed, and noise is a pure function of that seed (a counter-based generator:
splitmix64 over key + counter, Box-Muller in float64). So an image gets the same noise whatever batch, worker, order or
device computes it, and noise needed again on a backward pass is regenerated instead of stored.

    bits(k, c) = mix(k + c * G)         G = 2^64 / golden ratio; mix = splitmix64's finaliser (Steele et al., 2014)
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from harness.process import generators
from harness.process.foreign_code import contained

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_ALL = (1 << 64) - 1


Seeds = Tensor | Callable[[], Tensor]
"""One per row, (N,) int64, or what works them out, for somebody who may not want to know."""


def worked_out(seeds: Seeds) -> Tensor:
    return seeds if isinstance(seeds, Tensor) else seeds()


def derive(*parts: str | int | None) -> int:
    """A seed in [0, 2^63) from any names and numbers; equal parts give equal seeds."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def row_seeds(seed: int, ids: Tensor) -> Tensor:
    """One seed per image id. ids: (N,) int64; returns (N,) int64 on the same device."""
    return fold(torch.full_like(ids, seed), ids)


def sum_of(seeds: Tensor) -> int:
    """Combines seeds into one in [0, 2^63); the host waits for the device that they are on. seeds: int64."""
    return int(seeds.sum()) % (1 << 63)


def fold(seeds: Tensor, *tags: int | Tensor) -> Tensor:
    """New, independent seeds from seeds and tags (a draw, a timestep, a class). int64 in and out; tags broadcast."""
    for tag in tags:
        seeds = _mix(seeds + _key(tag))
    return seeds


def _key(tag: int | Tensor) -> int | Tensor:
    """What a tag adds to a seed, modulo 2^64: an odd multiple of the golden ratio, selected by the tag.

    For a plain number it is computed on the host: copying a tensor to the device would make the host wait.
    """
    if isinstance(tag, Tensor):
        return _GOLDEN * (2 * _mix(tag.long() + _GOLDEN) + 1)
    return _signed(_GOLDEN * (2 * _mixed((int(tag) + _GOLDEN) & _ALL) + 1))


def normal(seeds: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard Gaussian noise, one block per seed. seeds: (M,) int64; returns (M, *shape)."""
    count = math.prod(shape)
    bits = _bits(seeds, (count + 1) // 2)
    radius = torch.sqrt(-2.0 * torch.log((_shift(bits, 32) + 1).double() * 2.0**-32))
    angle = (bits & 0xFFFFFFFF).double() * (2.0**-32 * 2.0 * math.pi)
    pairs = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return pairs[:, :count].reshape(len(seeds), *shape).to(dtype)


def uniform(seeds: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform noise in [0, 1), one block per seed. seeds: (M,) int64; returns (M, *shape)."""
    bits = _shift(_bits(seeds, math.prod(shape)), 40)
    return (bits.double() * 2.0**-24).reshape(len(seeds), *shape).to(dtype)


def rademacher(seeds: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Signs, -1 or 1 with equal probability, one block per seed. seeds: (M,) int64; returns (M, *shape)."""
    return torch.where(uniform(seeds, shape, dtype) < 0.5, -1.0, 1.0).to(dtype)


@contextmanager
def fenced(seed: int) -> Iterator[Callable[[], bool]]:
    """Surrounds code that does not belong to this project.

    Seeds the global generators (torch, NumPy, random), restores them afterwards, and prevents the code from ending the
    process (see `foreign_code.contained`).

    Yields a function that returns whether the code inside has drawn from any of the generators, or seeded one, so far.
    """
    saved = generators.save()
    try:
        drawn = generators.seed(seed)
        with contained():
            yield drawn
    finally:
        generators.restore(saved)


def _bits(seeds: Tensor, count: int) -> Tensor:
    counters = torch.arange(1, count + 1, device=seeds.device) * _GOLDEN
    return _mix(seeds[:, None] + counters)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def _mixed(z: int) -> int:
    """`_mix` of one number in [0, 2^64), on the host."""
    z = ((z ^ (z >> 30)) * _MIX_1) & _ALL
    z = ((z ^ (z >> 27)) * _MIX_2) & _ALL
    return z ^ (z >> 31)


def _signed(z: int) -> int:
    """The int64 that is congruent to a number modulo 2^64."""
    z &= _ALL
    return z - (1 << 64) if z >> 63 else z


def _shift(z: Tensor, count: int) -> Tensor:
    """Logical right shift; torch's own is arithmetic."""
    return (z >> count) & ((1 << (64 - count)) - 1)
