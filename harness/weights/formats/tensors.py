"""Tensors of a pickle as claims about bytes: a storage, and a view of it that must lie inside.

PyTorch trusts these claims: a storage that declares more elements than it has, or a view that ends beyond its storage,
makes it allocate what was declared or read memory that is not the file's. Here nothing is allocated before the claim
has been compared with the bytes that are there.
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
    """Elements in a row.

    Args:
        dtype: of each.
        numel: how many.
        data: what holds their bytes, once that is known.
        start: where in `data` they start.
    """

    dtype: torch.dtype
    numel: int
    data: bytes | mmap = b""
    start: int = 0

    @property
    def nbytes(self) -> int:
        """The bytes that `numel` elements take."""
        return self.numel * self.dtype.itemsize

    @cached_property
    def flat(self) -> Tensor:
        """The elements, (numel,), in memory of their own."""
        if not self.numel:
            return torch.empty(0, dtype=self.dtype)
        return torch.frombuffer(bytearray(self.data[self.start : self.start + self.nbytes]), dtype=self.dtype)


@dataclass(frozen=True)
class View:
    """A strided view of a storage, known to lie inside it."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def tensor(self) -> Tensor:
        """Of shape `size`, sharing memory with the other views of the storage."""
        return self.storage.flat.as_strided(self.size, self.stride, self.offset)


def declared(kind: Any, numel: Any) -> Storage:
    """A storage as a pickle declares it.

    Raises:
        ValueError: the type or the number is none.
    """
    if not isinstance(kind, Global) or kind.name not in STORAGES or not _counts([numel]):
        raise ValueError("a storage of no known type or size")
    return Storage(kind.meaning, numel)


def rebuild_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> View:
    """The meaning of `torch._utils._rebuild_tensor_v2`.

    Raises:
        ValueError: an argument of the wrong type, a view that leaves its storage, or one with more elements than it.
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
    """The meaning of `torch._utils._rebuild_tensor`, which torch wrote before 0.4; raises ValueError likewise."""
    return rebuild_tensor(storage, offset, size, stride, False, None)


def rebuild_parameter(data: Any, requires_grad: Any, hooks: Any) -> View:
    """The meaning of `torch._utils._rebuild_parameter`; raises ValueError for anything but a tensor without hooks."""
    if not isinstance(data, View) or hooks or type(requires_grad) is not bool:
        raise ValueError("a parameter that is no tensor, or with hooks")
    return data


def _counts(values: list[Any]) -> bool:
    return all(type(value) is int and value >= 0 for value in values)


TABLE: dict[str, Any] = {
    **STORAGES,
    "torch._utils._rebuild_tensor": rebuild_old_tensor,
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_parameter": rebuild_parameter,
    "collections.OrderedDict": OrderedTable,
}
"""What the pickles of all torch files may name."""
