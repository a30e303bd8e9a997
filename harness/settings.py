"""Settings of this process: where datasets and weights are kept, whether it may use the network, and its device."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError

if TYPE_CHECKING:
    import torch

_OTHER_WEIGHTS: ContextVar[Path | None] = ContextVar("the folder of checkpoints in place of the user's", default=None)


def data_root() -> Path:
    """The folder of downloaded datasets: $HARNESS_DATA, or a folder in the user's cache."""
    chosen = os.environ.get("HARNESS_DATA")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "adversarial-harness" / "data"


def offline() -> bool:
    """Whether downloads are switched off: `harness --offline`, or the environment variable HARNESS_OFFLINE."""
    return os.environ.get("HARNESS_OFFLINE", "") not in ("", "0")


def journal_after() -> float | None:
    """Seconds after which a shard that is computed is recorded, so that it need not be begun again after a kill.

    $HARNESS_JOURNAL_AFTER, or a minute; None, for never, where it is "never".

    Raises:
        UserError: it is something else.
    """
    chosen = os.environ.get("HARNESS_JOURNAL_AFTER") or "60"
    if chosen == "never":
        return None
    try:
        seconds = float(chosen)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise UserError(
            f"HARNESS_JOURNAL_AFTER is '{chosen}', which is no number of seconds",
            remedy="Set it to 60, to another number, or to never",
        )
    return seconds


def weights_root() -> Path:
    """The folder of downloaded checkpoints: $HARNESS_WEIGHTS, or one in the user's cache; see `weights_kept_in`."""
    if other := _OTHER_WEIGHTS.get():
        return other
    chosen = os.environ.get("HARNESS_WEIGHTS")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "adversarial-harness" / "weights"


def device_of(name: str | torch.device | None) -> torch.device:
    """The device that an option names. None or "auto" mean the GPU, if this machine has one that PyTorch can use.

    Raises:
        UserError: this machine does not have it.
    """
    import torch

    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device '{name}' cannot be used ({reason})",
            remedy="Choose the device cpu, on the command line --device cpu",
        ) from error
    return device


@contextmanager
def weights_kept_in(folder: Path) -> Iterator[None]:
    """Keeps downloaded checkpoints in another folder during the block, without changing the environment."""
    before = _OTHER_WEIGHTS.set(folder)
    try:
        yield
    finally:
        _OTHER_WEIGHTS.reset(before)
