"""How many bytes autograd keeps from a forward pass for its backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef


class Meter:
    """The bytes that graphs built inside `measuring` keep beside parameters, each storage counted once over all.

    A graph counts whether or not it is gone when the measurement ends.

    Example:
        >>> meter, x = Meter(), torch.ones(10, requires_grad=True)
        >>> with meter.measuring():
        ...     y = x.exp()  # whose derivative is its value: ten numbers of four bytes
        >>> meter.bytes
        40
    """

    def __init__(self) -> None:
        # Weak references: what is gone takes no memory, and yet nothing else gets its address and is taken for it.
        self._seen: set[StorageWeakRef] = set()
        self.bytes = 0

    @contextmanager
    def measuring(self) -> Iterator[None]:
        self.bytes = 0
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        if reference not in self._seen and not isinstance(tensor, nn.Parameter):
            self._seen.add(reference)
            self.bytes += storage.nbytes()
        return tensor.detach()  # the tensor itself may be an output of the node that keeps it: a cycle, never freed
