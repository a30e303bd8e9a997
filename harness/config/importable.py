"""An argument of a defense or an attack that names code: a function, a class or an object in a module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema
from typing_extensions import Self

from harness.config import registry
from harness.guard.contamination import settings_kept


class Importable:
    """`package.module:name`, or `./file.py:name` with the file relative to the suite.

    As an annotation of a constructor's argument it accepts such a text from a suite, and imports the named object at
    once, so that a wrong name is reported with the line of the suite. The sources of the user's code are part of a
    result's identity. As with all code from outside this package, `harness verify` imports it only with `--trust`.

    Args:
        written: the text.
        base: the folder that a file is relative to; by default the current folder.

    Example:
        >>> Importable("math:sqrt").load()(9)
        3.0
    """

    def __init__(self, written: str, base: Path | None = None) -> None:
        self.written, self.base = written, base

    @property
    def module(self) -> str:
        """The part before the colon: a module or a file."""
        return self.written.rpartition(":")[0]

    @property
    def attribute(self) -> str:
        """The part after the colon: a name in the module."""
        return self.written.rpartition(":")[2]

    def load(self) -> Any:
        """Imports what the text names.

        Raises:
            UserError: it does not exist, or cannot be imported.
        """
        with settings_kept(f"importing '{self.written}'"):
            return registry.imported(self.written, self.base)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.written!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            cls._validate, serialization=core_schema.plain_serializer_function_ser_schema(lambda found: found.written)
        )

    @classmethod
    def _validate(cls, written: Any, info: core_schema.ValidationInfo) -> Self:
        if not isinstance(written, str):
            raise ValueError("it must be text such as package.module:name or ./file.py:name")
        found = cls(written, (info.context or {}).get("base"))
        found.load()
        return found
