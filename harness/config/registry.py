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
}
"""Kinds of things that have names, and where the built-in ones live."""

CONTRACTS = {
    "defenses": "harness.defense:Defense",
    "attacks": "harness.attack:Attack",
    "networks": "torch.nn:Module",
    "trainers": "harness.training.trainer:Trainer",
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
    file, colon, attribute = name.rpartition(":")
    if not _FOREIGN.get() and (colon or name.endswith(".py")) and not _in_package(file):
        raise Foreign(f"it names code ({name})")
    if name.endswith(".py") or file.endswith(".py"):
        found = _from_file(name, file if colon else name, attribute if colon else "", base or Path())
    elif alias := _alias_of_class(kind, file, attribute):
        found = _aliased(kind, alias)
    elif colon:
        found = _from_module(name, file, attribute)
    else:
        found = _named(kind, name)
    return _checked(kind, name, found)


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
    if not _FOREIGN.get():
        raise Foreign(f"it names code ({installed[name].value}, by the name {name})")
    return _from_module(name, *_halves(installed[name]))


def _from_module(name: str, module: str, attribute: str) -> Any:
    if not all(part.isidentifier() for part in [*module.split("."), attribute]):
        raise UserError(f"'{name}' is neither package.module:Class nor ./file.py:Class")
    try:
        imported = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"'{name}' cannot be imported: {_told(error, source_of(module))}",
            remedy="Install the package, or put its folder on PYTHONPATH",
        ) from error
    return _attribute(imported, attribute, name)


def _from_file(name: str, file: str, attribute: str, base: Path) -> Any:
    path = base / file
    try:
        path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"'{name}': {path} cannot be read: {reason}", remedy="Check the path") from error
    try:
        module = module_of(path)
    except (Exception, SystemExit) as error:
        raise UserError(f"'{name}' cannot be imported: {_told(error, path.resolve())}", remedy="Mend it") from error
    return _attribute(module, attribute, name)


def _told(error: BaseException, file: Path | None) -> str:
    """Somebody else's exception: the line of their file, or of one beside it, that it came from, its type and text."""
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    lines = [found for found in frames if file and found[0].is_relative_to(file.parent) and theirs(str(found[0]))]
    text = str(error)
    if isinstance(error, SyntaxError) and file and Path(error.filename or "").is_relative_to(file.parent):
        lines, text = [(Path(error.filename or ""), error.lineno)], error.msg
    place = f"{lines[-1][0].name}:{lines[-1][1]}: " if lines else ""
    return f"{place}{type(error).__name__}: {text}"


def _attribute(module: ModuleType, attribute: str, name: str) -> Any:
    found = getattr(module, attribute, None) if attribute else None
    if found is None:
        classes = [k for k, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module.__name__]
        told = f"has no class '{attribute}'" if attribute else "needs a class after a colon"
        raise UserError(f"'{name}' {told}", remedy=nearest(attribute, classes))
    return found


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
