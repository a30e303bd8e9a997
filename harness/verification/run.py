"""All checks, cell by cell and shard by shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from harness.attack import Attack
from harness.certification.certificate import Certificate
from harness.checks.gradient_noise import MOST_IMAGES, GradientNoise, gradient_noise
from harness.config import registry
from harness.datasets.batch import Images
from harness.defense import Defense
from harness.errors import UserError, one_line
from harness.results.facts import CellFacts
from harness.results.manifest import Manifest, read_manifest
from harness.results.record import Record, verdict_of
from harness.results.store import MANIFEST, CellStore, Damaged, ShardRange, Store, shard_ranges
from harness.suite.build import build_defense
from harness.suite.cell_key import Identities
from harness.suite.names import Only
from harness.verification.budget import faults, malformed, threat_of
from harness.verification.cell_report import CellReport
from harness.verification.certified import contradicted, misstated_radii, redrawn
from harness.verification.gates import Remarks, judge_noise, remarks_now
from harness.verification.inputs import Attacked, Mismatch, absent_pairings, attacked, changed_environment, chosen_cells
from harness.verification.rebuild import Rebuilt, Unbuildable, rebuild
from harness.verification.recorded import draws, misdescribed, misstated, overspent
from harness.verification.replay import MISSTATED, ROUNDING, ReplayedPredictions, compared, replay_votes


def verify(
    root: Path,
    device: torch.device,
    *,
    suite: Path | None = None,
    only: Only = None,
    limit: int | None = None,
    batch_size: int | None = None,
    replay: bool = True,
    trust: bool = False,
) -> Iterator[CellReport]:
    """Examines a run: its manifest, then pairing by pairing. Yields the report of the current pairing after each shard.

    Args:
        root: the results directory.
        device: where defenses classify images.
        suite: the suite's file, whose folder relative paths start from; left out, they start from the current folder.
        only: "DEFENSE" or "DEFENSE/ATTACK", or several of them.
        limit: so many images of each pairing, rounded up to whole shards, whose images were classified together.
        batch_size: images classified at once; left out, as many as in the run.
        replay: let the defenses classify the images, too. Without, nothing but the dataset is needed.
        trust: import the code that the manifest names. Without, only what comes with this package is replayed.

    Raises:
        UserError: there is no run, its manifest lacks something, or nothing is chosen.
    """
    store = Store(root)
    manifest = read_manifest(store)
    if suite is not None and not suite.is_file():
        raise UserError(f"there is no suite {suite}", remedy="Give the file that the results were made with")
    cells = chosen_cells(manifest, only)
    whole = CellReport(MANIFEST, "", 0)
    data: Attacked | None = None
    try:
        with nullcontext() if trust else registry.built_in_only():
            data = attacked(manifest, root, _folder(suite))
    except registry.Foreign as error:
        whole.unchecked = f"{error.message}; add --trust to run it"
    except UserError as error:
        whole.unchecked = _describe(error, suite)
    except Mismatch as error:
        whole.unchecked, whole.problems = str(error), [str(error)]
    _sealed(whole, manifest)
    yield whole
    session = _Session(manifest, suite, device, batch_size or manifest.protocol.batch_size, trust)
    environment = changed_environment(manifest, device) if replay else ()
    for facts in cells:
        bounds = _shards(facts, limit)
        report = CellReport(facts.name, facts.threat, bounds[-1][1], environment=environment)
        if data is None:
            report.unchecked = whole.unchecked
        else:
            stored = store.cell(facts.defense, facts.attack, facts.key)
            yield from session.examine(report, facts, stored, data, bounds, replay)
            if facts.certificate:
                report.problems += contradicted(root, facts)
        yield report
    for name in absent_pairings(manifest) if only is None else ():
        yield CellReport(name, "", manifest.dataset.count)


def _sealed(report: CellReport, manifest: Manifest) -> None:
    if manifest.edited:
        report.problems.append("it was tampered with: its hash does not match its content")
    if manifest.seal is None or any(cell.records is None for cell in manifest.cells):
        report.gaps.append("it has no hashes: an earlier version of the harness wrote it")


@dataclass
class _Session:
    """One defense at a time is kept, with its answers on clean images: pairings come defense by defense."""

    manifest: Manifest
    suite: Path | None
    device: torch.device
    batch_size: int
    trust: bool
    defenses: dict[str, Defense] = field(default_factory=dict)
    clean: dict[ShardRange, ReplayedPredictions] = field(default_factory=dict)
    gates: dict[str, Remarks] = field(default_factory=dict)
    known: Identities = field(default_factory=Identities)

    def examine(
        self,
        report: CellReport,
        facts: CellFacts,
        stored: CellStore,
        data: Attacked,
        shards: list[ShardRange],
        replay: bool,
    ) -> Iterator[CellReport]:
        """The checks of one pairing, shard by shard."""
        rebuilt = self._rebuilt(report, facts, data) if replay else None
        threat = rebuilt.attack.threat if rebuilt else threat_of(facts)
        if rebuilt:
            report.problems += misdescribed(facts, rebuilt.attack)
            report.problems += misstated(self.manifest.defenses[facts.defense], self.defenses[facts.defense])
        if threat is None:
            report.unchecked = f"the threat model '{facts.threat}' is known only to its attack"
            return
        for bounds in shards:
            clean = data.images.take(slice(*bounds))
            shard = _read(report, facts, stored, bounds, clean, self.manifest.protocol.votes)
            if shard is None:
                continue
            records, tensors = shard
            self._look(report, facts, records, faults(records, tensors, clean, threat))
            report.problems += misstated_radii(facts, self.manifest.defenses[facts.defense], records, tensors)
            if rebuilt and not report.unreplayed:
                report.problems += [
                    f"image {record.index}: {fault}"
                    for record in records
                    if (fault := overspent(record, rebuilt.attack, data.num_classes))
                ]
                self._replay(report, records, tensors["images"], clean, rebuilt, bounds)
                self._draw_again(report, records, tensors, clean, rebuilt)
            yield replace(report, problems=[*report.problems])  # a whole shard's, should it be stopped
        if rebuilt and not report.unreplayed:
            self._gate(report, facts, rebuilt, data)

    def _rebuilt(self, report: CellReport, facts: CellFacts, data: Attacked) -> Rebuilt | None:
        """What the pairing was made with, and its defense, ready for use; or the reason in the report."""
        try:
            with self._fence():
                rebuilt = rebuild(self.manifest, facts, _folder(self.suite), self.known)
                if facts.defense not in self.defenses:
                    self.defenses.clear()  # before the next is built: one of them may fill the memory
                    self.clean.clear()
                    identity = self.known.of(rebuilt.defense)
                    defense = build_defense(rebuilt.defense, data.dataset, identity=identity)
                    self.defenses[facts.defense] = defense.to(self.device)
        except registry.Foreign as error:
            report.unreplayed = f"{error.message}; add --trust to run it"
            return None
        except Unbuildable as error:
            report.unreplayed = error.message
            return None
        except UserError as error:
            report.unreplayed = _describe(error, self.suite)
            return None
        except Mismatch as error:
            report.unreplayed = str(error)
            return None
        return rebuilt

    def _look(self, report: CellReport, facts: CellFacts, records: list[Record], wrong: Iterable[str | None]) -> None:
        """Counts the images of a shard, each with the first thing that is wrong with it."""
        defense, votes = self.manifest.defenses[facts.defense], self.manifest.protocol.votes
        for record, fault in zip(records, wrong, strict=True):
            fault = fault or draws(record, defense, votes)
            report.images += 1
            report.within += fault is None
            report.recorded += record.verdict == "robust"
            report.errors += record.verdict == "error"
            if fault:
                report.problems.append(f"image {record.index}: {fault}")

    def _replay(
        self,
        report: CellReport,
        records: list[Record],
        x_adv: Tensor,
        clean: Images,
        rebuilt: Rebuilt,
        bounds: ShardRange,
    ) -> None:
        defense = self.defenses[rebuilt.defense.name]
        adversarial = Images(clean.index, x_adv, clean.y)
        try:
            with self._fence():
                if bounds not in self.clean:
                    self.clean[bounds] = self._predict(defense, clean, rebuilt.seeds.clean(clean.index))
                answers = self._predict(defense, adversarial, rebuilt.seeds.verdict(clean.index))
        except Exception as error:  # whatever a defense raises: its votes cannot be replayed
            report.unreplayed = f"the defense fails: {one_line(error)}"
            return
        searched = rebuilt.seeds.search(clean.index).tolist()
        same = not report.environment and self.batch_size == self.manifest.protocol.batch_size
        for row, record in enumerate(records):
            if record.seed != searched[row]:
                report.problems.append(f"image {record.index}: the record's seed is not the one that its attack had")
            if record.verdict != "error":
                _compare(report, record, self.clean[bounds], answers, row, same)

    def _draw_again(
        self, report: CellReport, records: list[Record], tensors: dict[str, Tensor], clean: Images, rebuilt: Rebuilt
    ) -> None:
        """Draws the counts of a certificate again."""
        if not isinstance(rebuilt.attack, Certificate) or "counts" not in tensors or report.unreplayed:
            return
        defense, seeds = self.defenses[rebuilt.defense.name], rebuilt.seeds.search(clean.index)
        there = clean.to(self.device)
        try:
            with self._fence():
                found = list(
                    redrawn(
                        rebuilt.attack,
                        defense,
                        there,
                        seeds.to(self.device),
                        records,
                        tensors["counts"],
                        self.batch_size,
                    )
                )
        except Exception as error:  # whatever a defense raises: its draws cannot be made again
            report.unreplayed = f"the defense fails: {one_line(error)}"
            return
        for message, explained in found:
            (report.gaps if explained else report.problems).append(message)

    def _gate(self, report: CellReport, facts: CellFacts, rebuilt: Rebuilt, data: Attacked) -> None:
        """The remarks of the run's gates, compared with what the gates remark now."""
        name, first = facts.defense, shard_ranges(facts.count, facts.shard)[0]
        try:
            if name not in self.gates:
                attacks = self._attacks(name)
                images = data.images.take(slice(max(2, self.manifest.protocol.batch_size))).to(self.device)
                defense, clean = self.defenses[name], self.clean.get(first)
                with self._fence():
                    self.gates[name] = remarks_now(
                        rebuilt.defense, defense, attacks, images, self.manifest, data, clean
                    )
            with self._fence():
                noise = self._gradient_noise(facts, rebuilt, data)
        except Exception as error:  # whatever a defense raises: its gates cannot be made
            report.gaps.append(f"the remarks of its gates: the defense fails ({one_line(error)})")
            return
        self.gates[name].judge(report, facts, self.manifest.protocol.gates)
        judge_noise(report, facts, self.manifest.protocol.gates, noise)

    def _gradient_noise(self, facts: CellFacts, rebuilt: Rebuilt, data: Attacked) -> GradientNoise | None:
        """Measures what the run measured of the gradients that an attack meets."""
        protocol, images = self.manifest.protocol, data.images.take(slice(MOST_IMAGES)).to(self.device)
        seeds = rebuilt.seeds.gradient_noise(images.index)
        return gradient_noise(
            self.defenses[facts.defense],
            rebuilt.attack,
            images,
            seeds,
            of=facts.count,
            votes=protocol.votes,
            batch_size=protocol.batch_size,
        )

    def _attacks(self, defense: str) -> list[Attack]:
        """What the run attacked a defense with, as far as it can be built: the cost of the gates depends on it."""
        attacks = []
        for cell in self.manifest.cells:
            with suppress(UserError, Mismatch), self._fence():
                if cell.defense == defense:
                    attacks.append(rebuild(self.manifest, cell, _folder(self.suite), self.known).attack)
        return attacks

    def _fence(self) -> AbstractContextManager[None]:
        """Around all that builds or asks what the manifest names."""
        return nullcontext() if self.trust else registry.built_in_only()

    def _predict(self, defense: Defense, images: Images, seeds: Tensor) -> ReplayedPredictions:
        votes = self.manifest.protocol.votes
        there = images.to(self.device)
        return replay_votes(defense, there, seeds.to(self.device), votes=votes, batch_size=self.batch_size)


