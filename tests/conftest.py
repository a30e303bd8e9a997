"""Shared by all tests: one thread per worker when tests run in parallel, the `gpu` marker, profiles of hypothesis."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # before anything imports torch: workers would fight over the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples at each run, so that a change is judged by what it changes. `make fuzz` looks for new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("search", derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
