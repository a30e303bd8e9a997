"""Reads the EDM networks of NVIDIA (such as `edm-cifar10-32x32-cond-vp.pkl`) without running the code in them.

The file is a pickle {"ema": network, …}. When the authors' code unpickles it, every module of the network runs Python
source text that the file carries. This module reads only the record of each module: the name of its class, and a
dictionary with its parameters, buffers and children. The state dict follows from these as it does in `torch.nn.Module`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from harness.errors import UserError
from harness.weights.formats import tensors, torch_legacy
from harness.weights.formats.file import FETCH_AGAIN, Source
from harness.weights.formats.limits import Budget
from harness.weights.formats.loaded import Loaded
from harness.weights.formats.pickle_machine import NO_CODE, Buildable, interpret

MAGIC = re.compile(rb"\x80[\x02-\x05]")
KEY = "ema"
DEEPEST = 16
LONGEST_NAME = 128
MOST_VALUES = 64


@dataclass
class Module(Buildable):
    """A module of the network: `kind` is the name of its class, and `state` holds its attributes."""

    kind: str
    state: dict[str | int, Any]

    def build(self, state: Any) -> None:
        """Takes the attributes of a module of PyTorch, which follow the module in the pickle."""
        if type(state) is not dict:
            raise ValueError("a module without attributes")
        self.state = state

    def part(self, name: str) -> dict[str | int, Any]:
        """Returns one of the module's dictionaries: `_parameters`, `_buffers` or `_modules`."""
        dictionary = self.state.get(name)
        if not isinstance(dictionary, dict):
            raise UserError(f"A {self.kind} of the network has no {name}", remedy=FETCH_AGAIN)
        return dictionary


@dataclass
class DType(Buildable):
    """A type of NumPy: its code, such as `f8`, and its byte order."""

    code: str
    order: str = "="

    def build(self, state: Any) -> None:
        """Takes the byte order, which is the second item of the state."""
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("a NumPy type without a byte order")
        self.order = state[1]


def recognises(source: Source) -> bool:
    """Tells whether the file begins like a pickle of protocol 2 or later that torch.save did not write."""
    return MAGIC.match(source.head) is not None and not torch_legacy.recognises(source)


def read(source: Source, ema: bool, key: str | None) -> Loaded:
    """Reads the state dict of the network and the arguments of its constructor.

    Args:
        source: the file.
        ema: must be True, since these files hold averaged weights only.
        key: must be None or "ema", for the same reason.

    Raises:
        UserError: the file is damaged, refers to anything but tensors and modules, or has another layout; or `ema` or
            `key` asks for other weights than the averaged ones.
    """
    budget = Budget(source.size)
    content, _ = interpret(source.data, _table(budget), budget)
    if type(content) is not dict:
        raise UserError(f"The pickle holds a {type(content).__name__}, not what the files of EDM do", remedy=NO_CODE)
    if KEY not in content:
        held = ", ".join(str(key)[:30] for key in list(content)[:5]) or "nothing"
        raise UserError(f"The pickle holds no network under '{KEY}' as the files of EDM do, but {held}", remedy=NO_CODE)
    network = _expect(content[KEY], Module, KEY)
    if not ema or key not in (None, KEY):
        raise UserError("The files of EDM hold the averaged weights (EMA) only", remedy="Ask for those")
    weights = {name: view.tensor() for name, view in _views(network, budget)}
    notes = [f"{network.kind}, averaged weights (EMA); the source text in the file was not run"]
    return Loaded("EDM pickle", weights, tuple(notes), _arguments(network), network.kind)


def _table(budget: Budget) -> dict[str, Any]:
    return tensors.TABLE | {
        "torch_utils.persistence._reconstruct_persistent_obj": _module,
        "builtins.set": _set,
        "torch.nn.modules.container.ModuleDict": partial(Module, "ModuleDict", {}),
        "torch.storage._load_from_bytes": partial(torch_legacy.parse_storage, budget=budget),
        "numpy.dtype": _dtype,
        "numpy.core.multiarray.scalar": _scalar,
        "numpy._core.multiarray.scalar": _scalar,
    }


def _module(record: Any) -> Module:
    name = record.get("class_name") if type(record) is dict and record.get("type") == "class" else None
    if type(name) is not str or not name.isidentifier() or len(name) > LONGEST_NAME:
        raise ValueError("a record that describes no class")
    module = Module(name, {})
    module.build(record.get("state"))
    return module


def _set(items: Any) -> set[str]:
    """Builds a set as the protocols before 4 do, which have no opcode for it."""
    if type(items) is not list or not all(type(item) is str for item in items):
        raise ValueError("a set of anything but names")
    return set(items)


def _dtype(code: Any, align: Any, copy: Any) -> DType:
    if type(code) is not str or not re.fullmatch(r"b1|[iu][1248]|f[248]", code):
        raise ValueError("a NumPy type that is no number")
    return DType(code)


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, DType) or type(data) is not bytes or len(data) != int(dtype.code[1:]):
        raise ValueError("a NumPy number of another length than its type")
    return np.frombuffer(data, np.dtype(dtype.order + dtype.code))[0].item()


def _views(module: Module, budget: Budget, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, tensors.View]]:
    """Yields the tensors of a module and of its children, with the names and in the order of `state_dict`."""
    if depth > DEEPEST:
        raise UserError("The network in the file is nested too deeply, or contains itself", remedy="Do not trust it")
    not_saved = _expect(module.state.get("_non_persistent_buffers_set", set()), set, "_non_persistent_buffers_set")
    for part in ("_parameters", "_buffers"):
        for name, view in module.part(part).items():
            budget.work()
            if view is not None and not (part == "_buffers" and name in not_saved):
                yield prefix + _name(name), _expect(view, tensors.View, name)
    for name, child in module.part("_modules").items():
        budget.work()
        if child is not None:
            yield from _views(_expect(child, Module, name), budget, f"{prefix}{_name(name)}.", depth + 1)


def _name(name: str | int) -> str:
    """Returns the name of a tensor or module if it is a valid one, and raises UserError otherwise."""
    if type(name) is not str or len(name) > LONGEST_NAME or "." in name:
        raise UserError("A tensor in the file has no valid name", remedy="Do not trust it")
    return name


def _expect(value: Any, kind: type, name: str | int) -> Any:
    """Returns the value if it has the expected type, and raises UserError otherwise."""
    if not isinstance(value, kind):
        raise UserError(
            f"'{str(name)[:LONGEST_NAME]}' in the file is of type {type(value).__name__}, not {kind.__name__.lower()}",
            remedy=FETCH_AGAIN,
        )
    return value


def _arguments(network: Module) -> dict[str, Any]:
    """Returns the arguments of the network's constructor, which must be plain values or lists of them."""
    given, positional = network.state.get("_init_kwargs"), network.state.get("_init_args")
    if not isinstance(given, dict) or positional != ():
        raise UserError("The network in the file does not say how it was built", remedy="Use the file as published")
    for name, value in given.items():
        items = value if type(value) in (list, tuple) else [value]
        if type(name) is not str or len(items) > MOST_VALUES or not all(map(_is_plain, items)):
            raise UserError(f"The network's argument '{str(name)[:50]}' is no plain value", remedy="Do not trust it")
    return {str(name): value for name, value in given.items()}


def _is_plain(value: Any) -> bool:
    return value is None or type(value) in (bool, int, float, str)
