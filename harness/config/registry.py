"""Finds the classes that names in suites refer to. There is no list to maintain.

    dc                      built in: the file defenses/dc.py is the defense `dc`; its class is spelt like the file
    bpda                    an alias: another built-in with some arguments fixed, from attacks/aliases.yaml
    package.module:Class    any importable class
    ./file.py:Class         a class in a user's file, relative to the suite's folder
    name                    an entry point of an installed package, in the group harness.defenses, harness.attacks, ...

Listing reads source code instead of importing it, so that it never waits for torch.
"""

from __future__ import annotations

import importlib
import inspect
import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.config.alias import Alias, aliases, class_of_alias
from harness.config.introspect import Entry, class_in, describe, source_of
from harness.config.neighbours import module_of
from harness.errors import UserError, nearest
from harness.process.foreign_code import folder_of, theirs

PACKAGES = {
    "defenses": "defenses",
    "attacks": "attacks",
    "certificates": "attacks.certificates",
    "networks": "defenses.networks",
    "trainers": "defenses.training",
    "datasets": "harness.datasets.sources",
}
"""The kinds of named classes, and the packages of the built-in ones."""

CONTRACTS = {
    "defenses": "harness.defense:Defense",
    "attacks": "harness.attack:Attack",
    "certificates": "harness.certification.certificate:Certificate",
    "networks": "torch.nn:Module",
    "trainers": "harness.training.trainer:Trainer",
    "datasets": "harness.datasets.source:Source",
}
"""The base class of each kind."""


_FOREIGN: ContextVar[bool] = ContextVar("code that does not come with this package may be imported", default=True)


class Foreign(UserError):
    """Code from outside this package would have to be imported, which the user has not allowed."""


@contextmanager
def built_in_only() -> Iterator[None]:
    """Inside the block, `find` only imports code of this package, and raises `Foreign` for any other code."""
    before = _FOREIGN.set(False)
    try:
        yield
    finally:
        _FOREIGN.reset(before)


def entries(kind: str) -> list[Entry]:
    """All available names, sorted. kind: a key of `PACKAGES`. Imports none of them."""
    built_in = [_built_in(kind, name) for name in _built_in_names(kind)]
    installed = [describe(point.name, *_halves(point)) for point in _installed(kind).values()]
    return sorted([*(entry for entry in built_in if entry), *installed], key=lambda entry: entry.name)


def find(kind: str, name: str, base: Path | None = None) -> type[Any]:
    """Finds the class that a name refers to.

    Args:
        kind: a key of `PACKAGES`.
        name: a name in one of the forms listed at the head of this module.
        base: the folder that `./file.py` is relative to; by default the current folder.

    Raises:
        UserError: the class does not exist, cannot be imported, or is not of that kind.
    """
    module, colon, attribute = name.rpartition(":")
    if not (colon or name.endswith(".py")):
        return _checked(kind, name, _named(kind, name))
    if not _in_package(module):
        refuse_foreign(name)
    if alias := _alias_of_class(kind, module, attribute):
        return _checked(kind, name, _aliased(kind, alias))
    return _checked(kind, name, _imported(name, base, "class"))


def imported(name: str, base: Path | None = None) -> Any:
    """Imports the object that `package.module:attribute` or `./file.py:attribute` names; it may be of any type.

    Args:
        base: the folder that `./file.py` is relative to; by default the current folder.

    Raises:
        UserError: the object does not exist, or cannot be imported.
        Foreign: it is not allowed. That includes modules of this package, which contain more than classes.
    """
    refuse_foreign(name)
    return _imported(name, base, "function or class")


def refuse_foreign(name: str) -> None:
    """Raises `Foreign` if code from outside this package may not be imported. name: the name of that code."""
    if not _FOREIGN.get():
        raise Foreign(f"it names code ({name})")


def _imported(name: str, base: Path | None, what: str) -> Any:
    """Imports an object. what: the noun for it in messages."""
    module, colon, attribute = name.rpartition(":")
    if name.endswith(".py") or module.endswith(".py"):
        file = module if colon else name
        return _attribute(_from_file(name, file, base or Path()), attribute if colon else "", name, what)
    return _attribute(_from_module(name, module, attribute, what), attribute, name, what)


def _in_package(module: str) -> bool:
    """Whether a module belongs to this package, as the canaries do: importing it runs no code from outside."""
    parts = module.split(".")
    return parts[0] in PACKAGES and all(part.isidentifier() for part in parts)


def _named(kind: str, name: str) -> Any:
    if alias := aliases(PACKAGES[kind]).get(name):
        return _aliased(kind, alias)
    if entry := _built_in(kind, name):
        try:
            return getattr(importlib.import_module(entry.module), entry.cls)
        except ImportError as error:
            raise UserError(f"'{name}' cannot be imported: {error}", remedy="Install the package it needs") from error
    installed = _installed(kind)
    if name not in installed:
        known = [entry.name for entry in entries(kind)]
        raise UserError(f"there is no {kind[:-1]} '{name}'", remedy=nearest(name, known))
    refuse_foreign(f"{installed[name].value}, by the name {name}")
    module, attribute = _halves(installed[name])
    return _attribute(_from_module(name, module, attribute, "class"), attribute, name, "class")


