"""How many examples hypothesis tries: all of them in `make fuzz`, a third where every run has the same."""

from __future__ import annotations

import os


def examples(most: int) -> int:
    """The number of examples of a test that earns so many."""
    return most if os.environ.get("HYPOTHESIS_PROFILE") == "search" else most // 3
