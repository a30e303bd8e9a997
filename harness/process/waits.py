"""The functions in which the host may wait for the device.

Work is queued on a GPU, and the host runs ahead of it. To read a value, or to count true elements, the host has to wait
until the queue is empty, and the GPU then idles until new work arrives. Inner loops must not do that. Values that are
needed on the host are read through this module, at most once per call, backward pass or step of an attack, each of
which queues much more work:

    a backward pass      which pairs of image and class have a weight, since the others need no evaluation
    a step of an attack  which images have left the batch, since those need no further step
    a search's query     which images are due for a full look

`tests/device` runs most defenses, in every view, and the loops of attacks that climb a gradient, on a device that
refuses to be waited for anywhere else.
"""

from __future__ import annotations

from torch import Tensor


def places(mask: Tensor) -> Tensor:
    """The positions of true or non-zero elements: (...,) -> (M, dimensions) int64, in order."""
    return mask.nonzero()


def rows(mask: Tensor) -> Tensor:
    """The indices of true elements: (N,) bool -> (M,) int64, in order."""
    return places(mask).squeeze(1)


def some_of(mask: Tensor) -> Tensor | None:
    """The indices of true elements, (N,) bool -> (M,) int64 in order, or None where all are true."""
    chosen = rows(mask)
    return None if len(chosen) == len(mask) else chosen


def distinct(values: Tensor) -> list[int]:
    """The distinct values of an integer tensor of any shape, in order."""
    found: list[int] = values.unique().tolist()
    return found


def on_host(values: Tensor) -> Tensor:
    """A copy of the tensor on the CPU."""
    return values.cpu()


def some(mask: Tensor) -> bool:
    """Whether any element of a mask is true."""
    return bool(mask.any())
