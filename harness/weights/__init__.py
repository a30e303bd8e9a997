"""Checkpoints: this package finds, downloads and verifies them, and loads them without executing code in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.process.lazy import lazy

if TYPE_CHECKING:
    from harness.weights.checkpoint import Checkpoint, build_network, packaged

__all__ = ["Checkpoint", "build_network", "packaged"]

__getattr__ = lazy(
    __name__,
    {
        "Checkpoint": "harness.weights.checkpoint",
        "build_network": "harness.weights.checkpoint",
        "packaged": "harness.weights.checkpoint",
    },
)
