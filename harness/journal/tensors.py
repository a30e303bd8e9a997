"""Tensors as bytes, with their strides: sums over equal values in another order in memory may differ by rounding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.guard.untrusted import parse_json

_TYPES = {str(kind): kind for kind in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64)}

_SPARSE = 64
"""A tensor may lie in memory that is so many times as large as itself, as a column of a matrix does."""


class Unsuitable(ValueError):
    """A tensor that cannot be restored as it was."""


def digest_of(facts: Sequence[Any], tensors: Sequence[Tensor | None]) -> bytes:
    """Sums up facts, which must be fit for JSON, and tensors of any kind: 16 bytes."""
    layout = [tensor if tensor is None else _layout(tensor) for tensor in tensors]
    digest = hashlib.blake2b(json.dumps([facts, layout]).encode(), digest_size=16)
    for tensor in tensors:
        if tensor is not None:
            digest.update(_raw(tensor))
    return digest.digest()


def encode(facts: dict[str, Any], tensors: Sequence[Tensor | None]) -> bytes:
    """Facts, which must be fit for JSON, and tensors as bytes.

    Raises:
        Unsuitable: a tensor has elements that share memory, is spread too far, or has an unusual type.
    """
    layout: list[dict[str, Any] | None] = []
    for tensor in tensors:
        if tensor is not None and (str(tensor.dtype) not in _TYPES or not _restorable(tensor)):
            raise Unsuitable(f"{tensor.dtype}, strides {tensor.stride()}")
        layout.append(tensor if tensor is None else _layout(tensor))
    head = json.dumps({"facts": facts, "tensors": layout}).encode()
    raw = [_raw(tensor) for tensor in tensors if tensor is not None]
    return b"".join([len(head).to_bytes(4, "little"), head, *raw])


def decode(data: bytes) -> tuple[dict[str, Any], list[Tensor | None]]:
    """The facts and tensors, on the CPU, that `encode` got.

    Raises:
        ValueError: the bytes are not as `encode` made them.
    """
    start = 4 + int.from_bytes(data[:4], "little")
    try:
        head = parse_json(data[4:start])
        facts, tensors, at = dict(head["facts"]), list[Tensor | None](), start
        for layout in head["tensors"]:
            tensor, at = (None, at) if layout is None else _tensor(layout, data, at)
            tensors.append(tensor)
    except (KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(str(error)) from error
    return facts, tensors


def _layout(tensor: Tensor) -> dict[str, Any]:
    return {"dtype": str(tensor.dtype), "shape": list(tensor.shape), "stride": list(tensor.stride())}


def _raw(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _tensor(layout: dict[str, Any], data: bytes, at: int) -> tuple[Tensor, int]:
    """The tensor whose bytes begin at a place, and where they end."""
    kind, shape, stride = _TYPES[layout["dtype"]], layout["shape"], layout["stride"]
    meta = torch.empty_strided(shape, stride, dtype=kind, device="meta")
    end = at + meta.numel() * meta.element_size()
    if end > len(data) or not _restorable(meta):
        raise ValueError("a tensor does not fit its bytes")
    tensor = torch.empty_strided(shape, stride, dtype=kind)
    if end > at:
        tensor.copy_(torch.frombuffer(bytearray(data[at:end]), dtype=kind).view(shape))
    return tensor, end


def _restorable(tensor: Tensor) -> bool:
    """Whether no two elements share memory, and the memory in between is not too large."""
    reach = 1
    for stride, size in sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride < reach:
                return False
            reach = stride * (size - 1) + reach
    return reach <= _SPARSE * max(1, tensor.numel())
