"""What a suite asks for, beside what lies on disk: the shards still to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from harness import datasets
from harness.attack import Attack
from harness.datasets.batch import Images
from harness.datasets.by_name import class_labels, load_section, request_of
from harness.datasets.class_labels import ClassLabels
from harness.errors import UserError, nearest
from harness.evaluation.seeds import Seeds
from harness.results.columns import Columns, columns_of
from harness.results.record import Record
from harness.results.store import MANIFEST, CellStore, Damaged, ShardRange, Stale, Store, shard_ranges
from harness.suite.cell_key import Identities, Identity, RunSetting, refuse_unsteady
from harness.suite.plan import Cell, Plan


@dataclass(frozen=True)
class CellRun:
    """A pairing and its shards. shards: bounds -> records, or None where they are still to be made.

    again: shards that ended in errors, and are to be made again.
    parts: what the defense and the attack are.
    source: where the images lie that the attack is given, if it is given any.
    """

    cell: Cell
    attack: Attack
    parts: tuple[Identity, Identity]
    seeds: Seeds
    stored: CellStore
    shards: dict[ShardRange, Sequence[Record] | None]
    source: CellStore | None = None
    again: frozenset[ShardRange] = frozenset()

    @property
    def name(self) -> str:
        return f"{self.cell.defense.name}/{self.cell.attack.name}"

    @property
    def missing(self) -> list[ShardRange]:
        return [bounds for bounds, records in self.shards.items() if records is None]

    def compact(self) -> None:
        """Keeps the records of all shards that are done in one table: by themselves, small shards take several times
        the memory.
        """
        done = {bounds: len(records) for bounds, records in self.shards.items() if records}
        joined, at = self.records, 0
        for bounds, count in done.items():
            self.shards[bounds] = joined[at : at + count]
            at += count

    @property
    def records(self) -> Columns:
        """Of the shards that are done."""
        return Columns.joined(columns_of(shard) for shard in self.shards.values() if shard)


@dataclass(frozen=True)
class Failure:
    """A pairing of which images ended in errors. images: those done; reasons: why, each once, and how often."""

    name: str
    errors: int
    images: int
    reasons: dict[str, int]


def failures(cell_runs: Iterable[CellRun]) -> list[Failure]:
    """The pairings that have errors."""
    failed = []
    for cell_run in cell_runs:
        records = cell_run.records
        if reasons := records.error_counts():
            failed.append(Failure(cell_run.name, sum(reasons.values()), len(records), reasons))
    return failed


def refuse_loss(store: Store, cell_runs: Iterable[CellRun]) -> None:
    """Raises UserError where something that was finished is no longer there."""
    done = [(run, [b for b, records in run.shards.items() if records is not None]) for run in cell_runs]
    shards = [path for run, bounds in done for path in run.stored.paths(bounds)]
    paths = [store.root / MANIFEST, *shards]
    gone = [path for path in paths if not path.exists()]
    if gone:
        more = f" and {len(gone) - 1} more files" if len(gone) > 1 else ""
        raise UserError(
            f"{gone[0]}{more} of this run were deleted while it went on",
            remedy="Run the same command again: it makes what is missing",
        )


def load_images(plan: Plan) -> tuple[datasets.Dataset, Images]:
    """The suite's images, as part of their dataset and with their indices.

    Raises:
        UserError: the dataset is not there, or does not have those images.
    """
    spec = plan.suite.dataset
    try:
        dataset = load_section(spec, plan.dataset_base(), spec.choose)
    except UserError as error:
        raise error.at(plan.place("dataset")) from error
    index = torch.as_tensor(spec.choose(dataset.whole.size), dtype=torch.int64)
    return dataset, Images(index, dataset.images, dataset.labels)


def load_labels(plan: Plan) -> ClassLabels | None:
    """The labels of the suite's class folders, if it has such; opens no image. Raises as `load_images` does."""
    spec = plan.suite.dataset
    try:
        return class_labels(spec.name, request_of(spec), plan.dataset_base())
    except UserError as error:
        raise error.at(plan.place("dataset")) from error


def pending_work(
    plan: Plan, store: Store, images: Images, note: Callable[[str], None], *, retry_errors: bool = True
) -> list[CellRun]:
    """Every pairing of the plan, those first that others take images from.

    Damaged shards count as missing, and `note` is given the reason; likewise shards with errors that are to be retried.

    Raises:
        UserError: an attack takes images from a pairing that the suite does not have, or the user's code cannot be
            built, or makes another thing each time.
    """
    protocol, known = plan.suite.protocol, Identities()
    setting = RunSetting.of(datasets.fingerprint(images.x, images.y), protocol)
    bounds = shard_ranges(len(images), protocol.shard)

    def stored(cell: Cell, attack: str) -> CellStore:
        return store.cell(cell.defense.name, cell.attack.name, setting.key(known.key(cell.defense), attack))

    cell_runs = []
    for cell in plan.cells:
        attack, identity, source = cell.attack.build(), known.key(cell.attack), None
        refuse_unsteady(cell.attack, known.of(cell.attack), attack)
        if attack.source:
            origin = _source(plan, cell, attack)
            source = stored(origin, known.key(origin.attack))
            identity = setting.given(identity, source.key)
        folder = stored(cell, identity)
        seeds = Seeds(protocol.seed, known.key(cell.defense), identity)
        parts = known.of(cell.defense), known.of(cell.attack)
        found = {b: _read(folder, b, note) for b in bounds}
        failed = [b for b, records in found.items() if retry_errors and records is not None and records.failed.any()]
        for b in failed:
            note(f"{_named(folder, b)}: ended in errors; trying them again")
        shards: dict[ShardRange, Sequence[Record] | None] = {**found, **dict.fromkeys(failed)}
        cell_runs.append(CellRun(cell, attack, parts, seeds, folder, shards, source, frozenset(failed)))
        cell_runs[-1].compact()
    return sorted(cell_runs, key=lambda cell_run: cell_run.source is not None)


def _source(plan: Plan, cell: Cell, attack: Attack) -> Cell:
    """The pairing that an attack takes its images from."""
    wanted = attack.source or ("", "")
    known = {(other.defense.name, other.attack.name): other for other in plan.all_cells}
    where, title = cell.attack.place, cell.attack.title
    if wanted not in known:
        raise UserError(
            f"{title} takes its images from {'/'.join(wanted)}, which the suite does not pair",
            remedy=nearest("/".join(wanted), ["/".join(pair) for pair in known]),
            where=where,
        )
    origin: Attack = known[wanted].attack.build()
    if origin.source:
        raise UserError(f"{title} takes its images from {'/'.join(wanted)}, which has none of its own", where=where)
    if origin.threat != attack.threat:
        raise UserError(
            f"{title} has the budget {attack.threat}, the images of {'/'.join(wanted)} have {origin.threat}",
            remedy="Give both the same",
            where=where,
        )
    return known[wanted]


def _named(stored: CellStore, bounds: ShardRange) -> str:
    return f"{stored.folder.parent.name}/{stored.folder.name}, images {bounds[0]} to {bounds[1] - 1}"


def _read(stored: CellStore, bounds: ShardRange, note: Callable[[str], None]) -> Columns | None:
    try:
        return stored.read(*bounds)
    except Stale as stale:
        note(f"{_named(stored, bounds)}: {stale}")  # whether it may be replaced, the manifest decides
    except Damaged as damage:
        note(f"{_named(stored, bounds)}: {damage}; computing them again")
    return None
