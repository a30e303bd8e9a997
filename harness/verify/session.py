"""All checks, cell by cell and shard by shard."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from harness.defense import Defense
from harness.errors import UserError, blame
from harness.identity import Identities
from harness.records import Record, vote
from harness.report.facts import CellFacts
from harness.shard import Images
from harness.store import Cell, Damaged, Store
from harness.survey import Bounds
from harness.threat import ThreatModel
from harness.verify.budget import faults, malformed, threat_of
from harness.verify.claims import Claims, Mismatch, changed_environment, chosen_cells, images_of, read_claims
from harness.verify.findings import Report
from harness.verify.rebuild import Rebuilt, rebuild
from harness.verify.replay import Answers, ask_again, compared


def verify(
    root: Path,
    device: torch.device,
    *,
    suite: Path | None = None,
    only: str | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    replay: bool = True,
) -> Iterator[Report]:
    """Examines a run, and gives the report of the cell at work after each of its shards, and at least once.

    Args:
        root: the results directory.
        device: where defenses are asked.
        suite: the suite's file, whose folder relative paths start from; left out, they start here.
        only: "DEFENSE" or "DEFENSE/ATTACK".
        limit: so many images of each cell, rounded up to whole shards, whose images were asked together.
        batch_size: images asked at once; left out, as many as the run asked.
        replay: ask the defenses too. Without, nothing but the dataset is needed.

    Raises:
        UserError: there is no run, its manifest lacks something, or nothing is chosen.
    """
    store = Store(root)
    claims = read_claims(store)
    if suite is not None and not suite.is_file():
        raise UserError(f"there is no suite {suite}", remedy="Give the file that the results were made with")
    cells = chosen_cells(claims, only)
    images, refusal, forged = None, "", False
    try:
        images = images_of(claims, _folder(suite))
    except UserError as error:
        refusal = _told(error, suite)
    except Mismatch as error:
        refusal, forged = str(error), True
    session = _Session(claims, suite, device, batch_size or claims.protocol.batch_size)
    environment = changed_environment(claims, device) if replay else ()
    for facts in cells:
        bounds = _shards(facts, limit)
        report = Report(f"{facts.defense}/{facts.attack}", facts.threat, bounds[-1][1])
        report.environment = environment
        if images is None:
            report.unchecked = refusal
            report.problems += [refusal] if forged else []
        elif facts.count > len(images):
            report.problems.append(f"the cell has {facts.count} images, the manifest lists {len(images)}")
        else:
            stored = store.cell(facts.defense, facts.attack, facts.key)
            yield from session.examine(report, facts, stored, images, bounds, replay)
        yield report


@dataclass
class _Session:
    """One defense at a time is kept, with its answers on clean images: cells come defense by defense."""

    claims: Claims
    suite: Path | None
    device: torch.device
    batch_size: int
    defenses: dict[str, Defense] = field(default_factory=dict)
    clean: dict[Bounds, Answers] = field(default_factory=dict)
    known: Identities = field(default_factory=Identities)

    def examine(
        self, report: Report, facts: CellFacts, stored: Cell, images: Images, shards: list[Bounds], replay: bool
    ) -> Iterator[Report]:
        """The checks of one cell, shard by shard."""
        rebuilt = self._rebuilt(report, facts) if replay else None
        threat = rebuilt.attack.threat if rebuilt else threat_of(facts)
        if rebuilt and str(threat) != facts.threat:
            report.problems.append(f"the attack's budget is {threat}, the manifest says {facts.threat}")
        if threat is None:
            report.unchecked = f"the threat model '{facts.threat}' is known only to its attack"
            return
        for bounds in shards:
            found = _read(report, stored, bounds, images)
            if found is None:
                continue
            records, tensors = found
            clean = images.take(slice(*bounds))
            self._budgets(report, records, tensors, clean, threat)
            if rebuilt and not report.unreplayed:
                self._replay(report, records, tensors["images"], clean, rebuilt, bounds)
            yield dataclasses.replace(report, problems=[*report.problems])  # a whole shard's, should it be stopped

    def _rebuilt(self, report: Report, facts: CellFacts) -> Rebuilt | None:
        """What the cell was made with, and its defense ready to be asked; or the reason in the report."""
        try:
            rebuilt = rebuild(self.claims, facts, _folder(self.suite), self.known)
            if facts.defense not in self.defenses:
                self.defenses.clear()  # before the next is built: one of them may fill the memory
                self.clean.clear()
                defense = rebuilt.defense.build().eval().requires_grad_(False).to(self.device)
                self.defenses[facts.defense] = defense
        except UserError as error:
            report.unreplayed = _told(error, self.suite)
            return None
        except Mismatch as error:
            report.unreplayed = str(error)
            return None
        return rebuilt

    def _budgets(
        self,
        report: Report,
        records: list[Record],
        tensors: dict[str, Tensor],
        clean: Images,
        threat: ThreatModel,
    ) -> None:
        for record, fault in zip(records, faults(records, tensors, clean, threat), strict=True):
            report.images += 1
            report.within += fault is None
            report.recorded += record.verdict == "robust"
            if fault:
                report.problems.append(f"image {record.index}: {fault}")

    def _replay(
        self,
        report: Report,
        records: list[Record],
        x_adv: Tensor,
        clean: Images,
        rebuilt: Rebuilt,
        bounds: Bounds,
    ) -> None:
        defense = self.defenses[rebuilt.defense.name]
        adversarial = Images(clean.index, x_adv, clean.y)
        try:
            if bounds not in self.clean:
                self.clean[bounds] = self._ask(defense, clean, rebuilt.seeds.clean(clean.index))
            answers = self._ask(defense, adversarial, rebuilt.seeds.verdict(clean.index))
        except Exception as error:  # whatever a defense raises: it cannot be replayed here
            report.unreplayed = f"the defense fails: {blame(error)}"
            return
        searched = rebuilt.seeds.search(clean.index).tolist()
        for row, record in enumerate(records):
            if record.seed != searched[row]:
                report.problems.append(f"image {record.index}: the record's seed is not the one that its attack had")
            _compare(report, record, self.clean[bounds], answers, row)

    def _ask(self, defense: Defense, images: Images, seeds: Tensor) -> Answers:
        votes = self.claims.protocol.votes
        there = images.to(self.device)
        return ask_again(defense, there, seeds.to(self.device), votes=votes, batch_size=self.batch_size)


def _compare(report: Report, record: Record, clean: Answers, answers: Answers, row: int) -> None:
    """Counts one image of a replay."""
    if not record.adv_votes:
        report.errors += 1
        return
    found = [compared(record, clean, row, clean=True), compared(record, answers, row)]
    kinds = [comparison.sameness for comparison in found]
    report.contradictions += "contradiction" in kinds
    report.borderline += "contradiction" not in kinds and "borderline" in kinds
    report.equal += kinds == ["equal", "equal"]
    report.moved = max(report.moved, *(comparison.moved for comparison in found))
    right = vote(answers.votes[:, row].tolist()) == record.label
    report.replayed += right and record.verdict != "error"
    report.problems += [f"image {record.index}, {c.told}" for c in found if c.sameness == "contradiction"]


def _read(
    report: Report, stored: Cell, bounds: Bounds, images: Images
) -> tuple[list[Record], dict[str, Tensor]] | None:
    """A finished shard; None where there is none, or where it is no shard of these images."""
    where = f"images {bounds[0]} to {bounds[1] - 1} of the run"
    try:
        records = stored.read(*bounds)
        if records is None:
            return None
        tensors = stored.images(*bounds)
    except (Damaged, OSError, safetensors.SafetensorError) as error:
        report.problems.append(f"{where}: {error}")
        return None
    if fault := malformed(records, tensors, images.take(slice(*bounds))):
        report.problems.append(f"{where}: {fault}")
        return None
    return records, tensors


def _shards(facts: CellFacts, limit: int | None) -> list[Bounds]:
    wanted = min(limit or facts.count, facts.count)
    return [(start, min(start + facts.shard, facts.count)) for start in range(0, wanted, facts.shard)]


def _folder(suite: Path | None) -> Path:
    """Where relative paths start."""
    return suite.parent if suite else Path()


def _told(error: UserError, suite: Path | None) -> str:
    hint = None if suite else "If it lies beside the suite, name that with --suite"
    return " ".join(f"{text}." for text in (error.message, error.remedy, hint) if text)
