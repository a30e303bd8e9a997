"""Tensors that never change, with a copy on every device that uses them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import fields
from typing import Any, TypeVar

_T = TypeVar("_T")


class Constants:
    """Base of dataclasses of tensors that never change. What is derived from them, such as a copy on a GPU, is kept.

    A copy made at each use would make the host wait for the device each time. The copies are not part of the object:
    they are left out where it is compared, pickled or hashed.
    """

    def kept(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """The result of `make` when it was first called under this key."""
        copies: dict[Hashable, _T] = self.__dict__.setdefault("_copies", {})
        if key not in copies:
            copies[key] = make()
        return copies[key]

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