def _from_module(name: str, module: str, attribute: str, what: str) -> ModuleType:
    if not all(part.isidentifier() for part in [*module.split("."), attribute]):
        form = "Class" if what == "class" else "name"
        raise UserError(f"'{name}' is neither package.module:{form} nor ./file.py:{form}")
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"'{name}' cannot be imported: {_describe(error, source_of(module))}",
            remedy="Install the package, or put its folder on PYTHONPATH",
        ) from error


def _from_file(name: str, file: str, base: Path) -> ModuleType:
    path = base / file
    try:
        path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"'{name}': {path} cannot be read: {reason}", remedy="Check the path") from error
    try:
        return module_of(path)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"'{name}' cannot be imported: {_describe(error, path.resolve())}", remedy="Correct the file"
        ) from error


def _describe(error: BaseException, file: Path | None) -> str:
    """Describes an exception of a user's module: the line of that file or of a neighbour, the type and the text."""
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    lines = [frame for frame in frames if file and frame[0].is_relative_to(file.parent) and theirs(str(frame[0]))]
    text = str(error)
    if isinstance(error, SyntaxError) and file and Path(error.filename or "").is_relative_to(file.parent):
        lines, text = [(Path(error.filename or ""), error.lineno)], error.msg
    place = f"{lines[-1][0].name}:{lines[-1][1]}: " if lines else ""
    return f"{place}{type(error).__name__}: {text}"


def _attribute(module: ModuleType, attribute: str, name: str, what: str) -> Any:
    found = getattr(module, attribute, None) if attribute else None
    if found is None:
        nameable = inspect.isclass if what == "class" else callable
        own = [k for k, v in vars(module).items() if k[0] != "_" and nameable(v) and _is_from(v, module, what)]
        fault = f"has no {what} '{attribute}'" if attribute else f"needs a {what} after a colon"
        raise UserError(f"'{name}' {fault}", remedy=nearest(attribute, own))
    return found


def _is_from(value: Any, module: ModuleType, what: str) -> bool:
    """Whether a module defines a class or, for a function, whether a module of the same package defines it."""
    home = str(getattr(value, "__module__", ""))
    if what == "class":
        return home == module.__name__
    return home.partition(".")[0] == module.__name__.partition(".")[0]


def _checked(kind: str, name: str, found: Any) -> type[Any]:
    module, _, contract = CONTRACTS[kind].partition(":")
    if not (inspect.isclass(found) and issubclass(found, getattr(importlib.import_module(module), contract))):
        raise UserError(f"'{name}' is not a subclass of {module}.{contract}, so it is no {kind[:-1]}")
    if inspect.isabstract(found):
        absent = ", ".join(sorted(vars(found)["__abstractmethods__"]))
        raise UserError(f"'{name}' does not define {absent}", remedy=f"Write the abstract methods of {contract}")
    return found


def _aliased(kind: str, alias: Alias) -> Any:
    return class_of_alias(alias, _named(kind, alias.type))


def _alias_of_class(kind: str, module: str, attribute: str) -> Alias | None:
    """The alias with the class name `module:attribute`."""
    return next((a for a in aliases(PACKAGES[kind]).values() if a.cls == f"{module}.{attribute}"), None)


def _built_in_names(kind: str) -> list[str]:
    folder = folder_of(PACKAGES[kind])
    files = [path.stem for path in folder.glob("[!_]*.py")] if folder else []
    return [*files, *aliases(PACKAGES[kind])]


def _built_in(kind: str, name: str) -> Entry | None:
    if alias := aliases(PACKAGES[kind]).get(name):
        entry = _built_in(kind, alias.type)
        left = tuple(p for p in entry.parameters if p.name not in alias.fixed) if entry else ()
        fixed = "; ".join(f"{key}: {json.dumps(value)}" for key, value in alias.fixed.items())
        head = f"It is `{alias.type}` with {fixed}." if fixed else f"It is `{alias.type}` by another name."
        whole = f"{alias.summary}\n\n{head}\n\n{entry.head if entry else ''}".strip()
        return Entry(name, alias.summary, *alias.module_and_class, left, whole)
    module = f"{PACKAGES[kind]}.{name}"
    if not name.isidentifier() or name.startswith("_") or not (path := source_of(module)):
        return None
    cls = class_in(path, name, CONTRACTS[kind].partition(":")[2])
    return describe(name, module, cls) if cls else None


def _installed(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"harness.{kind}")}


def _halves(point: EntryPoint) -> tuple[str, str]:
    module, _, attribute = point.value.partition(":")
    return module.strip(), attribute.strip()
