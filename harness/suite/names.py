"""Names of pairings, of swept components and of the suites made from others, and values in the notation of suites."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from harness.process.visible_text import visible

LONGEST = 80
"""The largest number of characters in a name."""

Only = str | Sequence[str] | None
"""Which pairings: "DEFENSE" or "DEFENSE/ATTACK", or several of these; None for all."""


def chosen(only: Sequence[str] | str) -> tuple[str, ...]:
    """The names of a choice that is not None."""
    return (only,) if isinstance(only, str) else tuple(only)


def spelt(value: Any) -> str:
    """A value in the notation of suites."""
    return visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def eot_suite(suite: str, defense: str, attack: str) -> str:
    """What the suite is called in which `harness eot` varies the draws of one pairing."""
    return shortened(re.sub(r"[^A-Za-z0-9_-]", "_", f"{suite}-eot-{defense}-{attack}"))


def shortened(name: str) -> str:
    """Shortens a name to the largest allowed length, by replacing its end with its hash."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 9]}-{short_hash(name)}"


def short_hash(text: str) -> str:
    """Eight characters that another text does not have."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]
