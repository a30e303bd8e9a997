"""The part of `run.json` that a report needs. Other keys are kept aside, untouched, in `Manifest.raw`."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import Place, UserError
from harness.report.statistics import Rule
from harness.store import MANIFEST, Store
from harness.visible import all_visible

Model = TypeVar("Model", bound=BaseModel)


class _Facts(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class DatasetFacts(_Facts):
    name: str
    split: str
    count: int = Field(ge=1)


class ProtocolFacts(_Facts):
    votes: int = Field(ge=1)
    seed: int


class ReportFacts(_Facts):
    """average, worst: attacks of those columns, which exist from two on. naive: attacks of a naive evaluation, see
    `harness.report.naive`. groups: headings, and the defenses below each. vote: the rule of the headline numbers.
    """

    average: tuple[str, ...] = ()
    worst: tuple[str, ...] = ()
    naive: tuple[str, ...] = ()
    groups: dict[str, tuple[str, ...]] = {}
    reference: str | None = None
    vote: Rule = "mean"


class DefenseFacts(_Facts):
    label: str | None = None
    stochastic: bool = False


class AttackFacts(_Facts):
    label: str | None = None
    threat: str | None = None


class SweepFacts(_Facts):
    """A swept component of the suite, see `harness.sweep.Sweep`. kind: "defenses" or "attacks"."""

    kind: Literal["defenses", "attacks"]
    name: str
    label: str
    paths: tuple[str, ...]
    variants: dict[str, tuple[Any, ...]]


class CellFacts(_Facts):
    """A pairing. method: how it was attacked, in a few words. flags: remarks of the gates."""

    defense: str
    attack: str
    key: str
    threat: str
    method: str
    count: int = Field(ge=1)
    shard: int = Field(ge=1)
    flags: tuple[str, ...] = ()


class Manifest(_Facts):
    suite: str
    title: str | None = None
    dataset: DatasetFacts
    protocol: ProtocolFacts
    report: ReportFacts = ReportFacts()
    defenses: dict[str, DefenseFacts]
    attacks: dict[str, AttackFacts]
    cells: tuple[CellFacts, ...]
    sweeps: tuple[SweepFacts, ...] = ()
    harness: str
    raw: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _keep(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {**all_visible(given), "raw": given}


def read_manifest(store: Store) -> Manifest:
    """What the store's manifest says. Raises UserError as `read_as` does."""
    return read_as(Manifest, store)


def read_as(model: type[Model], store: Store) -> Model:
    """What a model asks of the store's manifest.

    Raises:
        UserError: there is none, or it lacks something.
    """
    place = Place(store.root / MANIFEST)
    raw = store.manifest()
    if raw is None:
        remedy = "Start one with `harness run SUITE`, or give the directory of a run, such as results/SUITE"
        raise UserError("no run has begun here", remedy=remedy, where=place)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"'{'.'.join(map(str, first['loc']))}' of this manifest: {first['msg'].lower()}",
            remedy="It was edited, or another version of the harness wrote it; run the suite into a new directory",
            where=place,
        ) from error
