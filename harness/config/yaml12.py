"""Parses YAML to PyYAML's node graph, with scalars as in YAML 1.2's core schema and a line number for every error."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from harness.errors import Place, UserError
from harness.guard.untrusted import INT64

_PATTERNS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


DIGITS = 30
"""The largest number of characters in a whole number."""


def tag(name: str) -> str:
    return f"tag:yaml.org,2002:{name}"


class _Loader(yaml.SafeLoader):
    """Builds the node graph without constructing Python objects."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        None: [(tag(name), re.compile(rf"^(?:{pattern})$")) for name, pattern in _PATTERNS.items()],
        "<": [(tag("merge"), re.compile("^<<$"))],
    }


def compose(text: str, path: Path) -> yaml.Node:
    """Parses one document to its node graph.

    Raises:
        UserError: the text is empty, or not YAML.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        tabs = "'\\t'" in problem
        remedy = "Indent with spaces" if tabs else "Check the indentation, colons, brackets and quotes in that line"
        where = Place(path, mark.line + 1 if mark else None)
        raise UserError(f"this is not YAML: {problem}", remedy=remedy, where=where) from error
    except yaml.reader.ReaderError as error:
        where = Place(path, text.count("\n", 0, error.position) + 1)
        raise UserError(f"the character {text[error.position]!r} is not allowed in YAML", where=where) from error
    except (ValueError, OverflowError, RecursionError) as error:
        remedy = "Look for impossible escapes in quotes, or very deep nesting"
        raise UserError(f"this is not YAML: {error}", remedy=remedy, where=Place(path)) from error
    if node is None:
        raise UserError("the file is empty", where=Place(path))
    return node


def scalar(raw: yaml.Node, place: Place) -> Any:
    """The value of a leaf: None, bool, int, finite float or str.

    Raises:
        UserError: a tag of another type, an invalid number, or text that is not Unicode.
    """
    kind, text = raw.tag.removeprefix(tag("")), raw.value
    if kind not in (*_PATTERNS, "str", "merge") or not isinstance(text, str):
        raise UserError(f"the tag '{raw.tag}' is not supported", remedy="Remove it", where=place)
    try:
        text.encode()
        return _value(kind, text)
    except ValueError as error:
        raise UserError(f"{text[:60]!r} cannot be read: {error}", where=place) from error


def _value(kind: str, text: str) -> Any:
    if kind not in _PATTERNS:
        return text
    if not re.fullmatch(_PATTERNS[kind], text):
        raise ValueError(f"it is not a value of type {kind}")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return _whole(text)
    number = float(text.replace(".", "", 1) if text[-1].isalpha() else text)
    if not math.isfinite(number):
        raise ValueError("it is not a finite number")
    return number


def _whole(text: str) -> int:
    if len(text) > DIGITS or not -INT64 <= (value := int(text, 0 if text[:2] in ("0x", "0o") else 10)) < INT64:
        raise ValueError("it has more than 64 bits")
    return value


def key_of(raw: yaml.Node, place: Place) -> str:
    """The text of a key.

    Raises:
        UserError: it is a number, null, a list or a mapping.
    """
    if not isinstance(raw, yaml.ScalarNode):
        raise UserError("a key must be text, not a list or mapping", where=place)
    key = scalar(raw, place)
    if not isinstance(key, str):
        raise UserError(f"the key {raw.value!r} is not text", remedy="Write it in quotes", where=place)
    return key


def line_of(raw: yaml.Node, path: Path) -> Place:
    return Place(path, raw.start_mark.line + 1)
