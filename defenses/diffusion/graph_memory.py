"""How much memory graphs may take between a forward pass and its backward pass, and how much they take.

A graph that is kept saves the backward pass an evaluation; one that is not kept is built again there. Both give the
same gradient. Which graphs are kept is decided during the forward pass, from the size of the first ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from harness.errors import UserError
from harness.process.graph_size import Meter

MIB = 2**20

SHARE = 0.25
"""The share of the free memory that one chain of graphs may take; the rest is for the caller and for others."""

MOST_ON_CPU = 1024 * MIB
"""Bytes of graphs kept on a CPU by default: the page faults of more cost as much as the saved evaluations."""

UNKNOWN = 256 * MIB
"""The free memory, in bytes, that is assumed on a device that does not report it."""

_CGROUP = Path("/sys/fs/cgroup")


def allowance(x: Tensor, mib: float | None) -> float:
    """Bytes of graphs that may be kept: as many MiB as given, or `SHARE` of what is free now if None.

    On a CPU it is at most `MOST_ON_CPU`. It is 0 where x needs no gradient.
    """
    if not (x.requires_grad and torch.is_grad_enabled()):
        return 0
    if mib is not None:
        return mib * MIB
    free = SHARE * free_memory(x.device)
    return min(free, MOST_ON_CPU) if x.device.type == "cpu" else free


def check_graph_memory(mib: float | None) -> None:
    """Raises UserError if the number is negative or NaN."""
    if mib is not None and not mib >= 0:
        raise UserError(f"graph_memory is {mib}", remedy="It must be a number of MiB; 0 keeps no graph")


def free_memory(device: torch.device) -> int:
    """Bytes that could be allocated on a device now, without swapping."""
    if device.type == "cpu":
        return _free_system_memory()
    known = device_memory(device)
    return UNKNOWN if known is None else known


def device_memory(device: torch.device) -> int | None:
    """The same of a GPU, with what PyTorch holds and does not use; None where the device does not say."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


class Keeper:
    """Decides, graph after graph of about the same size, whether the next one may be kept.

    Example:
        >>> keeper = Keeper(allowed=0)
        >>> keeper.has_room
        False
    """

    def __init__(self, allowed: float) -> None:
        self.allowed = allowed
        self._meter = Meter()
        self._used = self._each = 0
        self._built = 0

    @property
    def has_room(self) -> bool:
        """Whether another graph may be built and kept."""
        return self._used + self._each <= self.allowed and self.allowed > 0

    @property
    def overdrawn(self) -> bool:
        """Whether the first graph, whose size was unknown beforehand, is too large to be kept."""
        return self._used > self.allowed

    @contextmanager
    def building(self) -> Iterator[None]:
        """Surrounds the construction of one graph. The first two are measured; the first may include what all share."""
        self._built += 1
        if self._built > 2:
            yield
        else:
            with self._meter.measuring():
                yield
            self._each = self._meter.bytes
        self._used += self._each


def _free_system_memory() -> int:
    bounds = [UNKNOWN]
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        bounds = [int(lines["MemAvailable"].split()[0]) * 1024]
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        bounds.append(max(0, limit - used))
    except (OSError, ValueError, KeyError):  # no Linux, or a container without a limit, which says "max"
        return min(bounds)
    return min(bounds)
