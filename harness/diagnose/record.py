"""What a diagnosis leaves in a results directory: `diagnose/DEFENSE.json`, rewritten after every check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from harness.diagnose.finding import Finding
from harness.errors import Place, UserError
from harness.store import refuse_links, write_atomically
from harness.visible import all_visible

SCHEMA_VERSION = 1
FOLDER = "diagnose"


class Diagnosis(BaseModel):
    """The findings on one defense.

    Args:
        key: hash of all that decides them: defense, surrogate, images, settings.
        attack: of the suite, whose threat model and view of the defense were taken over.
        resolved: the defense's type and arguments, as the suite's manifest has them.
        settings: see `harness.diagnose.subject.Settings`.
        finished: every check was made.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: int = SCHEMA_VERSION
    harness: str
    key: str
    suite: str
    defense: str
    label: str | None
    attack: str
    threat: str
    surrogate: str | None
    images: int
    settings: dict[str, Any]
    resolved: dict[str, Any]
    finished: bool = False
    findings: tuple[Finding, ...] = ()


def path_of(root: Path, defense: str) -> Path:
    return root / FOLDER / f"{defense}.json"


def write(root: Path, diagnosis: Diagnosis) -> None:
    refuse_links(root)
    write_atomically(path_of(root, diagnosis.defense), diagnosis.model_dump_json(indent=1).encode())


def read(path: Path) -> Diagnosis | None:
    """What was written there, or None.

    Raises:
        UserError: the file cannot be read, or is no diagnosis of this version.
    """
    try:
        found = Diagnosis.model_validate(all_visible(json.loads(path.read_bytes())))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path) from error
    if found.schema_version != SCHEMA_VERSION:
        raise _unreadable(path)
    return found


def read_all(root: Path) -> list[Diagnosis]:
    """Those of a results directory, by name."""
    found = (read(path) for path in sorted((root / FOLDER).glob("*.json")))
    return [diagnosis for diagnosis in found if diagnosis]


def _unreadable(path: Path) -> UserError:
    return UserError(
        "this is not a diagnosis that this harness can read",
        remedy="Delete it, and run `harness diagnose` again",
        where=Place(path),
    )
