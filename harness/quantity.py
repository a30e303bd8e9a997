"""Numbers that keep their notation: `8/255` is printed as `8/255`, and is 0.0313… in arithmetic."""

from __future__ import annotations

import math
import re
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_WRITTEN = re.compile(rf"\s*({_NUMBER})\s*(?:/\s*({_NUMBER})\s*)?")


TOLERANCE = 1e-6
"""The largest excess over a budget that float rounding can explain; anything above is a violation."""

LONGEST = 100
"""The largest number of characters in a number."""


class Quantity(float):
    """A finite float with its notation.

    Raises:
        ValueError: the text is neither a number nor a fraction of two numbers, or is not finite.

    Example:
        >>> eps = Quantity("8/255")
        >>> eps.text, 255 * eps
        ('8/255', 8.0)
    """

    text: str

    def __new__(cls, written: str | float) -> Quantity:
        try:
            value = _parse(written) if isinstance(written, str) else float(written)
        except OverflowError:  # an integer of more than 308 digits
            value = math.inf
        if not math.isfinite(value):
            raise ValueError(f"{written!r} is not a finite number")
        self = super().__new__(cls, value)
        self.text = written.text if isinstance(written, Quantity) else str(written).replace(" ", "")
        return self

    def __str__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[type[Quantity], tuple[str]]:
        return Quantity, (self.text,)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _validate, serialization=core_schema.plain_serializer_function_ser_schema(lambda quantity: quantity.text)
        )


def _validate(written: Any) -> Quantity:
    if isinstance(written, bool) or not isinstance(written, str | int | float):
        raise ValueError(f"{written!r} is not a number or a fraction such as 8/255")
    return Quantity(written)


def _parse(text: str) -> float:
    match = _WRITTEN.fullmatch(text) if len(text) <= LONGEST else None
    if not match:
        raise ValueError(f"{text[:LONGEST]!r} is not a number or a fraction such as 8/255")
    above, below = float(match[1]), float(match[2] or 1)
    if not below:
        raise ValueError(f"{text!r} divides by zero")
    return above / below if math.isfinite(below) else math.nan
