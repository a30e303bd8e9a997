"""What `helpers.linear` holds, for tests that take it as fixtures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.target import Target
from helpers.linear import Linear, NoisyLinear, target_of


@pytest.fixture
def linear() -> type[Linear]:
    return Linear


@pytest.fixture
def noisy() -> type[NoisyLinear]:
    return NoisyLinear


@pytest.fixture
def view() -> Callable[..., Target]:
    return target_of
