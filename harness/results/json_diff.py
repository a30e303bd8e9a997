"""The differences between two JSON values, leaf by leaf."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

LONGEST, HASH = 60, 8
"""The number of characters shown of a value, and of a hash."""


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """(path, old, new) of each leaf that differs, as text; a missing value is shown as "nothing"."""
    before, after = dict(_leaves(old, path)), dict(_leaves(new, path))
    for place in before | after:
        if before.get(place) != after.get(place):
            yield place, _short(place, before.get(place)), _short(place, after.get(place))


def describe(old: Any, new: Any) -> list[str]:
    """The differences as texts of the form `path: old -> new`."""
    return [f"{path}: {before} -> {after}" for path, before, after in differences(old, new)]


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _short(path: str, value: Any) -> str:
    text = "nothing" if value is None else str(value)
    if path.endswith("sha256"):
        return text[:HASH]
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
