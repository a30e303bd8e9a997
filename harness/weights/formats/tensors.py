"""The tensors that a pickle declares: each is a storage, and a view that must lie inside the storage.

PyTorch trusts these declarations. A storage that declares more elements than it has makes PyTorch allocate the declared
size, and a view that ends beyond its storage makes it read memory outside the file. This module allocates nothing
before it has compared a declaration with the bytes in the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from mmap import mmap
from typing import Any

import torch
from torch import Tensor

from harness.weights.formats.pickle_machine import Global, OrderedTable

MOST_DIMENSIONS = 16
STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}


@dataclass
class Storage:
    """A sequence of elements of one type.

    Args:
        dtype: the type of an element.
        numel: the number of elements.
        data: the buffer that holds the bytes of the elements, once it is known.
        start: the position in `data` of the first byte.
    """

    dtype: torch.dtype
    numel: int
    data: bytes | mmap = b""
    start: int = 0

    @property
    def nbytes(self) -> int:
        """The number of bytes of `numel` elements."""
        return self.numel * self.dtype.itemsize

    @cached_property
    def flat(self) -> Tensor:
        """The elements as a tensor of shape (numel,), which is a copy of the bytes in the file."""
        if not self.numel:
            return torch.empty(0, dtype=self.dtype)
        return torch.frombuffer(bytearray(self.data[self.start : self.start + self.nbytes]), dtype=self.dtype)


@dataclass(frozen=True)
class View:
    """A strided view of a storage. It has been checked to lie inside the storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def tensor(self) -> Tensor:
        """Returns the tensor of shape `size`. It shares memory with the other views of the storage."""
        return self.storage.flat.as_strided(self.size, self.stride, self.offset)


def declared(kind: Any, numel: Any) -> Storage:
    """Returns the storage that a pickle declares by its type and its number of elements.

    Raises:
        ValueError: the type is not a known one, or the number is not an integer from 0 on.
    """
    if not isinstance(kind, Global) or kind.name not in STORAGES or not _counts([numel]):
        raise ValueError("a storage of no known type or size")
    return Storage(kind.meaning, numel)


def rebuild_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> View:
    """Does what `torch._utils._rebuild_tensor_v2` does, with checks, and returns a view instead of a tensor.

    Raises:
        ValueError: an argument has the wrong type, or the view leaves its storage or has more elements than it.
    """
    if not isinstance(storage, Storage) or hooks or metadata or type(requires_grad) is not bool:
        raise ValueError("a tensor with no storage, or with hooks")
    if type(size) is not tuple or type(stride) is not tuple or not _counts([offset, *size, *stride]):
        raise ValueError("a tensor with a negative or fractional size, stride or offset")
    if len(size) != len(stride) or len(size) > MOST_DIMENSIONS:
        raise ValueError(f"a tensor with {len(size)} sizes and {len(stride)} strides")
    numel = math.prod(size)
    reach = offset + (1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if numel else 0)
    if max(reach, numel, math.prod(filter(None, size)) >> 63) > storage.numel:
        raise ValueError(f"a tensor of shape {size} needs more than the {storage.numel:,} elements of its storage")
    return View(storage, offset, size, stride)


def rebuild_old_tensor(storage: Any, offset: Any, size: Any, stride: Any) -> View:
    """Does the same for `torch._utils._rebuild_tensor`, which PyTorch wrote before version 0.4."""
    return rebuild_tensor(storage, offset, size, stride, False, None)


def rebuild_parameter(data: Any, requires_grad: Any, hooks: Any) -> View:
    """Does the same for `torch._utils._rebuild_parameter`: it returns the view of a tensor without hooks."""
    if not isinstance(data, View) or hooks or type(requires_grad) is not bool:
        raise ValueError("a parameter that is no tensor, or with hooks")
    return data


def _counts(values: list[Any]) -> bool:
    """Tells whether all values are integers from 0 on."""
    return all(type(value) is int and value >= 0 for value in values)


TABLE: dict[str, Any] = {
    **STORAGES,
    "torch._utils._rebuild_tensor": rebuild_old_tensor,
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_parameter": rebuild_parameter,
    "collections.OrderedDict": OrderedTable,
}
"""The globals that a pickle in any file of PyTorch may refer to."""
