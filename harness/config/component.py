"""A defense or an attack as a suite describes it: a class, and arguments checked against its constructor."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from harness.config import registry
from harness.config.signature import Class, entries_inside, in_python, parameters, type_hints
from harness.config.validation import Line, conform, shown
from harness.config.yaml_file import Node
from harness.errors import Failed, Place, UserError, nearest, one_line
from harness.guard.contamination import settings_kept
from harness.quantity import Quantity
from harness.randomness import derive, fenced
from harness.threat import LARGEST, Linf, ThreatModel

RESERVED = ("type", "label")
"""Keys of an entry that are not arguments."""

BUDGET = ("eps", "norm", "bound", "threat")
"""What an attack that replaces another in one pairing inherits from it: all cells of a column have one budget."""

INSIDE = "inner"
"""The name of an entry inside another entry, until its type is known."""

CONSTRUCTION = derive("construction")
"""The seed of the global generators while an instance is constructed."""


@dataclass(frozen=True)
class Component:
    """An entry of a suite, ready to be built.

    Args:
        kind: "defenses" or "attacks" (see `registry.PACKAGES`).
        name: its name in the suite.
        type: the name of its class, as written; cls: that class.
        arguments: the arguments of the constructor, defaults included.
        label: its name in reports; None for `name`.
        place: the line of the entry.
        node: the entry as written.
    """

    kind: str
    name: str
    type: str
    cls: Class
    arguments: dict[str, Any]
    label: str | None
    place: Place
    node: Node = dataclasses.field(repr=False, compare=False)

    @property
    def title(self) -> str:
        return f"{self.kind[:-1]} '{self.name}'"

    @property
    def base(self) -> Path:
        """The folder to which a relative path in `type` refers."""
        written: Node = self.node.value.get("type", self.node)
        return written.place.file.parent

    def build(self) -> Any:
        """Builds an instance. The global generators are seeded during the call, so that each instance is the same.

        Raises:
            UserError: the constructor rejected its arguments.
            Failed: the constructor raised another exception.
        """
        try:
            with settings_kept("its constructor"), fenced(CONSTRUCTION):
                return self.cls(**{in_python(name): value for name, value in self.arguments.items()})
        except UserError as error:
            raise error.about(self.title, self._place_of(error.message)) from error
        except ValueError as error:
            raise UserError(f"{self.title}: {error}", where=self._place_of(str(error))) from error
        except Exception as error:
            raise Failed(f"{self.title} cannot be built: {one_line(error)}", where=self.place) from error

    def resolved(self) -> dict[str, Any]:
        """The arguments for JSON: quantities as written, paths relative to the suite, checkpoints with their hash.

        Raises:
            UserError: a default value cannot be written as data.
        """
        return {name: self._json(name, value) for name, value in self.arguments.items()}

    def _json(self, name: str, value: Any) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, Path):
            return Path(os.path.relpath(value, self.place.file.parent)).as_posix()
        if isinstance(value, Mapping):
            return {str(key): self._json(name, item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._json(name, item) for item in value]
        if isinstance(value, Component):
            return {"type": value.type, "arguments": value.resolved()}
        try:
            return TypeAdapter(type(value)).dump_python(value, mode="json")
        except (PydanticUserError, ValueError) as error:
            raise UserError(
                f"'{name}' of {self.title} is {shown(value)}, which cannot be written into a record",
                remedy="Let its default be a number, text or None, and build the object in the constructor",
                where=self.place,
            ) from error

    def _place_of(self, message: str) -> Place:
        """The line to name for an error that a constructor reports.

        A constructor raises ValueError("steps must be at least 1") without knowing about files, but its message names
        the argument. The line is that of the argument, or that of the entry if the message names no written argument.
        """
        named = [word for word in re.findall(r"\w+", message) if word in self.node.value]
        argument: Node | None = self.node.value[named[0]] if named else None
        return argument.where if argument else self.place


Other = TypeVar("Other", bound=Component)


def recast(component: Component, cls: type[Other], **changes: Any) -> Other:
    """Converts an entry to a subclass of `Component`, with some of its fields changed or added."""
    fields = {field.name: getattr(component, field.name) for field in dataclasses.fields(component)}
    return cls(**{**fields, **changes})


def bind(kind: str, name: str, node: Node) -> Component:
    """Checks an entry against its class.

    Args:
        kind: a key of `registry.PACKAGES`.
        name: the name of the entry; also its type, if the entry has no `type`.
        node: a mapping with `type`, `label` and arguments.

    Raises:
        UserError: the class is unknown, or an argument is unknown, missing or of the wrong type.
    """
    title = f"{kind[:-1]} '{name}'"
    cls = class_of(kind, name, node)
    given = {key: value for key, value in node.value.items() if key not in RESERVED}
    label = conform(node.value["label"], Line, f"'label' of {title}") if "label" in node.value else None
    arguments = _arguments(cls, given, title, node.key)
    return Component(kind, name, _type(name, node), cls, arguments, label, node.key, node)


def class_of(kind: str, name: str, node: Node) -> Class:
    """Finds the class that an entry names. Raises UserError if there is none."""
    written = node.value.get("type", node)
    try:
        with settings_kept(f"importing {kind[:-1]} '{name}'"):
            return registry.find(kind, _type(name, node), written.place.file.parent)
    except UserError as error:
        raise error.at(written.where) from error


def check_budget(attack: Component) -> None:
    """Builds an attack, which is cheap, to check that its budget is valid.

    Raises:
        UserError: the constructor failed, or the radius is negative or impossibly large.
    """
    threat = getattr(attack.build(), "threat", None)
    if not isinstance(threat, ThreatModel):
        raise UserError(f"{attack.title} sets no `threat` in its constructor", where=attack.place)
    written = next((node for key in ("eps", "bound") if (node := attack.node.child(key))), attack.node)
    budget = f"the {type(threat).__name__} budget of {attack.title} is {threat.eps}"
    try:
        eps = Quantity(threat.eps)
    except (TypeError, ValueError) as error:
        raise UserError(f"{budget}: it must be a number", where=written.where) from error
    if eps < 0:
        raise UserError(f"{budget}: it must not be negative", where=written.where)
    if eps > LARGEST.get(type(threat), eps):
        remedy = f"For 8-bit units write {eps}/255" if isinstance(threat, Linf) else "Images lie in [0, 1]; write it so"
        raise UserError(f"{budget}, more than an image can change", remedy=remedy, where=written.where)


def _type(name: str, node: Node) -> str:
    if "type" not in node.value:
        return name
    written: str = conform(node.value["type"], str, f"'type' of '{name}'")
    return written


def _arguments(cls: Class, given: Mapping[str, Node], title: str, place: Place) -> dict[str, Any]:
    accepted = parameters(cls)
    hints = type_hints(cls, title, place)
    for name, node in given.items():
        if name not in accepted:
            raise UserError(f"{title} has no argument '{name}'", remedy=nearest(name, accepted), where=node.key)
    values = {}
    for name, parameter in accepted.items():
        if name in given:
            values[name] = _argument(given[name], hints.get(in_python(name), Any), f"'{name}' of {title}", given)
        elif parameter.default is not inspect.Parameter.empty:
            values[name] = parameter.default
        else:
            raise UserError(f"{title} needs '{name}'", remedy=f"Add `{name}:` to it", where=place)
    return values


def _argument(node: Node, hint: Any, subject: str, entry: Mapping[str, Node]) -> Any:
    """Converts an argument. entry: all arguments as written; an attack inside this one inherits its budget."""
    kind, many = entries_inside(hint)
    if kind and node.value is not None:
        parts = _items(node, subject) if many else [node]
        bound = [_bind_inside(kind, part, subject, entry) for part in parts]
        return bound if many else bound[0]
    try:
        return _rebased(conform(node, hint, subject), node.place.file.parent)
    except PydanticUserError as error:
        kind = inspect.formatannotation(hint)
        raise UserError(
            f"{subject} is a {kind}, which YAML cannot write", remedy="Leave it out", where=node.where
        ) from error


def _items(node: Node, subject: str) -> list[Node]:
    """The items of a list. Raises UserError if the value is not a list."""
    conform(node, list[Any], subject)
    items: list[Node] = node.value
    return items


def _bind_inside(kind: str, node: Node, subject: str, outer: Mapping[str, Node]) -> Component:
    """Binds an entry inside another. outer: the arguments of the outer entry; an attack inherits its budget."""
    if not isinstance(node.value, dict):
        raise UserError(
            f"{subject} is {shown(node.plain())}: it must be an entry of its own, such as {{type: NAME, ...}}",
            remedy=f"`harness list {kind}` lists the names",
            where=node.where,
        )
    try:
        if kind != "attacks":
            return bind(kind, _type(INSIDE, node), node)
        accepted = parameters(class_of(kind, INSIDE, node))
        inherited = {key: outer[key] for key in BUDGET if key in outer and key in accepted and key not in node.value}
        attack = bind(kind, _type(INSIDE, node), Node({**inherited, **node.value}, node.place, node.key))
        check_budget(attack)
        return attack
    except UserError as error:
        raise error.about(subject, node.where) from error


def _rebased(value: Any, folder: Path) -> Any:
    """Makes relative paths relative to the folder of the file that they were written in."""
    if isinstance(value, Path):
        return folder / os.path.expanduser(value)
    if type(value) in (list, tuple):
        return type(value)(_rebased(item, folder) for item in value)
    if type(value) is dict:
        return {key: _rebased(item, folder) for key, item in value.items()}
    return value
