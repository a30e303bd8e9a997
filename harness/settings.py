"""Settings of this process: where datasets and weights are kept, and whether the network may be used."""

from __future__ import annotations

import os
from pathlib import Path


def data_root() -> Path:
    """Where downloaded datasets live: $HARNESS_DATA, or a folder of the user's cache."""
    chosen = os.environ.get("HARNESS_DATA")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "adversarial-harness" / "data"


def offline() -> bool:
    """Whether downloads are switched off: `harness --offline`, or the environment variable HARNESS_OFFLINE."""
    return os.environ.get("HARNESS_OFFLINE", "") not in ("", "0")


def weights_root() -> Path:
    """Where fetched checkpoints live: $HARNESS_WEIGHTS, or a folder of the user's cache."""
    chosen = os.environ.get("HARNESS_WEIGHTS")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "adversarial-harness" / "weights"
