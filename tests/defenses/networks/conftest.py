"""What tests of published architectures share: both precisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from helpers.originals import rule_image, rule_noise


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def image(dtype: torch.dtype) -> Callable[[Sequence[int]], Tensor]:
    """Images in [0, 1] of a given shape, in the precision of the test."""
    return lambda shape: rule_image(tuple(shape), dtype)


@pytest.fixture
def noise(dtype: torch.dtype) -> Callable[[Sequence[int], int], Tensor]:
    """The k-th noise of a given shape, in the precision of the test."""
    return lambda shape, k: rule_noise(tuple(shape), k, dtype)
