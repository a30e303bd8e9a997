"""How many evaluations of a network are held in memory at once, where nobody says.

On a CPU as many as its cache likes; larger chunks are slower. On a GPU as many as its memory holds: a quarter of what
is free when a network is first asked about images of a shape, over what the graph of one evaluation keeps. The rest is
for the graph of a second derivative, about three times as large, or for graphs that are kept (see `graph_memory`). The
number is a power of two, so that what other programs hold moves it seldom, and the same throughout the process.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from defenses.diffusion import graph_memory
from defenses.diffusion.denoiser import Denoiser
from defenses.diffusion.graph_memory import SHARE
from harness.process.graph_size import Meter

PIXELS = {"cpu": 2**14, "cuda": 2**16}
"""Pixels (height x width) of a chunk on a CPU, and on a device that does not say how much memory is free."""

LARGEST = 2**12
"""Evaluations that keep any GPU busy."""

_SIZES: WeakKeyDictionary[Denoiser, dict[Hashable, int]] = WeakKeyDictionary()


def chunk_size(denoiser: Denoiser, x: Tensor, evaluate: Callable[[Tensor], Tensor], *how: Hashable) -> int:
    """Evaluations of a chunk, at least 1.

    Args:
        denoiser: what is evaluated.
        x: images, (N, C, H, W).
        evaluate: one evaluation, differentiable in an image (1, C, H, W).
        how: what else its memory depends on, such as its precision.
    """
    if x.device.type == "cpu" or graph_memory.device_memory(x.device) is None or not len(x):
        return max(1, PIXELS["cpu" if x.device.type == "cpu" else "cuda"] // x.shape[-2:].numel())
    sizes = _SIZES.setdefault(denoiser, {})
    key = (x.shape[1:], x.dtype, x.device, *how)
    if key not in sizes:
        sizes[key] = fitting(SHARE * graph_memory.free_memory(x.device), bytes_of(evaluate, x[:1]))
    return sizes[key]


def fitting(free: float, each: float) -> int:
    """The largest power of two, up to `LARGEST`, of graphs of `each` bytes that take `free` or less; at least 1."""
    count = int(min(LARGEST, max(1, free / max(1, each))))
    return 1 << (count.bit_length() - 1)


def bytes_of(evaluate: Callable[[Tensor], Tensor], image: Tensor) -> int:
    """What the graph of one evaluation keeps, beside what the graphs of all share. image: (1, C, H, W)."""
    meter, graphs = Meter(), []
    for _ in range(2):
        with torch.enable_grad(), meter.measuring():
            graphs.append(evaluate(image.detach().requires_grad_()))
    return meter.bytes
