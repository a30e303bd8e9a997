"""Suite -> results.

Running the same command again finishes the rest. A finished shard is never computed twice; one that is damaged, or that
holds errors, is computed anew. Stopping at any moment loses at most the shard in flight.

A defense or an attack that fails costs its own pairings: their images become errors, with the reason, and the others go
on.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from harness import datasets
from harness.callback import SILENT, Callback
from harness.checks import LOOKED_AT, Use, gates, misshapen, unlike_its_card
from harness.config.component import Component
from harness.datasets.batch import Images
from harness.defense import Defense
from harness.errors import Failed, UserError
from harness.evaluation import write_manifest
from harness.evaluation.pending import CellRun, Failure, failures, load_images, pending_work, refuse_loss
from harness.evaluation.shard import Job, answer, reason, unanswered, work
from harness.guard.contamination import Contamination, Guard
from harness.predict import Predictions
from harness.process import signals
from harness.results.environment import describe
from harness.results.record import Record
from harness.results.store import Damaged, Lock, ShardRange, Store
from harness.suite.build import build_defense, refuse_unsuitable
from harness.suite.plan import Plan
from harness.weights.checkpoint import checkpoints

PAIR = 2
"""Images that tell the shape of what a defense returns; with one, a row could be taken for a batch."""


@dataclass(frozen=True)
class Finished:
    """What a run came to. computed: shards that this session made; failures: pairings of which images are errors."""

    computed: int
    failures: list[Failure]


def run(
    plan: Plan, out: Path, device: torch.device, callback: Callback = SILENT, *, retry_errors: bool = True
) -> Finished:
    """Finishes a suite.

    Args:
        out: the results directory, made if absent.
        device: where defenses are evaluated; no number depends on it beyond float rounding.
        callback: is told how far the run is.
        retry_errors: compute shards anew that ended in errors.

    Raises:
        UserError: the suite, the results directory, a checkpoint or a gate forbids it. What was finished is kept.
    """
    store = Store(out)
    dataset, images = load_images(plan)
    if dataset.folders and dataset.folders.remark:
        callback.note(dataset.folders.remark)
    with store.locked() as lock:
        works = pending_work(plan, store, images, callback.note, retry_errors=retry_errors)
        write_manifest.refuse_another_suite(store, plan, works, images)
        if not any(w.missing for w in works) and store.manifest():
            write_manifest.close(store, plan, works, dataset, images)
            return Finished(0, failures(works))
        needed = [w for w in works if w.missing] if store.manifest() else works
        session = _Session(plan, works, needed, dataset, images, device, callback, lock)
        remarks = session.gate()
        facts = (session.defenses, remarks, dataset, images, describe(device))
        write_manifest.begin(store, plan, works, *facts)
        try:
            with callback.running(works):
                computed = sum(session.finish(w) for w in needed)
        finally:
            write_manifest.close(store, plan, works, dataset, images)
        refuse_loss(store, works)
        return Finished(computed, failures(works))


@dataclass
class _Session:
    """One process working on one plan. Defenses wait on the CPU; the one at work sits on the device.

    Args:
        works: every pairing of the plan; needed: those with something left to do.
    """

    plan: Plan
    works: list[CellRun]
    needed: list[CellRun]
    dataset: datasets.Dataset
    images: Images
    device: torch.device
    callback: Callback
    lock: Lock

    def __post_init__(self) -> None:
        self.clean: dict[tuple[str, ShardRange], Predictions | str] = {}
        self.defenses: dict[str, Defense] = {}
        self.broken: dict[str, str] = {}
        self.guard = Guard(self.images.x, self.images.y)
        for known in self.works:
            for bounds, records in known.shards.items():
                if records is not None and all(record.clean_votes for record in records):
                    self.clean[known.cell.defense.name, bounds] = _answers(records)
        for pending in self.needed:
            self._prepare(pending)

    def _prepare(self, pending: CellRun) -> None:
        """Builds what is needed and refuses what cannot work, before anything is attacked."""
        component = pending.cell.defense
        if component.name not in self.defenses and component.name not in self.broken:
            self._build(pending)
            self._mend(component.title)
        if component.name in self.broken:
            return
        defense, shape = self.defenses[component.name], tuple(self.images.x.shape[1:])
        refuse_unsuitable(pending.cell, pending.attack, defense, shape)

    def _build(self, pending: CellRun) -> None:
        """Builds the defense of a pairing, and tells what there is to know of its checkpoints."""
        component = pending.cell.defense
        if (defense := self._made(pending)) is None:
            return
        for checkpoint in checkpoints(component):
            for note in checkpoint.notes:
                self.callback.note(f"{component.name}: {checkpoint.ref}: {note}")
        self.defenses[component.name] = defense
        self.guard.add(component.name, defense)

    def _made(self, pending: CellRun) -> Defense | None:
        """A defense as it is used, or a note that it cannot be made."""
        component = pending.cell.defense
        try:
            with self.guard.watching(f"building {component.title}", others=True):
                return build_defense(component, self.dataset, identity=pending.parts[0])
        except Failed as error:
            self._give_up(component, error)
            return None

    def _give_up(self, component: Component, error: Failed) -> None:
        self.broken[component.name] = error.message
        self.guard.forget(component.name)
        self.callback.note(f"{error} Its pairings fail.")

    def _mend(self, culprit: str) -> None:
        """Makes anew what `culprit` changed, so that the other rows are what they would have been without it."""
        self.guard.refuse_other_images(culprit)
        users = {work.cell.defense.name: work for work in self.works}
        for name in sorted(self.guard.spoiled):
            del self.defenses[name]
            component, message = users[name].cell.defense, ""
            try:
                if (defense := self._made(users[name])) is None:
                    continue
                self.defenses[name] = defense
                same = self.guard.add(name, defense)
            except UserError as error:  # what it is built from has changed too
                same, message = False, f": {error.message}"
            if not same:
                message = f"{component.title} cannot be made again as it was before {culprit} changed it{message}"
                self._give_up(component, Failed(message, where=component.place))

    def gate(self) -> dict[str, list[str]]:
        """Looks at each defense before it is attacked. Returns remarks by defense, or stops, as the suite says.

        Raises:
            UserError: a defense does not return logits of the dataset's classes, whatever the suite says; or it failed
                a gate, and the suite says to stop.
        """
        policy = self.plan.suite.protocol.gates
        asked = {w.cell.defense.name: w for w in self.needed if w.cell.defense.name in self.defenses}
        for pending in asked.values():
            self._refuse_misshapen(pending)
        if policy == "off":
            return {}
        remarks = {name: self._remarks(w) for name, w in asked.items()}
        for name, found in remarks.items():
            if found and policy == "stop":
                raise UserError(
                    f"defense '{name}' failed a gate: {'; '.join(found)}",
                    remedy="Correct it, or set `protocol: {gates: mark}` to run it with its numbers marked",
                    where=self.plan.place("defenses", name),
                )
            for remark in found:
                self.callback.note(f"{name}: {remark}; its numbers will be marked")
        return remarks

    def _refuse_misshapen(self, pending: CellRun) -> None:
        """A defense whose answers are no logits, or of other classes, is a mistake of the suite: nothing is run."""
        component = pending.cell.defense
        defense = self.defenses[component.name].to(self.device)
        images, unfit = self._looked_at(PAIR), None
        with suppress(Contamination), self.guard.watching("answering", defense, others=True):  # its answers will tell
            unfit = misshapen(defense, images, self.dataset.disagreement)
        self._mend(component.title)
        if unfit:
            what, remedy = unfit
            raise UserError(f"defense '{component.name}': {what}", remedy=remedy, where=component.place)
        defense.cpu()

    def _looked_at(self, count: int) -> Tensor:
        """The first images, no more at once than the suite allows, (N, C, H, W)."""
        count = min(count, max(PAIR, self.plan.suite.protocol.batch_size))
        return self.images.take(slice(count)).x.to(self.device)

    def _remarks(self, pending: CellRun) -> list[str]:
        name, classes = pending.cell.defense.name, self.dataset.num_classes
        defense = self.defenses[name].to(self.device)
        attacks = [work.attack for work in self.works if work.cell.defense.name == name]
        use = Use.of(defense, attacks, len(self.images), classes, self.plan.suite.protocol.votes)
        found = []
        try:
            with self.guard.watching("answering", defense, others=True):
                found += gates(defense, self._looked_at(LOOKED_AT), use)
        except Contamination as error:
            found.append(f"contamination: {error.message}")
            self._mend(f"defense '{name}'")
            defense = self.defenses[name].to(self.device)
        if defense.expected_accuracy is not None and defense.expected_dataset == self.dataset.name:
            first = next(iter(pending.shards))
            clean = self._clean(pending, first)
            if isinstance(clean, Predictions):
                right = clean.votes == self.images.take(slice(*first)).y
                found += unlike_its_card(right.float().mean().item(), right.shape[1], defense.expected_accuracy)
        defense.cpu()
        return found

    def finish(self, pending: CellRun) -> int:
        """Computes the missing shards of a pairing, and returns how many there were."""
        missing = pending.missing
        self.callback.began(pending)
        for bounds in missing:
            records, tensors = self._shard(pending, bounds)
            signals.refuse_to_go_on()  # a defense may have caught the signal
            self.lock.check()
            pending.stored.write(*bounds, records, tensors)
            self.lock.check()
            pending.shards[bounds] = records
            self.callback.finished(pending, records)
        if defense := self.defenses.get(pending.cell.defense.name):
            defense.cpu()
        return len(missing)

    def _shard(self, pending: CellRun, bounds: ShardRange) -> tuple[list[Record], dict[str, Tensor]]:
        """The records and images of a shard."""
        images, protocol = self.images.take(slice(*bounds)).to(self.device), self.plan.suite.protocol
        clean = self.broken.get(pending.cell.defense.name) or self._clean(pending, bounds)
        if isinstance(clean, str):
            return unanswered(images, pending.seeds, clean)
        job = Job(
            self.defenses[pending.cell.defense.name].to(self.device),
            pending.attack,
            images,
            pending.seeds,
            clean,
            protocol.votes,
            protocol.batch_size,
            partial(self.callback.watch, pending),
            *self._given(pending, bounds),
            self.guard,
        )
        done = work(job)
        self._mend(pending.name)
        return done

    def _given(self, pending: CellRun, bounds: ShardRange) -> tuple[Tensor | None, dict[int, str]]:
        """The images that the attack takes from another pairing, and by row why there is none where that failed."""
        if pending.source is None:
            return None, {}
        folder = pending.source.folder
        name = f"{folder.parent.name}/{folder.name}"
        try:
            records = pending.source.read(*bounds)
        except Damaged as damage:
            raise UserError(f"{pending.name} takes its images from {name}: {damage}") from damage
        if records is None:
            raise UserError(
                f"{pending.name} takes its images from {name}, of which {bounds[0]} to {bounds[1] - 1} are not done",
                remedy=f"Run {name} first",
                where=pending.cell.attack.place,
            )
        errors = {
            row: f"{name}, which has its image, failed: {record.error}"
            for row, record in enumerate(records)
            if record.verdict == "error"
        }
        return pending.source.images(*bounds)["images"].to(self.device), errors

    def _clean(self, pending: CellRun, bounds: ShardRange) -> Predictions | str:
        """Predictions on clean images, or why there are none: once per defense and shard, whatever the attacks."""
        name, protocol = pending.cell.defense.name, self.plan.suite.protocol
        if (name, bounds) not in self.clean:
            images = self.images.take(slice(*bounds)).to(self.device)
            defense = self.defenses[name].to(self.device)
            try:
                answers = answer(defense, images, pending.seeds, protocol.votes, protocol.batch_size, self.guard)
            except Exception as error:  # whatever a defense raises is an outcome of its own
                self.clean[name, bounds] = (
                    f"the defense fails on clean images: {reason(error)}. `harness check` looks at it alone"
                )
            else:
                self.clean[name, bounds] = answers
            self._mend(f"defense '{name}'")
        return self.clean[name, bounds]


def _answers(records: list[Record]) -> Predictions:
    votes = torch.tensor([record.clean_votes for record in records]).T
    return Predictions(votes, torch.tensor([record.clean_margins for record in records]).T)
