"""The global random generators of a process: torch's, NumPy's and Python's, saved, seeded and set back quickly.

`np.random.get_state` copies its 624 words one by one, which takes 0.1 ms; a defense is asked a thousand times a second.
So NumPy's words are read and written where they lie. What they do not show is half of a pair of normal numbers that is
kept for the next call. Drawing one tells: where it is kept, the words stay as they are.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

_WORDS = 624
_BYTES = 4 * (_WORDS + 1)
"""Of a Mersenne twister: its words, and the place of the next one."""


class Saved(NamedTuple):
    """The states of all of them."""

    python: object
    numpy: bytes
    normal: float | None
    torch: tuple[torch.Tensor, ...]


def save() -> Saved:
    """The states. To be followed by `seed` or `restore`: NumPy's is not left as it was."""
    words, drawn = _words(), np.random.standard_normal()
    states = tuple(generator.get_state() for generator in _generators())
    return Saved(random.getstate(), words, drawn if _words() == words else None, states)


def seed(number: int) -> Callable[[], bool]:
    """Seeds all of them. number: in [0, 2^63). Returns a question: was anything drawn from one, or seeded, since?"""
    for generator in _generators():
        generator.manual_seed(number)  # torch.manual_seed would leave a seed behind for idle CUDA devices
    np.random.seed(number % (1 << 32))
    random.seed(number)
    words, states = _words(), _torch()

    def drawn() -> bool:
        if random.getrandbits(64) != _first(number):  # a third of the time that its state takes
            return True
        random.seed(number)
        return _words() != words or _torch() != states

    return drawn


@lru_cache(maxsize=64)
def _first(number: int) -> int:
    """What Python's generator gives first."""
    return random.Random(number).getrandbits(64)


def restore(saved: Saved) -> None:
    random.setstate(saved.python)  # type: ignore[arg-type]
    np.random.seed(0)  # forgets the half of a pair
    ctypes.memmove(_address(), saved.numpy, _BYTES)
    if saved.normal is not None:
        kind, words, place, *_ = np.random.get_state()
        np.random.set_state((kind, words, place, 1, saved.normal))  # type: ignore[arg-type]
    for generator, state in zip(_generators(), saved.torch, strict=False):  # CUDA may have come to life since
        generator.set_state(state)


def _generators() -> tuple[torch.Generator, ...]:
    """Torch's, those of CUDA devices only once they are in use."""
    return (torch.default_generator, *(torch.cuda.default_generators if torch.cuda.is_initialized() else ()))


def _torch() -> tuple[bytes, ...]:
    return tuple(generator.get_state().numpy().tobytes() for generator in _generators())


def _words() -> bytes:
    return ctypes.string_at(_address(), _BYTES)


def _address() -> int:
    """Where the words of NumPy's generator lie."""
    return _address_of(np.random.mtrand._rand._bit_generator)


@lru_cache(maxsize=1)
def _address_of(generator: np.random.BitGenerator) -> int:
    address: int = generator.ctypes.state_address
    return address
