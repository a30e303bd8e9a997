"""Parameters of a constructor from a suite's view: names, annotations, and which ones are entries of their own."""

from __future__ import annotations

import inspect
import keyword
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from harness.config.introspect import in_suite
from harness.errors import Place, UserError, one_line

Class = type[Any]


@dataclass(frozen=True)
class Inner:
    """Marks an argument of a constructor as an entry of its own. kind: "defenses" or "attacks"."""

    kind: str


def parameters(cls: Class) -> dict[str, inspect.Parameter]:
    """The arguments of the constructor that can be given by name. `from_` in Python is called `from` in a suite."""
    signature = inspect.signature(cls.__init__)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {in_suite(name): given for name, given in list(signature.parameters.items())[1:] if given.kind in named}


def entries_inside(hint: Any) -> tuple[str | None, bool]:
    """The kind of entry that an argument takes (None if it takes none), and whether it takes a list of entries.

    Args:
        hint: the annotation of the argument, such as `InnerDefense`, `InnerDefense | None` or `list[InnerAttack]`.
    """
    marks = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Inner)]
    if marks:
        return marks[0].kind, False
    for part in get_args(hint) if get_origin(hint) in (list, Union, UnionType) else ():
        kind, many = entries_inside(part)
        if kind:
            return kind, many or get_origin(hint) is list
    return None, False


def in_python(name: str) -> str:
    """The name of an argument in Python: `from_` for `from` in a suite."""
    return f"{name}_" if keyword.iskeyword(name) else name


def type_hints(cls: Class, title: str, place: Place) -> dict[str, Any]:
    """The annotations of a constructor. title, place: those of the entry that names the class, for messages.

    Raises:
        UserError: the annotations cannot be evaluated.
    """
    try:
        return get_type_hints(cls.__init__, include_extras=True)
    except Exception as error:
        raise UserError(
            f"the annotations of {cls.__name__}, the class of {title}, cannot be read: {one_line(error)}",
            remedy="Import what they name outside `if TYPE_CHECKING`",
            where=place,
        ) from error
