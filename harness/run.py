"""Suite -> results.

Running the same command again finishes the rest. A finished shard is never computed twice; one that is damaged, or that
holds errors, is computed anew. Stopping at any moment loses at most the shard in flight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from harness import datasets, manifest
from harness.check import gates
from harness.defense import Defense
from harness.environment import describe
from harness.errors import UserError, blame
from harness.judge import Answers
from harness.progress import Display
from harness.records import Record
from harness.shard import Images, Job, answer, work
from harness.store import Damaged, Store
from harness.suite import Plan
from harness.survey import Bounds, Work, load_images, survey

GATE_IMAGES = 8
SURPRISE = 4.0
"""Standard deviations between a card's clean accuracy and the measured one that chance does not explain."""


def run(plan: Plan, out: Path, device: torch.device, display: Display) -> int:
    """Finishes a suite, and returns the number of shards that it computed.

    Args:
        out: the results directory, made if absent.
        device: where defenses are evaluated; no number depends on it beyond float rounding.

    Raises:
        UserError: the suite, the results directory, a checkpoint or a gate forbids it. What was finished is kept.
    """
    store = Store(out)
    dataset, images = load_images(plan)
    if dataset.folders and dataset.folders.remark:
        display.note(dataset.folders.remark)
    with store.locked():
        works = survey(plan, store, images, display.note)
        manifest.refuse_another_suite(store, plan, works, images)
        if not any(w.missing for w in works) and (old := store.manifest()):
            store.write_manifest(manifest.presented(old, plan))
            return 0
        needed = [w for w in works if w.missing] if store.manifest() else works
        session = _Session(plan, works, needed, dataset, images, device, display)
        remarks = session.gate()
        facts = (session.defenses, remarks, dataset, images, describe(device))
        store.write_manifest(manifest.build(store, plan, works, *facts))
        with display.running(works):
            return sum(session.finish(w) for w in needed)


@dataclass
class _Session:
    """One process working on one plan. Defenses wait on the CPU; the one at work sits on the device.

    Args:
        works: every pairing of the plan; needed: those with something left to do.
    """

    plan: Plan
    works: list[Work]
    needed: list[Work]
    dataset: datasets.Dataset
    images: Images
    device: torch.device
    display: Display

    def __post_init__(self) -> None:
        self.clean: dict[tuple[str, Bounds], Answers] = {}
        self.defenses: dict[str, Defense] = {}
        for known in self.works:
            for bounds, records in known.shards.items():
                if records is not None:
                    self.clean[known.cell.defense.name, bounds] = _answers(records)
        for pending in self.needed:
            self._prepare(pending)

    def _prepare(self, pending: Work) -> None:
        """Builds what is needed and refuses what cannot work, before anything is attacked."""
        component = pending.cell.defense
        if component.name not in self.defenses:
            defense = component.build().eval().requires_grad_(False)
            self.dataset.refuse_classes_of(defense, component.title, component.place)
            self.defenses[component.name] = defense
        if reason := pending.attack.unsuitable(self.defenses[component.name]):
            raise UserError(
                f"attack '{pending.cell.attack.name}' does not fit defense '{component.name}': {reason}",
                remedy="Give this pairing another attack under `pairings`, or leave it out",
                where=pending.cell.attack.place,
            )

    def gate(self) -> dict[str, list[str]]:
        """Looks at each defense before it is attacked. Returns remarks by defense, or stops, as the suite says."""
        policy = self.plan.suite.protocol.gates
        if policy == "off":
            return {}
        remarks = {
            w.cell.defense.name: self._remarks(w) for w in {w.cell.defense.name: w for w in self.needed}.values()
        }
        for name, found in remarks.items():
            if found and policy == "stop":
                raise UserError(
                    f"defense '{name}' failed a gate: {'; '.join(found)}",
                    remedy="Mend it, or set `protocol: {gates: mark}` to run it with its numbers marked",
                    where=self.plan.place("defenses", name),
                )
            for remark in found:
                self.display.note(f"{name}: {remark}; its numbers will be marked")
        return remarks

    def _remarks(self, pending: Work) -> list[str]:
        name = pending.cell.defense.name
        defense = self.defenses[name].to(self.device)
        found = gates(defense, self.images.take(slice(GATE_IMAGES)).x.to(self.device))
        if defense.expected_accuracy is not None and defense.expected_dataset == self.dataset.name:
            first = next(iter(pending.shards))
            right = self._clean(pending, first).votes == self.images.take(slice(*first)).y
            found += _surprise(right.float().mean().item(), right.shape[1], defense.expected_accuracy)
        defense.cpu()
        return found

    def finish(self, pending: Work) -> int:
        """Computes the missing shards of a pairing, and returns how many there were."""
        missing = pending.missing
        self.display.began(pending)
        for bounds in missing:
            defense = self.defenses[pending.cell.defense.name].to(self.device)
            job = Job(
                defense,
                pending.attack,
                self.images.take(slice(*bounds)).to(self.device),
                pending.seeds,
                self._clean(pending, bounds),
                self.plan.suite.protocol.votes,
                self.plan.suite.protocol.batch_size,
                partial(self.display.watch, pending),
                self._given(pending, bounds),
            )
            records, tensors = work(job)
            pending.stored.write(*bounds, records, tensors)
            pending.shards[bounds] = records
            self.display.finished(pending, records)
        self.defenses[pending.cell.defense.name].cpu()
        return len(missing)

    def _given(self, pending: Work, bounds: Bounds) -> Tensor | None:
        """The images that the attack takes from another pairing, which must be there by now."""
        if pending.source is None:
            return None
        folder = pending.source.folder
        name = f"{folder.parent.name}/{folder.name}"
        try:
            records = pending.source.read(*bounds)
        except Damaged as damage:
            raise UserError(f"{pending.name} takes its images from {name}: {damage}") from damage
        if records is None or any(record.verdict == "error" for record in records):
            raise UserError(
                f"{pending.name} takes its images from {name}, of which {bounds[0]} to {bounds[1] - 1} are not done",
                remedy=f"Run {name} first",
                where=pending.cell.attack.place,
            )
        return pending.source.images(*bounds)["images"].to(self.device)

    def _clean(self, pending: Work, bounds: Bounds) -> Answers:
        """Answers on clean images: computed once per defense and shard, whatever the number of attacks."""
        name, protocol = pending.cell.defense.name, self.plan.suite.protocol
        if (name, bounds) not in self.clean:
            images = self.images.take(slice(*bounds)).to(self.device)
            defense = self.defenses[name].to(self.device)
            try:
                answers = answer(defense, images, pending.seeds, protocol.votes, protocol.batch_size)
            except Exception as error:
                raise UserError(
                    f"defense '{name}' fails on clean images: {blame(error)}",
                    remedy="Run `harness check` on it; what was finished is kept",
                    where=pending.cell.defense.place,
                ) from error
            self.clean[name, bounds] = answers
        return self.clean[name, bounds]


def _answers(records: list[Record]) -> Answers:
    votes = torch.tensor([record.clean_votes for record in records]).T
    return Answers(votes, torch.tensor([record.clean_margins for record in records]).T)


def _surprise(measured: float, count: int, expected: float) -> list[str]:
    spread = math.sqrt(max(expected * (1 - expected), 0.01) / count)
    if abs(measured - expected) <= SURPRISE * spread:
        return []
    return [f"clean accuracy is {measured:.1%} on {count} images where its card says {expected:.1%}"]
