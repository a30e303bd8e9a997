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

    As an annotation of a constructor's argument it accepts such a text from a suite, and imports what the text names at
    once, so that a wrong name is an error with the suite's line. The sources of the user's code count in a result's
    identity. Like any code that does not come with this package it is imported by `harness verify` only with `--trust`.

    Args:
        written: the text.
        base: the folder that a file is relative to; the current one if left out.

    Example:
        >>> Importable("math:sqrt").load()(9)
        3.0
    """

    def __init__(self, written: str, base: Path | None = None) -> None:
        self.written, self.base = written, base

    @property
    def module(self) -> str:
        """The module or the file."""
        return self.written.rpartition(":")[0]

    @property
    def attribute(self) -> str:
        """The name in it."""
        return self.written.rpartition(":")[2]

    def load(self) -> Any:
        """What the text names.

        Raises:
            UserError: there is no such thing, or it cannot be imported.
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
