"""Names that a shell can complete. None of it imports torch, and a mistake in a suite completes to nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SUITES = (".yaml", ".yml")
"""How the names of suites end."""

LINES = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")
"""The variables in which a shell passes the line that is to be completed: bash, and zsh or fish."""


def components() -> list[str]:
    """The built-in and installed defenses and attacks, for `harness check`."""
    from harness.config.registry import entries

    return [entry.name for kind in ("defenses", "attacks") for entry in entries(kind)]


def pairings() -> list[str]:
    """The defenses and pairings of the suite that the command line names so far, for `--only`."""
    words = next((os.environ[name] for name in LINES if name in os.environ), "").split()
    return list(_pairings(next((Path(word) for word in words if word.endswith(SUITES)), None)))


def _pairings(suite: Path | None) -> Iterator[str]:
    from harness.config import yaml_file
    from harness.errors import UserError

    with suppress(UserError):
        content = yaml_file.read(suite).data if suite else {}
        kinds = (content.get(kind) for kind in ("defenses", "attacks"))
        defenses, attacks = (names if isinstance(names, dict) else {} for names in kinds)
        for defense in defenses:
            yield defense
            yield from (f"{defense}/{attack}" for attack in attacks)
