"""Aliases: names for a built-in defense or attack with some of its arguments fixed, listed in `aliases.yaml`.

    pgd80_eot10:                              the name
      type: pgd                               the built-in that does the work
      class: attacks.pgd80_eot10.PGD80EOT10   its name in the keys of stored results, which must never change
      summary: PGD-80 with EOT 10.            for `harness list`
      fixed: {steps: 80, eot: 10}             arguments of the type that a suite cannot give
      by_norm: {Linf: {step_size: 1/255}}     values, per norm, for arguments that the suite leaves null
      changes: 1                              how often `fixed` or `by_norm` changed; added to the type's `version`

Reading the file imports nothing; the class is created when it is needed.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from harness.process.foreign_code import folder_of

FILE = "aliases.yaml"

OF_THE_CODE = ("independent",)
"""Attributes that a class says of its own code, and not for classes that extend it. An alias has the same code."""


@dataclass(frozen=True, eq=False)
class Alias:
    """An entry of the file. cls: the value of its key `class`."""

    name: str
    type: str
    cls: str
    summary: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    by_norm: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    changes: int = 0

    @property
    def module_and_class(self) -> tuple[str, str]:
        module, _, name = self.cls.rpartition(".")
        return module, name


@cache
def aliases(package: str) -> Mapping[str, Alias]:
    """The aliases of a package such as "attacks", by name; empty if the package has no such file."""
    folder = folder_of(package)
    path = (folder or Path()) / FILE
    if folder is None or not path.is_file():
        return {}
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: Alias(name=name, cls=entry.pop("class"), **entry) for name, entry in entries.items()}


@cache
def class_of_alias(alias: Alias, base: type[Any]) -> type[Any]:
    """Creates a subclass of the type's class that accepts the remaining arguments, with the type's defaults.

    Args:
        base: the class of `alias.type`.
    """
    signature, hints = inspect.signature(base.__init__), get_type_hints(base.__init__, include_extras=True)
    left = signature.replace(parameters=[p for n, p in signature.parameters.items() if n not in alias.fixed])
    fixed = _values(alias.fixed, hints)
    by_norm = {norm: _values(values, hints) for norm, values in alias.by_norm.items()}

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        _, *given = left.bind(self, *args, **kwargs).arguments.items()
        base.__init__(self, **_where_null(dict(given), by_norm), **fixed)

    __init__.__signature__ = left  # type: ignore[attr-defined]
    __init__.__annotations__ = {name: hint for name, hint in hints.items() if name not in fixed}
    module, name = alias.module_and_class
    version = getattr(base, "version", 1) + alias.changes

    def reduced(_: type[Any], given: Mapping[str, Any]) -> Any:
        return base.reduced({**_where_null(given, by_norm), **fixed})

    body = {"__init__": __init__, "reduced": classmethod(reduced), "__module__": module, "__doc__": alias.summary}
    said = {name: value for name, value in vars(base).items() if name in OF_THE_CODE}
    return type(name, (base,), {**body, **said, "version": version})


def _where_null(given: Mapping[str, Any], by_norm: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The given arguments, in which the values for their norm replace nulls."""
    values = by_norm.get(str(given.get("norm")), {})
    return {**given, **{name: value for name, value in values.items() if given.get(name) is None}}


def _values(written: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """Converts values of the file to the types of the arguments, such as the text 1/255 to a quantity."""
    from pydantic import TypeAdapter  # a slow import, which `harness list` does not need

    return {name: TypeAdapter(hints[name]).validate_json(json.dumps(value)) for name, value in written.items()}
