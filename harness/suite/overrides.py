"""Values of a suite that are set from outside its file: `harness run SUITE --set defenses.rdc.eta=4/255`.

They count as the suite's own text: the value is checked as if the file had it, enters the keys of results, and relative
paths in it start at the file. Messages name the setting in place of a line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from harness.config.yaml_file import Document, Key, Node, parse_value
from harness.errors import Place, UserError, nearest
from harness.suite.schema import Suite
from harness.suite.sweep import entry_of

FORM = "Write PATH=VALUE with the keys that lead to the value, such as --set defenses.rdc.eta=4/255"
COMPONENTS = ("defenses", "attacks", "certificates")
OPEN = ("defaults", "report")
"""Sections in which a mapping that the file does not have may be begun."""


@dataclass(frozen=True)
class SetPlace(Place):
    """A setting, in place of a line of the file that it changes."""

    text: str = ""

    def __str__(self) -> str:
        return f"--set {self.text}"


def overridden(document: Document, settings: Iterable[str]) -> Document:
    """A suite with some of its values replaced or added.

    Args:
        settings: "PATH=VALUE" each, in this order. PATH: the keys that lead to the value, with dots between them, and
            numbers for the items of lists; VALUE: as in a suite, in one line.

    Raises:
        UserError: a setting has another form, or its path leads nowhere.

    Example:
        >>> from pathlib import Path
        >>> from harness.config.yaml_file import parse
        >>> suite = parse("defenses: {rdc: {eta: 0.1}}", Path("suite.yaml"))
        >>> overridden(suite, ["defenses.rdc.eta=4/255"]).data
        {'defenses': {'rdc': {'eta': '4/255'}}}
    """
    for text in settings:
        path, equals, value = text.partition("=")
        place = SetPlace(document.path, None, text)
        if not equals or not all(path.split(".")):
            raise UserError(f"'{text}' is not of the form PATH=VALUE", remedy=FORM)
        keys = _keys(document.root, path, place)
        _refuse_swept(document.root, keys, place)
        document = replace(document, root=_put(document.root, keys, parse_value(value, place)))
    return document


def _keys(root: Node, path: str, place: Place) -> list[Key]:
    """The keys of a path. Names may contain dots, so the longest key that exists is taken at each step."""
    keys: list[Key] = []
    node, rest = root, path
    while True:
        key, rest = _first(node, rest, keys)
        keys.append(key)
        if not rest:
            _refuse_unknown(root, keys, place, last=True)
            return keys
        child = node.child(key)
        if child is None or child.value is None:
            child = _refuse_unknown(root, keys, place, last=False)
        elif not isinstance(child.value, dict | list):
            raise UserError(f"'{_dotted(keys)}' is {child.value}, which has nothing inside", remedy=FORM, where=place)
        node = child


def _first(node: Node, path: str, before: Sequence[Key]) -> tuple[Key, str]:
    if isinstance(node.value, list):
        first, _, rest = path.partition(".")
        return (int(first) if first.isdecimal() else first), rest
    if list(before) == ["sweep"]:  # its keys are paths themselves
        return path, ""
    matching = [key for key in node.value or () if f"{path}.".startswith(f"{key}.")]
    if matching:
        key = max(matching, key=len)
        return key, path[len(key) + 1 :]
    first, _, rest = path.partition(".")
    return first, rest


def _refuse_unknown(root: Node, keys: Sequence[Key], place: Place, *, last: bool) -> Node:
    """The place of a value that the file does not have; an empty mapping, unless defaults say more.

    Raises:
        UserError: no value may stand there. last: whether the path ends there, where a new key may be added.
    """
    *above, key = keys
    if not above and key not in Suite.model_fields:
        raise UserError(f"a suite has no key '{key}'", remedy=nearest(str(key), Suite.model_fields), where=place)
    node, _ = root.follow(*above)
    if isinstance(node.value, list):
        if not (isinstance(key, int) and key < len(node.value)):
            remedy = f"Choose an item from 0 to {len(node.value) - 1}"
            raise UserError(f"the list '{_dotted(above)}' has no item {key}", remedy=remedy, where=place)
        return node.value[key]
    existing = node.value or {}
    if last or not above or above[0] in OPEN or key in existing:
        return Node({}, place, place)
    kind = str(above[0])
    if len(above) == 1 and kind in COMPONENTS:
        remedy = nearest(str(key), existing)
        raise UserError(f"the suite has no {kind[:-1]} '{key}'", remedy=remedy, where=place)
    if len(above) > 1 and kind in COMPONENTS:
        found, depth = entry_of(root, kind, str(above[1])).follow(*keys[2:])
        if depth == len(keys) - 2 and isinstance(found.value, dict):
            return found
    remedy = nearest(str(key), existing) if existing else FORM
    raise UserError(f"the suite has no '{_dotted(keys)}'", remedy=remedy, where=place)


def _refuse_swept(root: Node, keys: Sequence[Key], place: Place) -> None:
    """Raises UserError for an argument that a sweep gives other values, since the setting would have no effect."""
    sweep = root.child("sweep")
    if len(keys) < 3 or keys[0] not in ("defenses", "attacks") or sweep is None or not isinstance(sweep.value, dict):
        return
    wanted = _dotted([str(keys[0])[:-1], *keys[1:]])
    for path in sweep.value:
        if path == wanted or path.startswith(f"{wanted}.") or wanted.startswith(f"{path}."):
            raise UserError(
                f"the suite sweeps '{path}', so that this value would have no effect",
                remedy=f"Set the sweep itself, such as --set 'sweep.{path}=[VALUE, VALUE]'",
                where=place,
            )


def _put(node: Node, keys: Sequence[Key], value: Node) -> Node:
    """A node in which `value` stands at the end of `keys`."""
    if not keys:
        return value
    key, *rest = keys
    below = _put(node.child(key) or Node({}, value.place, value.key), rest, value)
    if isinstance(node.value, list):
        return replace(node, value=[below if at == key else item for at, item in enumerate(node.value)])
    return replace(node, value={**(node.value or {}), key: below})


def _dotted(keys: Sequence[Key]) -> str:
    return ".".join(map(str, keys))