def _compare(
    report: CellReport, record: Record, clean: ReplayedPredictions, answers: ReplayedPredictions, row: int, same: bool
) -> None:
    """Counts one image of a replay. same: the batches and the machine are those of the run."""
    comparisons = [compared(record, clean, row, clean=True), compared(record, answers, row)]
    kinds = [comparison.sameness for comparison in comparisons]
    report.contradictions += "contradiction" in kinds
    report.borderline += "contradiction" not in kinds and "borderline" in kinds
    report.equal += kinds == ["equal", "equal"]
    report.moved = max(report.moved, *(comparison.moved for comparison in comparisons))
    report.replayed += verdict_of(answers.votes[:, row].tolist(), record.label) == "robust"
    for comparison in comparisons:
        message = f"image {record.index}, {comparison.message}"
        if comparison.sameness == "contradiction" or (comparison.moved > MISSTATED and same):
            report.problems.append(message)
        elif comparison.sameness == "equal" and comparison.moved > ROUNDING:
            report.gaps.append(message)


def _read(
    report: CellReport, facts: CellFacts, stored: CellStore, bounds: ShardRange, clean: Images, votes: int
) -> tuple[list[Record], dict[str, Tensor]] | None:
    """A finished shard; None where there is none, or where it is no shard of these images."""
    where = f"images {bounds[0]} to {bounds[1] - 1} of the run"
    listed, digest = facts.recorded(*bounds), stored.digest(*bounds)
    if digest is None:
        report.gaps.append(f"{where} are missing, though {MANIFEST} lists them" if listed else f"{where} are pending")
        return None
    if facts.records is not None and listed != digest:
        if listed:
            report.problems.append(f"{where}: these are not the records that {MANIFEST} lists")
        else:
            report.gaps.append(f"{where} are not in {MANIFEST}, as after a run that was killed; run it again")
    try:
        if (found := stored.read(*bounds, votes)) is None:
            return None
        records = list(found)
        fault = malformed(records, stored.shapes(*bounds), clean)
        tensors = {} if fault else stored.images(*bounds)
    except Damaged as damage:
        report.problems.append(f"{where}: {damage}")
        return None
    if fault:
        report.problems.append(f"{where}: {fault}")
        return None
    return records, tensors


def _shards(facts: CellFacts, limit: int | None) -> list[ShardRange]:
    """The shards of a pairing that hold its first images, all of them without a limit."""
    ranges = shard_ranges(facts.count, facts.shard)
    return ranges if limit is None else [bounds for bounds in ranges if bounds[0] < limit]


def _folder(suite: Path | None) -> Path:
    """Where relative paths start."""
    return suite.parent if suite else Path()


def _describe(error: UserError, suite: Path | None) -> str:
    hint = None if suite else "If it lies beside the suite, name that with --suite"
    return " ".join(f"{text}." for text in (error.message, error.remedy, hint) if text)
