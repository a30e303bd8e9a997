"""Tensors that never change, on every device that asks for them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import fields
from typing import Any, TypeVar

_T = TypeVar("_T")


class Constants:
    """Base of dataclasses of tensors that never change. What is made of them once, such as a copy on a GPU, is kept.

    A copy made at each use would make the host wait for the device each time. The copies are no part of what the object
    is: they are left out where it is compared, pickled or hashed.
    """

    def kept(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """What `make` gave when it was first asked for under this key."""
        copies: dict[Hashable, _T] = self.__dict__.setdefault("_copies", {})
        if key not in copies:
            copies[key] = make()
        return copies[key]

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
