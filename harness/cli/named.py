"""Names that a shell can complete. None of it imports torch, and a mistake in a suite completes to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer


def components() -> list[str]:
    """The built-in and installed defenses and attacks, for `harness check`."""
    from harness.config.registry import entries

    return [entry.name for kind in ("defenses", "attacks") for entry in entries(kind)]


def pairings_of(context: typer.Context) -> list[str]:
    """The defenses and pairings of the suite that the command line names so far, for `--only`."""
    return list(_pairings(context.params.get("suite")))


def _pairings(suite: Any) -> Iterator[str]:
    from harness.config import yaml_file
    from harness.errors import UserError

    with suppress(UserError):
        content = yaml_file.read(Path(suite)).data if suite else {}
        defenses, attacks = (names if isinstance(names := content.get(kind), dict) else {} for kind in KINDS)
        for defense in defenses:
            yield defense
            yield from (f"{defense}/{attack}" for attack in attacks)


KINDS = ("defenses", "attacks")
