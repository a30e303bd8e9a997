"""What a suite asks for, beside what lies on disk: the shards still to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from harness import datasets
from harness.attack import Attack
from harness.errors import UserError
from harness.identity import cell_key, component_hash
from harness.records import Record
from harness.shard import Images, Seeds
from harness.store import Cell as StoredCell
from harness.store import Damaged, Store
from harness.suite import Cell, Plan

Bounds = tuple[int, int]
"""A contiguous range of the suite's images, [start, stop)."""


@dataclass(frozen=True)
class Work:
    """A pairing and its shards. shards: bounds -> records, or None where they are still to be made."""

    cell: Cell
    attack: Attack
    seeds: Seeds
    stored: StoredCell
    shards: dict[Bounds, list[Record] | None]

    @property
    def name(self) -> str:
        return f"{self.cell.defense.name}/{self.cell.attack.name}"

    @property
    def missing(self) -> list[Bounds]:
        return [bounds for bounds, records in self.shards.items() if records is None]


def load_images(plan: Plan) -> tuple[datasets.Dataset, Images]:
    """The suite's images, and the dataset that they come from.

    Raises:
        UserError: the dataset is not there, or does not have those images.
    """
    spec = plan.suite.dataset
    try:
        dataset = datasets.load(spec.name, spec.split, path=spec.path)
        index = torch.as_tensor(spec.choose(len(dataset.images)), dtype=torch.int64)
    except UserError as error:
        raise error.at(plan.place("dataset")) from error
    return dataset, Images(index, dataset.images[index], dataset.labels[index])


def survey(plan: Plan, store: Store, images: Images, note: Callable[[str], None]) -> list[Work]:
    """Every pairing of the plan. Damaged shards and shards with errors count as missing, and are told to `note`."""
    protocol = plan.suite.protocol
    claims = {"votes": protocol.votes, "seed": protocol.seed, "shard": protocol.shard}
    fingerprint = datasets.fingerprint(images.x, images.y)
    bounds = [(start, min(start + protocol.shard, len(images))) for start in range(0, len(images), protocol.shard)]
    works = []
    for cell in plan.cells:
        defense, attack = component_hash(cell.defense), component_hash(cell.attack)
        stored = store.cell(cell.defense.name, cell.attack.name, cell_key(defense, attack, fingerprint, claims))
        seeds = Seeds(protocol.seed, defense, attack)
        works.append(Work(cell, cell.attack.build(), seeds, stored, {b: _read(stored, b, note) for b in bounds}))
    return works


def _read(stored: StoredCell, bounds: Bounds, note: Callable[[str], None]) -> list[Record] | None:
    name = f"{stored.folder.parent.name}/{stored.folder.name}, images {bounds[0]} to {bounds[1] - 1}"
    try:
        records = stored.read(*bounds)
    except Damaged as damage:
        note(f"{name}: {damage}; computing them again")
        return None
    if records and any(record.verdict == "error" for record in records):
        note(f"{name}: ended in errors; trying them again")
        return None
    return records
