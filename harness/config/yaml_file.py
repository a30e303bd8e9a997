"""YAML files that remember where each value was written.

Scalars follow the core schema of YAML 1.2: only `true` and `false` are booleans (`gates: off` is a word), `1e-3` is a
number, dates and `8/255` are text. Anchors, aliases and `<<` work. A file may extend others with `extends:`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from harness.config.packaged_files import called
from harness.config.yaml12 import compose, key_of, line_of, scalar, tag
from harness.errors import Place, UserError, nearest
from harness.guard.untrusted import Unreadable, contents

DEEPEST = 40
"""The largest number of levels of nesting."""

MOST = 100_000
"""The largest number of values in a document, with aliases expanded; it protects the memory."""

LARGEST = 1 << 19
"""The largest size of a file in bytes: larger files take too long to parse."""

FILES = 50
"""The largest number of files that one file extends, directly and indirectly."""

Key = str | int


@dataclass(frozen=True)
class Node:
    """A value and the lines where it was written.

    Args:
        value: a scalar, a list of nodes, or a dict of nodes.
        place: the line where the value starts.
        key: the line of its key; for an item of a list and for a whole file, the same as `place`.
    """

    value: Any
    place: Place
    key: Place

    @classmethod
    def of(cls, value: Any, place: Place) -> Node:
        """Makes a node of a value that is not from a file, as if all of it were written on one line.

        Args:
            value: scalars, lists of them and dicts of them.
            place: the place that messages name.
        """
        if isinstance(value, dict):
            value = {name: cls.of(item, place) for name, item in value.items()}
        elif isinstance(value, list):
            value = [cls.of(item, place) for item in value]
        return cls(value, place, place)

    @property
    def where(self) -> Place:
        """The line to name when the value is wrong: that of a scalar itself, and that of a mapping's or list's key."""
        return self.key if isinstance(self.value, dict | list) else self.place

    def plain(self) -> Any:
        """The value as new dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {name: node.plain() for name, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def child(self, key: Key) -> Node | None:
        if isinstance(self.value, dict):
            return self.value.get(key)
        if isinstance(self.value, list) and isinstance(key, int) and 0 <= key < len(self.value):
            item: Node = self.value[key]
            return item
        return None

    def follow(self, *path: Key) -> tuple[Node, int]:
        """The node at `path`, or its nearest existing ancestor, and the number of keys that led to it."""
        node = self
        for depth, key in enumerate(path):
            child = node.child(key)
            if child is None:
                return node, depth
            node = child
        return node, len(path)

    def merged(self, over: Node) -> Node:
        """Merges `over` into this node: mappings merge, a null deletes its key, any other value replaces."""
        if not (isinstance(self.value, dict) and isinstance(over.value, dict)):
            return over
        entries = dict(self.value)
        for name, node in over.value.items():
            if name not in entries:
                entries[name] = node
            elif node.value is None:
                del entries[name]
            else:
                entries[name] = entries[name].merged(node)
        return Node(entries, over.place, over.key)


@dataclass(frozen=True)
class Document:
    """A file, with everything it extends. Its top level is a mapping."""

    path: Path
    root: Node

    @cached_property
    def data(self) -> dict[str, Any]:
        """The content as plain dicts, lists and scalars."""
        data: dict[str, Any] = self.root.plain()
        return data

    def place(self, *path: Key) -> Place:
        """The line to name when the value at `path` is wrong; that of the nearest ancestor if there is no value."""
        return self.root.follow(*path)[0].where

    def key_place(self, *path: Key) -> Place:
        """The line of the key that `path` ends in; that of the nearest ancestor if there is no such key."""
        return self.root.follow(*path)[0].key


def read(path: Path) -> Document:
    """Parses a file and the files that it extends.

    Raises:
        UserError: it cannot be read, is not YAML, or uses something that is not allowed: keys that repeat or are not
            text, tags, values that contain themselves or are too large, or `extends` in a circle.
    """
    return Document(path, _Reader().file(path, None))


def parse(text: str, path: Path) -> Document:
    """Parses text as if it were the content of the file `path`. Raises the same errors as `read`."""
    return Document(path, _Reader().content(text, path))


def parse_value(text: str, place: Place) -> Node:
    """Parses a value that was written on one line outside a file. place: what messages name, and paths start from.

    Raises:
        UserError: it is no value of YAML.

    Example:
        >>> parse_value("[1, 4/255]", Place(Path("suite.yaml"))).plain()
        [1, '4/255']
    """
    try:
        (node,) = parse(f"value: {text}", place.file).root.value.values()
    except (UserError, ValueError) as error:  # ValueError: a second line began another key
        raise UserError(
            f"'{text}' is no value", remedy="Write it as in a suite, in one line of YAML", where=place
        ) from error
    return Node.of(node.plain(), place)


@dataclass
class _Reader:
    """The state of one call of `read`: the files that are being read, and counts of files and values."""

    opened: list[Path] = field(default_factory=list)
    read: Iterator[int] = field(default_factory=lambda: count(1))
    seen: Iterator[int] = field(default_factory=lambda: count(1))

    def file(self, path: Path, extended_at: Place | None) -> Node:
        """Reads a file. extended_at: the line of the `extends` that named the file, if any."""
        if next(self.read) > FILES:
            raise UserError(f"the file extends more than {FILES} others", where=extended_at)
        text = _text(path, extended_at)
        identity = path.resolve()
        if identity in self.opened:
            chain = " -> ".join(file.name for file in [*self.opened[self.opened.index(identity) :], identity])
            raise UserError(f"'extends' forms a circle: {chain}", remedy="Remove one of them", where=extended_at)
        self.opened.append(identity)
        root = self.content(text, path)
        self.opened.pop()
        return root

    def content(self, text: str, path: Path) -> Node:
        root = self.node(compose(text, path), path)
        if not isinstance(root.value, dict):
            raise UserError(
                "the file is not a mapping", remedy="Write one `key: value` per line at its top level", where=root.place
            )
        entries = dict(root.value)
        own = Node(entries, root.place, root.key)
        parents = list(_parents(entries.pop("extends", None)))
        if not parents:
            return own
        base = self.file(path.parent / parents[0].value, parents[0].place)
        for parent in parents[1:]:
            base = base.merged(self.file(path.parent / parent.value, parent.place))
        return base.merged(own)

    def node(self, raw: yaml.Node, path: Path, key: Place | None = None, above: tuple[yaml.Node, ...] = ()) -> Node:
        """Converts a node of PyYAML. above: the mappings and lists that contain it."""
        place = line_of(raw, path)
        if raw in above:
            raise UserError("the value contains itself", remedy="Remove the alias", where=place)
        if len(above) > DEEPEST or next(self.seen) > MOST:
            raise UserError(
                f"the file has more than {MOST} values (aliases count in full) or more than {DEEPEST} levels",
                where=place,
            )
        inside = (*above, raw)
        if isinstance(raw, yaml.MappingNode) and raw.tag == tag("map"):
            return Node(self.mapping(raw, path, inside), place, key or place)
        if isinstance(raw, yaml.SequenceNode) and raw.tag == tag("seq"):
            return Node([self.node(item, path, None, inside) for item in raw.value], place, key or place)
        return Node(scalar(raw, place), place, key or place)

    def mapping(self, raw: yaml.MappingNode, path: Path, inside: tuple[yaml.Node, ...]) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        keys: set[str] = set()
        for raw_key, raw_value in raw.value:
            place = line_of(raw_key, path)
            name = key_of(raw_key, place)
            if name in keys:
                raise UserError(f"the key '{name}' appears twice", remedy="Remove one of them", where=place)
            keys.add(name)
            if raw_key.tag == tag("merge"):
                for source in _merge_sources(raw_value, place):
                    merged |= self.node(source, path, None, inside).value
            else:
                own[name] = self.node(raw_value, path, place, inside)
        return merged | own


def _merge_sources(raw: yaml.Node, place: Place) -> list[yaml.Node]:
    """The mappings that `<<` refers to, in ascending order of precedence."""
    sources = raw.value[::-1] if isinstance(raw, yaml.SequenceNode) else [raw]
    if not all(isinstance(source, yaml.MappingNode) for source in sources):
        raise UserError("'<<' takes a mapping, or a list of them", remedy="Give it an alias such as *base", where=place)
    return sources


def _parents(extends: Node | None) -> Iterator[Node]:
    if extends is None:
        return
    for node in extends.value if isinstance(extends.value, list) else [extends]:
        if not isinstance(node.value, str):
            raise UserError("'extends' takes a file, or a list of files", where=node.where)
        yield node


def _text(path: Path, extended_at: Place | None) -> str:
    try:
        raw = contents(path, LARGEST)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}", remedy=_meant(path), where=extended_at) from error
    except Unreadable as error:
        raise UserError(f"{path} cannot be read: {error}", where=extended_at) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = Place(path, raw.count(b"\n", 0, error.start) + 1)
        raise UserError("the file is not UTF-8 text", remedy="Save it as UTF-8", where=where) from error


def _meant(path: Path) -> str:
    """What to do about a file that is not there: a name as in `harness list suites`, or a slip in one beside it."""
    if path.parent == Path() and (found := called(path.name)):
        return f"Did you mean {' or '.join(map(str, found))}"
    beside = [file.name for file in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    return nearest(path.name, beside) if beside else "Check the path"
