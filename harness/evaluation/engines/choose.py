"""From the options of a run to its engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.errors import UserError, nearest
from harness.evaluation.engines.engine import Engine

if TYPE_CHECKING:
    import torch

NAMES = ("local", "ray")


def choose(
    name: str,
    device: str | torch.device | None,
    *,
    workers: int | None = None,
    devices: Sequence[str] | None = None,
    address: str | None = None,
    gpu_share: float | None = None,
    timeout: float | None = None,
) -> Engine | None:
    """The engine that options ask for; None for the run's own process.

    A run with a finite timeout has at least one process beside its own, since nothing can end one that hangs and go on
    but another.

    Args:
        name: of the engine, one of `NAMES`.
        device: where each worker evaluates defenses, unless there are `devices`; None or "auto" for a GPU if there is
            one.
        workers: how many processes compute; by default as many as devices, or as the cluster has room for.
        devices: those of this machine that share the work; with more workers, several of them share a device.
        address: of a Ray cluster; gpu_share: the part of a GPU that each of its jobs takes; by default what it
            was measured to need.
        timeout: seconds for an image, see `harness.evaluation.time_limits`.

    Raises:
        UserError: the options contradict each other, this machine does not have a device, or Ray is not installed.
    """
    if name not in NAMES:
        raise UserError(f"there is no engine '{name}'", remedy=nearest(name, NAMES))
    if workers is not None and workers < 1:
        raise UserError(f"a run cannot have {workers} workers", remedy="Use at least 1")
    if timeout is not None and not timeout > 0:
        raise UserError(f"an image cannot have {timeout} seconds", remedy="Use more than 0, or none for no limit")
    if name == "ray":
        from harness.evaluation.engines.ray import Ray

        if devices is not None:
            raise UserError("Ray chooses the devices itself", remedy="Leave out the list of devices")
        return Ray(address, workers=workers, device=str(device or "auto"), gpu_share=gpu_share)
    if address is not None or gpu_share is not None:
        raise UserError("an address and a share of a GPU are of use to Ray alone", remedy="Choose the engine ray")
    if workers is None and devices is None:
        if timeout is None or math.isinf(timeout):
            return None
        workers = 1
    from harness.evaluation.engines.processes import Processes

    return Processes(_devices(str(device or "auto"), devices, workers))


def _devices(device: str, devices: Sequence[str] | None, workers: int | None) -> list[str]:
    """A device for each worker."""
    if devices is not None and device != "auto":
        raise UserError("there is a device, and a list of devices beside it", remedy="Leave out one of them")
    known = [_checked(name) for name in ([device] if devices is None else devices)]
    if not known:
        raise UserError("the list of devices is empty", remedy="Name one or more, or leave it out")
    count = len(known) if workers is None else workers
    if count < len(known):
        raise UserError(f"{count} workers leave some of {len(known)} devices idle", remedy="Use at least one on each")
    return [known[i % len(known)] for i in range(count)]


def _checked(name: str) -> str:
    """A device that this machine has, found without waking a GPU up."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"'{name}' is no device", remedy="Use cpu, cuda, or cuda:1 for the second GPU") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"there is no device '{name}' on this machine", remedy=f"It has {torch.cuda.device_count()} GPUs"
        )
    return name
