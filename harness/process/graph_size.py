"""How many bytes autograd keeps from a forward pass for its backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Meter:
    """The bytes that graphs built inside `measuring` keep beside parameters, each storage counted once over all.

    The graphs must live as long as they are measured: the storages of one that is gone are taken for those of the next.

    Example:
        >>> meter, x = Meter(), torch.ones(10, requires_grad=True)
        >>> with meter.measuring():
        ...     y = x.exp()  # whose derivative is its value: ten numbers of four bytes
        >>> meter.bytes
        40
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self.bytes = 0

    @contextmanager
    def measuring(self) -> Iterator[None]:
        self.bytes = 0
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen and not isinstance(tensor, nn.Parameter):
            self._seen.add(storage._cdata)
            self.bytes += storage.nbytes()
        return tensor.detach()  # the tensor itself may be an output of the node that keeps it: a cycle, never freed
