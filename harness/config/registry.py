"""Names in suites to classes, without a list to keep.

    dc                      built in: the file defenses/dc.py is the defense `dc`, its class spelt like the file
    bpda                    built in too: another one with arguments fixed, by a line of attacks/aliases.yaml
    package.module:Class    anything importable
    ./file.py:Class         a file of the user's, relative to the suite's folder
    name                    an entry point of an installed package, in the group harness.defenses, harness.attacks, ...

Listing reads source instead of importing it, so that it never waits for torch.
"""

from __future__ import annotations

import importlib
import inspect
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
    "networks": "defenses.networks",
    "trainers": "defenses.training",
    "datasets": "harness.datasets.sources",
}
"""Kinds of things that have names, and where the built-in ones live."""

CONTRACTS = {
    "defenses": "harness.defense:Defense",
    "attacks": "harness.attack:Attack",
    "networks": "torch.nn:Module",
    "trainers": "harness.training.trainer:Trainer",
    "datasets": "harness.datasets.source:Source",
}
"""What a class of each kind must extend."""


_FOREIGN: ContextVar[bool] = ContextVar("code that does not come with this package may be imported", default=True)


class Foreign(UserError):
    """Code that does not come with this package would be imported, where nobody has allowed it."""


@contextmanager
def built_in_only() -> Iterator[None]:
    """Inside, `find` imports nothing but what comes with this package, and raises `Foreign` instead."""
    before = _FOREIGN.set(False)
    try:
        yield
    finally:
        _FOREIGN.reset(before)


def entries(kind: str) -> list[Entry]:
    """What there is to name, in the order of names. kind: a key of `PACKAGES`. Imports nothing of it."""
    found = [_built_in(kind, name) for name in _built_in_names(kind)]
    installed = [describe(point.name, *_halves(point)) for point in _installed(kind).values()]
    return sorted([*(entry for entry in found if entry), *installed], key=lambda entry: entry.name)


def find(kind: str, name: str, base: Path | None = None) -> type[Any]:
    """The class that a name means.

    Args:
        kind: a key of `PACKAGES`.
        name: in one of the forms above.
        base: the folder that `./file.py` is relative to; the current one if left out.

    Raises:
        UserError: there is no such thing, it cannot be imported, or it is not of that kind.
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
    """What `package.module:attribute` or `./file.py:attribute` means, whatever it is.

    Args:
        base: the folder that `./file.py` is relative to; the current one if left out.

    Raises:
        UserError: there is no such thing, or it cannot be imported.
        Foreign: nobody has allowed it. A module of this package is no exception: it holds more than classes.
    """
    refuse_foreign(name)
    return _imported(name, base, "function or class")


def refuse_foreign(name: str) -> None:
    """Raises `Foreign` where code that does not come with this package may not be imported. name: of that code."""
    if not _FOREIGN.get():
        raise Foreign(f"it names code ({name})")


def _imported(name: str, base: Path | None, what: str) -> Any:
    """what: the noun for it in messages."""
    module, colon, attribute = name.rpartition(":")
    if name.endswith(".py") or module.endswith(".py"):
        file = module if colon else name
        return _attribute(_from_file(name, file, base or Path()), attribute if colon else "", name, what)
    return _attribute(_from_module(name, module, attribute, what), attribute, name, what)


def _in_package(module: str) -> bool:
    """Whether a module comes with this package, as the canaries do: importing it runs nobody else's code."""
    parts = module.split(".")
    return parts[0] in PACKAGES and all(part.isidentifier() for part in parts)


def _named(kind: str, name: str) -> Any:
    if alias := aliases(PACKAGES[kind]).get(name):
        return _aliased(kind, alias)
    if entry := _built_in(kind, name):
        try:
            return getattr(importlib.import_module(entry.module), entry.cls)
        except ImportError as error:
            raise UserError(f"'{name}' cannot be imported: {error}", remedy="Install what it asks for") from error
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
            f"'{name}' cannot be imported: {_told(error, source_of(module))}",
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
            f"'{name}' cannot be imported: {_told(error, path.resolve())}", remedy="Correct the file"
        ) from error


def _told(error: BaseException, file: Path | None) -> str:
    """Somebody else's exception: the line of their file, or of one beside it, that it came from, its type and text."""
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    lines = [found for found in frames if file and found[0].is_relative_to(file.parent) and theirs(str(found[0]))]
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
        told = f"has no {what} '{attribute}'" if attribute else f"needs a {what} after a colon"
        raise UserError(f"'{name}' {told}", remedy=nearest(attribute, own))
    return found


def _is_from(value: Any, module: ModuleType, what: str) -> bool:
    """Whether a module defines something, or, of a function, a module of the same package does."""
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
        raise UserError(f"'{name}' does not define {absent}", remedy=f"Write what {contract} leaves open")
    return found


def _aliased(kind: str, alias: Alias) -> Any:
    return class_of_alias(alias, _named(kind, alias.type))


def _alias_of_class(kind: str, module: str, attribute: str) -> Alias | None:
    """The alias that is called `module:attribute`, as a class in a file of its own would be."""
    return next((a for a in aliases(PACKAGES[kind]).values() if a.cls == f"{module}.{attribute}"), None)


def _built_in_names(kind: str) -> list[str]:
    folder = folder_of(PACKAGES[kind])
    files = [path.stem for path in folder.glob("[!_]*.py")] if folder else []
    return [*files, *aliases(PACKAGES[kind])]


def _built_in(kind: str, name: str) -> Entry | None:
    if alias := aliases(PACKAGES[kind]).get(name):
        entry = _built_in(kind, alias.type)
        left = tuple(p for p in entry.parameters if p.name not in alias.fixed) if entry else ()
        return Entry(name, alias.summary, *alias.module_and_class, left)
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
