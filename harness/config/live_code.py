"""The user's code behind a Python object: its classes, its hooks, and the functions that these call.

Imported code is identified by the files of its module and of everything that these import (see
`harness.config.imports`), or by the version of its package. Code of a script or a notebook has no file of its own: its
functions are identified by their bytecode, and by the functions, classes and values that they name.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from harness.config.imports import sources_of_file, sources_of_module
from harness.config.neighbours import OURS
from harness.process.foreign_code import theirs

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

UNCOUNTED = (*OURS, "torch", "builtins")
"""Packages whose code is identified otherwise: this project's by the `version` of a class, PyTorch's by the recorded
environment."""

BOOKKEEPING = ("__module__", "__qualname__", "__doc__", "__firstlineno__", "__static_attributes__", "__slots__")
"""Attributes that Python sets on every class and that do not affect results."""

Digest = Callable[[Any], str]


def sources_of_object(built: Any, digest: Digest) -> dict[str, str]:
    """A hash of each part of the user's code that an object consists of, by the part's name.

    Args:
        built: a defense, a module, a function or an attack.
        digest: hashes a value; used for the values that functions refer to.
    """
    walk = _Walk(digest)
    for part in _parts(built):
        walk.add(part, consists=True)
    return dict(sorted(walk.found.items()))


def package_version(package: str) -> str:
    """The version of the installed distribution that provides an importable package."""
    names = packages_distributions().get(package, ())
    return ", ".join(f"{name} {version(name)}" for name in sorted(set(names))) or "of no known version"


class _Walk:
    """Collects hashes of code, each piece once."""

    def __init__(self, digest: Digest) -> None:
        self.digest, self.found = digest, dict[str, str]()
        self.seen: dict[int, Any] = {}

    def add(self, part: Any, *, consists: bool = False) -> None:
        """Adds a class, a function, a module, or the class of any other value.

        Args:
            consists: whether the part belongs to the object itself. Otherwise its functions only refer to it, and
                installed packages do not count.
        """
        if id(part) in self.seen:
            return
        self.seen[id(part)] = part
        if isinstance(part, MethodType):
            self.add(part.__func__, consists=consists)
            self.add(part.__self__, consists=consists)
        elif isinstance(part, type):
            for base in part.__mro__:
                if self.has_no_file(base.__module__, consists):
                    self.members(base)
        elif isinstance(part, FunctionType):
            if self.has_no_file(part.__module__, consists):
                self.function(part)
            for value in _captured(part):
                self.add(value, consists=consists)
        elif isinstance(part, ModuleType):
            self.has_no_file(part.__name__, consists)
        elif isinstance(part, nn.Module):
            for inner in _parts(part):
                self.add(inner, consists=consists)
        else:
            self.add(type(part), consists=consists)

    def has_no_file(self, module: str, consists: bool) -> bool:
        """Whether the code of a module is in no file. If it is in files, their hashes are added."""
        top = module.partition(".")[0]
        if top in UNCOUNTED or (top in sys.stdlib_module_names and top != "__main__"):
            return False
        file = getattr(sys.modules.get(module), "__file__", None)
        if module == "__main__" or file is None:
            return True
        if theirs(file):
            self.found |= sources_of_module(module) or sources_of_file(Path(file))
        elif consists:
            self.found[top] = package_version(top)
        return False

    def members(self, cls: type[Any]) -> None:
        """Adds the functions and constants of a class without a file."""
        constants = []
        for name, value in vars(cls).items():
            for function in _functions(value):
                self.add(function, consists=True)
            if isinstance(value, int | float | str | tuple) and name not in BOOKKEEPING:
                constants.append((name, value))
        self.found[f"{cls.__module__}.{cls.__qualname__}"] = self.digest(sorted(constants))

    def function(self, function: FunctionType) -> None:
        """Adds a function without a file, and everything it refers to."""
        codes = list(_codes(function.__code__))
        named = {name: function.__globals__[name] for name in _globals(codes) if name in function.__globals__}
        values = {n: v for n, v in named.items() if not isinstance(v, type | FunctionType | ModuleType)}
        for value in named.values():
            self.add(value)
        plain = [(code.co_code, code.co_names, _plain(code.co_consts)) for code in codes]
        parts = [plain, {n: self.digest(v) for n, v in values.items()}, function.__defaults__, function.__kwdefaults__]
        self.found[f"{function.__module__}.{function.__qualname__}"] = self.digest(parts)


def _parts(built: Any) -> Iterator[Any]:
    """The classes of an object and of the modules inside it, their hooks, and functions among their attributes."""
    if not isinstance(built, nn.Module):
        yield built
        yield from (value for value in getattr(built, "__dict__", {}).values() if callable(value))
        return
    for module in built.modules():
        yield type(module)
        for name in HOOKS:
            yield from getattr(module, name).values()
        own = (value for name, value in vars(module).items() if name not in HOOKS)
        yield from (value for value in own if isinstance(value, FunctionType | MethodType))


def _functions(value: Any) -> Iterator[FunctionType]:
    """The functions behind an attribute of a class."""
    for function in (value, *(getattr(value, name, None) for name in ("__func__", "fget", "fset", "func"))):
        if isinstance(function, FunctionType):
            yield function


def _captured(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # the cell is still empty
            continue


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A code object and those of the functions defined inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _globals(codes: Iterable[CodeType]) -> list[str]:
    """The names of the global variables that bytecode reads, without attributes of the same name."""
    steps = (step for code in codes for step in dis.get_instructions(code))
    return sorted({str(step.argval) for step in steps if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")})


def _plain(constants: tuple[Any, ...]) -> list[Any]:
    return [constant for constant in constants if not isinstance(constant, CodeType)]
