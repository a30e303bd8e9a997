"""A fingerprint of everything that affects a defense's output, quick to compute: 0.4 s per GB of weights."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

DEEPEST = 3
"""The largest depth of nested lists that are searched for modules."""

SAMPLE = 64
"""The number of values of a tensor that a quick fingerprint contains."""

_VALUES = ("the parameter ", "the buffer ", "the training mode ")
"""The beginnings of those descriptions whose values are the same in every process; hooks and methods have addresses."""

_FRAME = frozenset(vars(nn.Module())) - {"training"}
"""Attributes that every module has: its parts, which are visited by name, and bookkeeping of PyTorch."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""The attributes of a module that hold its hooks."""


def fingerprint(root: nn.Module) -> dict[str, object]:
    """Returns the state of all modules by description: parameters, buffers, training mode, hooks and replaced methods.

    Modules in plain lists, tuples and dicts, and in attributes of classes, count too, although PyTorch ignores them.
    """
    return _state(root, _content)


def digest_of_values(state: Mapping[str, object]) -> str:
    """Sums up the part of a fingerprint that is the same in every process that builds the same module."""
    lines = sorted(f"{name}: {value}" for name, value in state.items() if name.startswith(_VALUES))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def quick_fingerprint(root: nn.Module) -> dict[str, object]:
    """Returns a fingerprint in a few milliseconds: of each tensor, some values, its identity and its count of writes.

    It changes if PyTorch wrote to a tensor or replaced it, and if all values of a tensor changed. It may not change if
    a few values were changed through `tensor.data` or NumPy, which PyTorch does not count.
    """
    return _state(root, _sampled)


def _state(root: nn.Module, content: Callable[[Tensor], object]) -> dict[str, object]:
    state: dict[str, object] = {}
    for path, module in _modules(root):
        where, whole = (f"{path}.", path) if path else ("", "the whole")
        for kind, tensors in (("parameter", module._parameters), ("buffer", module._buffers)):
            for name, tensor in tensors.items():
                if tensor is not None:
                    state[f"the {kind} {where}{name}"] = content(tensor)
        state[f"the training mode of {whole}"] = module.training
        state[f"the hooks of {whole}"] = tuple(key for name in HOOKS for key in getattr(module, name))
        for name in vars(module).keys() - _FRAME:
            if callable(getattr(type(module), name, None)):
                state[f"the method {where}{name}"] = id(vars(module)[name])
    return state


def checksum(tensor: Tensor) -> int:
    """CRC-32 of a tensor's bytes, which is quick and only meant to detect accidents.

    For tensors without plain values it is the number of in-place changes. These are sparse and quantised tensors, those
    on the meta device, and subclasses.
    """
    values = tensor.detach()
    if type(values) is not Tensor or values.layout != torch.strided or values.is_quantized or values.is_meta:
        return tensor._version
    plain = values.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return zlib.crc32(plain.view(torch.uint8).numpy().data)


def _content(tensor: Tensor) -> object:
    if is_lazy(tensor):
        return "not there yet"
    return tensor.dtype, tensor.shape, checksum(tensor)


def _sampled(tensor: Tensor) -> object:
    if is_lazy(tensor):
        return "not there yet"
    values = tensor.detach()
    plain = type(values) is Tensor and values.layout == torch.strided and not values.is_quantized
    if plain and not values.is_meta and values.is_contiguous():
        values = values.view(-1)[:: max(1, values.numel() // SAMPLE)]
    writes = 0 if tensor.is_inference() else tensor._version
    return id(tensor), writes, tensor.dtype, tensor.shape, checksum(values)


def _modules(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules, each once, with the path that leads to it."""
    seen: set[int] = set()
    left = [("", root)]
    while left:
        path, module = left.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield path, module
        for name, value in _attributes(module):
            left += _held(value, f"{path}.{name}" if path else name, DEEPEST)


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from module._modules.items()
    yield from ((name, value) for name, value in vars(module).items() if name not in _FRAME)
    for cls in type(module).__mro__:
        if cls.__module__.partition(".")[0] not in ("builtins", "torch"):
            yield from vars(cls).items()


def _held(value: Any, name: str, depth: int) -> list[tuple[str, nn.Module]]:
    if isinstance(value, nn.Module):
        return [(name, value)]
    if depth and isinstance(value, Mapping):
        return [found for key, item in value.items() for found in _held(item, f"{name}[{key}]", depth - 1)]
    if depth and isinstance(value, list | tuple):
        return [found for place, item in enumerate(value) for found in _held(item, f"{name}[{place}]", depth - 1)]
    return []
