"""Escapes hidden characters in untrusted text, such as control sequences of terminals, in the notation of Python.

ESC [31m  ->  \\x1b[31m        a line break  ->  \\n        a right-to-left override  ->  \\u202e
"""

from __future__ import annotations

import unicodedata
from typing import Any

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of control, format and surrogate characters, and of line and paragraph separators."""

JOINERS = "\u200c\u200d"
"""Format characters that several scripts need within words."""


def is_hidden(character: str) -> bool:
    """Whether a reader would not see the character as it is."""
    return unicodedata.category(character) in HIDDEN and character not in JOINERS


def visible(text: str, keep: str = "") -> str:
    """The text with every hidden character escaped, except for those in `keep`."""
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode() if is_hidden(character) and character not in keep else character
        for character in text
    )


def all_visible(value: Any) -> Any:
    """JSON data with the hidden characters escaped in all texts, keys included."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {all_visible(key): all_visible(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [all_visible(item) for item in value]
    return value
