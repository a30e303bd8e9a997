"""Where the host waits for the device, on purpose.

Work is queued on a GPU, and the host runs ahead of it. To read a value, or to ask how many elements are true, it has to
wait until the queue is empty, and the GPU then idles until more arrives. No inner loop of ours does that; what must be
known on the host comes through here, at most once for a call, a backward pass or an attack's step that is itself worth
many launches:

    a backward pass      which pairs of image and class have a weight, since the others need no evaluation
    a step of an attack  which images have left the batch, since those need no further step
    a search's query     which images are due for a full look

`tests/device` runs every defense and attack on a device that refuses to be waited for anywhere else.
"""

from __future__ import annotations

from torch import Tensor


def places(mask: Tensor) -> Tensor:
    """Where a mask holds: (..., ) bool, or numbers that are not zero, -> (M, dimensions) int64, in order."""
    return mask.nonzero()


def rows(mask: Tensor) -> Tensor:
    """Which rows a mask holds for: (N,) bool -> (M,) int64, in order."""
    return places(mask).squeeze(1)


def distinct(values: Tensor) -> list[int]:
    """The different ones among whole numbers of any shape, in order."""
    found: list[int] = values.unique().tolist()
    return found


def on_host(values: Tensor) -> Tensor:
    """The same tensor on the CPU."""
    return values.cpu()


def some(mask: Tensor) -> bool:
    """Whether a mask of any shape holds anywhere."""
    return bool(mask.any())
