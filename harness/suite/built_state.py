"""Hashes of the state of a built defense or attack: the same arguments need not give the same object.

A constructor may read a file that no argument names, or compute values. So all attributes of an object count, not only
its parameters and buffers: arrays and tensors by their bytes, numbers and texts, containers, and other objects by their
pickled state. A path counts by the content of its file. An object that cannot be pickled (a lock, an open file) counts
by its type.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path, PurePath
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.config.component import Component
from harness.defense import Defense
from harness.files import digest

DEEPEST = 100
"""The largest depth of objects inside objects; deeper ones count by their type only."""

FRAME = frozenset(vars(Defense()))
"""Attributes that every module or defense has: its parts, which are visited by name, and bookkeeping that does not
affect results."""


def state(built: Any, skipped: Collection[str] = ()) -> dict[str, str]:
    """A hash of each attribute. skipped: names of attributes that do not affect results."""
    return {name: digest_of(value) for name, value in sorted(_attributes(built)) if name not in skipped}


def _attributes(built: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(built, nn.Module):
        for parts in (built._parameters, built._buffers, built._modules):
            yield from parts.items()
    yield from ((n, value) for n, value in vars(built).items() if not (isinstance(built, nn.Module) and n in FRAME))


def digest_of(value: Any) -> str:
    """A hash of any value, including everything inside it."""
    walk = _Walk()
    walk.add(value)
    return walk.hash.hexdigest()[:32]


class _Walk:
    """Feeds a value to a hash, piece by piece, each piece with its kind and length."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.seen: dict[int, tuple[int, Any]] = {}
        self.depth = 0

    def add(self, value: Any) -> None:
        self.depth += 1
        if self.depth > DEEPEST:
            self.say("deep", type(value).__qualname__)
        elif value is None or type(value) in (bool, int, float, complex):
            self.say(type(value).__name__, repr(value))
        elif isinstance(value, bytes | bytearray):
            self.say("bytes", bytes(value))
        elif isinstance(value, str | PurePath):
            self.text(value)
        elif isinstance(value, type | BuiltinFunctionType | ModuleType):
            self.say("name", getattr(value, "__qualname__", value.__name__))
        elif isinstance(value, Tensor):
            self.tensor(value)
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            self.say(f"array {value.dtype.str} {value.shape}", np.ascontiguousarray(value).tobytes())
        elif isinstance(value, tuple):
            self.items("tuple", value)
        elif isinstance(value, set | frozenset):
            self.items("set", sorted(digest_of(item) for item in value))
        elif id(value) in self.seen:
            self.say("again", str(self.seen[id(value)][0]))
        else:
            self.seen[id(value)] = len(self.seen), value  # the reference keeps the address from being reused
            self.object(value)
        self.depth -= 1

    def object(self, value: Any) -> None:
        """Adds an object that may contain itself."""
        if isinstance(value, dict):
            self.items("dict", [part for pair in value.items() for part in pair])
        elif isinstance(value, list):
            self.items("list", value)
        elif isinstance(value, nn.Module):
            self.items(type(value).__qualname__, [part for pair in _attributes(value) for part in pair])
        elif isinstance(value, FunctionType):
            self.items(value.__qualname__, [value.__defaults__, value.__kwdefaults__, *_captured(value)])
        elif isinstance(value, MethodType):
            self.items(value.__qualname__, [value.__self__])
        elif isinstance(value, Component):
            self.items("component", [value.type, value.resolved()])
        elif isinstance(known := getattr(value, "sha256", None), str):
            self.say(type(value).__qualname__, f"{known} {getattr(value, 'key', None)}")
        else:
            self.items(type(value).__qualname__, _kept(value))

    def text(self, value: str | PurePath) -> None:
        """Adds a text. The path of a file counts by the file's content, any other absolute path by its last part."""
        path = Path(value) if isinstance(value, PurePath) or value.startswith("/") else None
        identity = (
            digest(path) if path and os.path.isfile(path) else path.name if path and path.is_absolute() else str(value)
        )
        self.say("text", identity)

    def tensor(self, value: Tensor) -> None:
        value = value.detach()
        kind = f"tensor {value.dtype} {tuple(value.shape)}"
        if value.is_meta:
            self.say(kind, "")
            return
        if value.is_quantized:
            value = value.dequantize()
        if value.layout != torch.strided:
            value = value.to_dense()
        flat = value.cpu().resolve_conj().resolve_neg().contiguous().flatten()
        self.say(kind, flat.view(torch.uint8).numpy().data if flat.numel() else b"")

    def items(self, kind: str, values: Collection[Any]) -> None:
        self.say(kind, str(len(values)))
        for value in values:
            self.add(value)

    def say(self, kind: str, data: str | bytes | memoryview) -> None:
        data = data.encode(errors="surrogatepass") if isinstance(data, str) else data
        self.hash.update(f"{kind} {len(data)}:".encode())
        self.hash.update(data)


def _captured(function: FunctionType) -> Iterator[Any]:
    """The values of the variables that a function has captured from its enclosing functions."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # raised for a cell that is still empty
            yield cell.cell_contents


def _kept(value: Any) -> list[Any]:
    """The state that pickle would store for an object; empty if it cannot be pickled."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # pickling a user's object may raise anything
        return []
    if isinstance(reduced, str):
        return [reduced]
    make, arguments, *rest = reduced
    lists = [list(part) if part is not None and not isinstance(part, dict | tuple) else part for part in rest[1:3]]
    return [make, arguments, *rest[:1], *lists]
