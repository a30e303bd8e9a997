"""A defense or an attack that was given as an object in Python, where a suite would describe one."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from harness.config.component import Component
from harness.config.yaml_file import Node
from harness.errors import Place, UserError, one_line

PREFIX = "Python object "
"""How the type of such a component begins in records. No name that a suite can write begins so."""


@dataclass(frozen=True)
class Given(Component):
    """An object in the place of an entry. It has no arguments: its code and its state are what it is.

    Args:
        instance: the object, which is never used itself: every `build` copies it, so that a run leaves it as it was.
    """

    instance: Any = field(repr=False)

    @classmethod
    def of(cls, kind: str, name: str, instance: Any, title: str, place: Place) -> Given:
        """The component of an object.

        Args:
            kind: "defenses" or "attacks".
            name: what the run calls it.
            title: what reports call it, and the name of its class or function in records.
            place: the line that it was given in.
        """
        return cls(kind, name, f"{PREFIX}{title}", type(instance), {}, None, place, Node.of({}, place), instance)

    def build(self) -> Any:
        """A copy of the object, on the CPU.

        Raises:
            UserError: it cannot be copied.
        """
        try:
            built = copy.deepcopy(self.instance)
        except Exception as error:  # whatever the object holds decides what copying it raises
            raise UserError(
                f"{self.title} cannot be copied: {one_line(error)}",
                remedy="Remove what it keeps from earlier calls, such as tensors with a gradient, open files or locks",
                where=self.place,
            ) from error
        return built.cpu() if isinstance(built, nn.Module) else built


def is_given(written: str) -> bool:
    """Whether a type in a record stands for an object that was given in Python, which nothing can build again."""
    return written.startswith(PREFIX)
