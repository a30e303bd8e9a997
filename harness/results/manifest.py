"""The model of `run.json`, with a limit on the size of every part. The file is written and read through it only.

fields      each has a type and a largest size, because a file from someone else may contain anything
agreement   values that appear twice must agree: images, shards, names
seal        a sha256 of the whole content. It detects accidental edits; an attacker can recompute it
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from harness.errors import Place, UserError
from harness.results.facts import (
    DISAGREES,
    AttackFacts,
    CellFacts,
    DatasetFacts,
    DefenseFacts,
    Facts,
    Hash,
    ProtocolFacts,
    Recorded,
    ReportFacts,
    Resolved,
    SessionFacts,
    Short,
    SweepFacts,
    Text,
)
from harness.results.record import SCHEMA_VERSION
from harness.results.store import KEPT_IMAGES, MANIFEST, Store
from harness.suite.limits import MOST_CELLS, MOST_PLACES
from harness.suite.schema import Name


class Contradiction(UserError):
    """Two parts of a manifest contradict each other."""


class Manifest(Facts):
    """The content of `run.json`. settings: values set from outside the suite's file, see `harness.suite.overrides`."""

    schema_version: int
    harness: Short
    suite: Name
    title: Text | None = None
    dataset: DatasetFacts
    protocol: ProtocolFacts
    report: ReportFacts = ReportFacts()
    defenses: Annotated[dict[Name, DefenseFacts], Field(max_length=MOST_CELLS)]
    attacks: Annotated[dict[Name, AttackFacts], Field(max_length=MOST_CELLS)]
    certificates: dict[Name, AttackFacts] = Field({}, max_length=MOST_CELLS)
    cells: Annotated[tuple[CellFacts, ...], Field(max_length=MOST_CELLS)]
    sweeps: Annotated[tuple[SweepFacts, ...], Field(max_length=1_000)] = ()
    settings: Annotated[tuple[Text, ...], Field(max_length=1_000)] = ()
    sessions: Annotated[tuple[SessionFacts, ...], Field(max_length=10_000)] = ()
    resolved: Resolved
    contents: Recorded = Recorded()
    seal: Hash | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Manifest:
        if fault := next(_disagreements(self), None):
            raise PydanticCustomError(DISAGREES, "{fault}", {"fault": fault})
        return self

    def data_path(self, root: Path, folder: Path) -> Path | None:
        """The path of the attacked dataset; None for a dataset that is found by its name.

        Args:
            root: the results directory.
            folder: the folder that the suite's relative paths refer to.
        """
        written = self.resolved.dataset.get("path")
        if self.dataset.kept:
            return root / KEPT_IMAGES
        return folder / written if isinstance(written, str) else None

    def document(self) -> dict[str, Any]:
        """The content for `run.json`, without values that were not set."""
        return self.model_dump(mode="json", exclude_unset=True)

    def hash(self) -> str:
        """The seal that matches the content."""
        content = {key: value for key, value in self.document().items() if key != "seal"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def edited(self) -> bool:
        """Whether the manifest was changed after it was written."""
        return self.seal is not None and self.seal != self.hash()


def find_manifest(store: Store) -> Manifest | None:
    """Reads the manifest of a store; None if no run has begun.

    Raises:
        Contradiction: two parts of it contradict each other.
        UserError: a part is missing or not valid.
    """
    raw = store.manifest()
    if raw is None:
        return None
    try:
        return _validated(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))[:200]
        kind = Contradiction if first["type"] == DISAGREES else UserError
        raise kind(
            f"'{place}' of this manifest: {_reason(first['msg'])}" if place else f"this manifest: {first['msg']}",
            remedy="It was edited, or another version of the harness wrote it; run the suite into a new directory",
            where=Place(store.root / MANIFEST),
        ) from error


def read_manifest(store: Store) -> Manifest:
    """Reads the manifest of a store. Raises the errors of `find_manifest`, and UserError if there is none."""
    manifest = find_manifest(store)
    if manifest is None:
        raise UserError(
            "this directory has no manifest: no run has begun in it",
            remedy="Start one with `harness run SUITE`, or give the directory of a run, such as results/SUITE",
            where=Place(store.root / MANIFEST),
        )
    return manifest


def write_manifest(store: Store, content: dict[str, Any]) -> None:
    """Writes a manifest with its seal.

    Raises:
        UserError: it exceeds the limits of a manifest, or cannot be written.
    """
    try:
        manifest = _validated({**content, "schema_version": SCHEMA_VERSION})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise UserError(
            f"these results do not fit into {MANIFEST}: '{'.'.join(map(str, first['loc']))}', {_reason(first['msg'])}",
            remedy="Split the suite into smaller ones",
        ) from error
    store.write_manifest({**manifest.document(), "seal": manifest.hash()})


def _validated(content: dict[str, Any]) -> Manifest:
    """Validates content as strict JSON: a list becomes a tuple, but "3" is not 3, and true is not 1."""
    return Manifest.model_validate_json(json.dumps(content), strict=True)


def _reason(text: str) -> str:
    return text[:1].lower() + text[1:]


def _disagreements(manifest: Manifest) -> Iterator[str]:
    """Lists the contradictions between parts of a manifest."""
    dataset, protocol, resolved = manifest.dataset, manifest.protocol, manifest.resolved
    if dataset.count != len(dataset.indices):
        yield f"the dataset has {dataset.count} images, and {len(dataset.indices)} indices"
    if len(set(dataset.indices)) < len(dataset.indices):
        yield "the dataset has an image twice"
    if len(manifest.defenses) * max(1, len(manifest.attacks)) > MOST_PLACES:
        yield f"the table would have more than {MOST_PLACES} places"
    pairs = Counter(cell.name for cell in manifest.cells)
    if pairs and (most := pairs.most_common(1)[0])[1] > 1:
        yield f"the pairing {most[0]} appears twice"
    for cell in manifest.cells:
        if cell.defense not in manifest.defenses:
            yield f"the pairing {cell.name} has a defense that is not among 'defenses'"
            continue
        if cell.certificate and manifest.defenses[cell.defense].smoothing_sigma is None:
            yield f"the pairing {cell.name} is a certificate of a defense that is not smoothed"
        if cell.count != dataset.count:
            yield f"the pairing {cell.name} has {cell.count} images, the dataset {dataset.count}"
        if cell.shard != protocol.shard:
            yield f"the pairing {cell.name} has shards of {cell.shard} images, the protocol {protocol.shard}"
        if cell.records is not None and len(cell.records) != cell.shards:
            yield f"the pairing {cell.name} has {cell.shards} shards, and {len(cell.records)} hashes"
    if resolved.suite != manifest.suite:
        yield f"the suite is '{manifest.suite}', and '{resolved.suite}' as resolved"
    for name in ("votes", "seed", "shard"):
        if resolved.protocol.get(name) != (value := getattr(protocol, name)):
            yield f"the protocol's {name} is {value}, and {str(resolved.protocol.get(name))[:60]} as resolved"
    for key, value in (("name", dataset.name), ("split", dataset.split)):
        if resolved.dataset.get(key) != value:
            yield f"the dataset's {key} is '{value}', and {str(resolved.dataset.get(key))[:60]!r} as resolved"
    for name, facts in manifest.defenses.items():
        part = resolved.defenses.get(name)
        if part and facts.type is not None and facts.type != part.type:
            yield f"the type of defense '{name}' is '{facts.type}', and '{part.type}' as resolved"
