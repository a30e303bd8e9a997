"""What a manifest claims: which images, which defenses and attacks, under which protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from harness import datasets
from harness.environment import PACKAGES, device_name, installed_version
from harness.errors import UserError, nearest
from harness.report.facts import CellFacts, read_as
from harness.shard import Images
from harness.store import Store


class _Claim(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class DatasetClaim(_Claim):
    name: str
    split: Literal["train", "test"]
    indices: tuple[int, ...] = Field(min_length=1)
    fingerprint: str
    labels: dict[str, int] | None = None


class ProtocolClaim(_Claim):
    votes: int = Field(ge=1)
    seed: int
    shard: int = Field(ge=1)
    batch_size: int = Field(ge=1)


class Part(_Claim):
    """A defense or attack as the suite resolved it."""

    type: str
    arguments: dict[str, Any]


class Resolved(_Claim):
    """dataset: as the suite chose it. cells: the attack of each pairing, by `DEFENSE/ATTACK`."""

    dataset: dict[str, Any]
    defenses: dict[str, Part]
    cells: dict[str, Part]


class Claims(_Claim):
    harness: str
    dataset: DatasetClaim
    protocol: ProtocolClaim
    cells: tuple[CellFacts, ...]
    resolved: Resolved
    contents: dict[str, dict[str, dict[str, Any]]] = {}
    sessions: tuple[dict[str, Any], ...] = ()


class Mismatch(Exception):
    """Something here is not what the manifest speaks of; the message says what."""


def read_claims(store: Store) -> Claims:
    """What the store's manifest claims. Raises UserError as `harness.report.facts.read_as` does."""
    return read_as(Claims, store)


def images_of(claims: Claims, folder: Path) -> Images:
    """The clean images, from the dataset as it is here.

    Args:
        folder: where the suite's relative paths start.

    Raises:
        UserError: the dataset is not here.
        Mismatch: it is here, and another one.
    """
    claim, path = claims.dataset, claims.resolved.dataset.get("path")
    place = None if path is None else folder / path
    dataset = datasets.load(claim.name, claim.split, place, classes=claim.labels)
    chosen = dataset.select(claim.indices)
    found = datasets.fingerprint(chosen.images, chosen.labels)
    if found != claim.fingerprint:
        raise Mismatch(
            f"the images of '{claim.name}' are not those of the results: "
            f"fingerprint {found[:8]} here, {claim.fingerprint[:8]} in the manifest"
        )
    return Images(torch.tensor(claim.indices), chosen.images, chosen.labels)


def changed_environment(claims: Claims, device: torch.device) -> tuple[str, ...]:
    """Versions and hardware of the sessions that made the results, where they are others here."""
    here = {"device": device_name(device)} | {name: installed_version(name) for name in PACKAGES}
    told = []
    for name, now in here.items():
        then = {_fact(session, name) for session in claims.sessions} - {now}
        if then:
            told.append(f"{name}: {', '.join(sorted(map(str, then)))} when the results were made, {now} here")
    return tuple(told)


def _fact(session: dict[str, Any], name: str) -> Any:
    return session.get("device") if name == "device" else session.get("packages", {}).get(name)


def chosen_cells(claims: Claims, only: str | None) -> list[CellFacts]:
    """The pairings that "DEFENSE" or "DEFENSE/ATTACK" names, all of a defense's together.

    Raises:
        UserError: it names none.
    """
    order = list(dict.fromkeys(cell.defense for cell in claims.cells))
    cells = sorted(claims.cells, key=lambda cell: order.index(cell.defense))
    found = [cell for cell in cells if only in (None, cell.defense, f"{cell.defense}/{cell.attack}")]
    if only is not None and not found:
        names = [*order, *(f"{cell.defense}/{cell.attack}" for cell in cells)]
        raise UserError(f"these results have no pairing {only}", remedy=nearest(only, names))
    return found
