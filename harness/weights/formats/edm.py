"""NVIDIA's EDM networks (`edm-cifar10-32x32-cond-vp.pkl` and its like), read without running what is in them.

The file is a pickle {"ema": network, …}. Unpickled as its authors do, every module of the network runs Python source
text that the file carries. Here a module is only what its record says: its class's name, and a dictionary with its
parameters, buffers and children, from which the state dict follows as it does in `torch.nn.Module`.
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
    """A module of the network: the name of its class, and its attributes."""

    kind: str
    state: dict[str | int, Any]

    def build(self, state: Any) -> None:
        """Attributes of a module of PyTorch itself, which follow it in the pickle."""
        if type(state) is not dict:
            raise ValueError("a module without attributes")
        self.state = state

    def part(self, name: str) -> dict[str | int, Any]:
        """One of the module's dictionaries: `_parameters`, `_buffers` or `_modules`."""
        found = self.state.get(name)
        if not isinstance(found, dict):
            raise UserError(f"A {self.kind} of the network has no {name}", remedy=FETCH_AGAIN)
        return found


@dataclass
class DType(Buildable):
    """A NumPy type, by its code (`f8`) and byte order."""

    code: str
    order: str = "="

    def build(self, state: Any) -> None:
        """The byte order stands second in the state."""
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("a NumPy type without a byte order")
        self.order = state[1]


def recognises(source: Source) -> bool:
    """Whether the file begins as a pickle of protocol 2 or later, and is not of torch.save."""
    return MAGIC.match(source.head) is not None and not torch_legacy.recognises(source)


def read(source: Source, ema: bool, key: str | None) -> Loaded:
    """The network's state dict and the arguments that built it.

    Args:
        source: the file.
        ema, key: these files hold averaged weights only, which they call "ema".

    Raises:
        UserError: the file is damaged, names anything but tensors and modules, is of another layout, or is asked for
            other weights than the averaged ones.
    """
    budget = Budget(source.size)
    content, _ = interpret(source.data, _table(budget), budget)
    if type(content) is not dict:
        raise UserError(f"The pickle holds a {type(content).__name__}, not what the files of EDM do", remedy=NO_CODE)
    if KEY not in content:
        held = ", ".join(str(key)[:30] for key in list(content)[:5]) or "nothing"
        raise UserError(f"The pickle holds no network under '{KEY}' as the files of EDM do, but {held}", remedy=NO_CODE)
    network = _is(content[KEY], Module, KEY)
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
    """A set in the protocols that have no opcode for one."""
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
    """The tensors of a module and of its children, as `state_dict` orders and names them."""
    if depth > DEEPEST:
        raise UserError("The network in the file is nested too deeply, or contains itself", remedy="Do not trust it")
    passing = _is(module.state.get("_non_persistent_buffers_set", set()), set, "_non_persistent_buffers_set")
    for part in ("_parameters", "_buffers"):
        for name, view in module.part(part).items():
            budget.work()
            if view is not None and not (part == "_buffers" and name in passing):
                yield prefix + _name(name), _is(view, tensors.View, name)
    for name, child in module.part("_modules").items():
        budget.work()
        if child is not None:
            yield from _views(_is(child, Module, name), budget, f"{prefix}{_name(name)}.", depth + 1)


def _name(name: str | int) -> str:
    if type(name) is not str or len(name) > LONGEST_NAME or "." in name:
        raise UserError("A tensor in the file has no valid name", remedy="Do not trust it")
    return name


def _is(value: Any, kind: type, name: str | int) -> Any:
    if not isinstance(value, kind):
        raise UserError(
            f"'{str(name)[:LONGEST_NAME]}' in the file is of type {type(value).__name__}, not {kind.__name__.lower()}",
            remedy=FETCH_AGAIN,
        )
    return value


def _arguments(network: Module) -> dict[str, Any]:
    """The constructor's arguments: plain values, and lists of them."""
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
