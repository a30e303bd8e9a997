"""Files of users, as tests lay them beside a suite. Each is code of its own: no test imports it from here."""

from __future__ import annotations

from pathlib import Path


def source(name: str) -> str:
    """What the file `name`.py of this folder holds."""
    return Path(__file__).with_name(f"{name}.py").read_text()
