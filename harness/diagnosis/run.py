"""Suite -> findings on its defenses.

Running the same command again finishes the rest: checks that were made are kept as long as defense, images and settings
are the same, and those that ended in errors are tried again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter

from harness import __version__, datasets
from harness.attack import Attack
from harness.callback import SILENT, Callback
from harness.checks.finding import Finding
from harness.config.component import Component
from harness.datasets.batch import Images
from harness.datasets.dataset import Dataset
from harness.diagnosis.checks import CHECKS
from harness.diagnosis.subject import Settings, Subject
from harness.errors import UserError, nearest
from harness.evaluation.pending import load_images
from harness.gradients import Gradient
from harness.results.diagnosis import Diagnosis, path_of, read, write
from harness.results.manifest import find_manifest
from harness.results.store import Store
from harness.suite.build import build_defense, refuse_unsuitable
from harness.suite.cell_key import cell_key, component_hash
from harness.suite.plan import Cell, Plan
from harness.threat import NORMS

VERSION = 2
"""Raise it when a check starts to mean something else."""


@dataclass(frozen=True)
class Options:
    """What a user may change. images: of the suite, the first so many; the others: see `Settings`, None: as the suite.

    surrogate: another defense of the suite; left out, the first other one.
    """

    images: int = 100
    gradient: Gradient | None = None
    eot: int | None = None
    steps: int = 10
    largest_eot: int = 4
    queries: int = 100
    surrogate: str | None = None


def diagnose(
    plan: Plan, out: Path, options: Options, device: torch.device, callback: Callback = SILENT
) -> list[Diagnosis]:
    """Makes the checks that are missing, defense by defense, each under the first of its pixel budgets.

    Args:
        out: the results directory, made if absent.
        callback: is told each finding as it comes.

    Raises:
        UserError: the directory is another suite's, a defense has no pixel budget or cannot be built, or there is no
            such surrogate.
    """
    manifest = find_manifest(Store(out))
    if manifest and manifest.suite != plan.suite.suite:
        raise UserError(
            f"{out} has the results of suite '{manifest.suite}', not of '{plan.suite.suite}'",
            remedy="Choose another directory with --out",
        )
    dataset, images = load_images(plan)
    images = images.take(slice(options.images))
    return [_finished(_case(plan, cell, images, options), dataset, out, device, callback) for cell in _cells(plan)]


@dataclass(frozen=True)
class _Case:
    """A defense to be diagnosed, and all that this takes but the defense itself."""

    plan: Plan
    cell: Cell
    surrogate: Component | None
    images: Images
    settings: Settings

    @property
    def blank(self) -> Diagnosis:
        """Nothing found yet."""
        defense, other = self.cell.defense, self.surrogate
        settings = TypeAdapter(Settings).dump_python(self.settings, mode="json")
        fingerprint = datasets.fingerprint(self.images.x, self.images.y)
        claims = {"version": VERSION, **settings}
        return Diagnosis(
            harness=__version__,
            key=cell_key(component_hash(defense), component_hash(other) if other else "", fingerprint, claims),
            suite=self.plan.suite.suite,
            defense=defense.name,
            label=defense.label,
            attack=self.cell.attack.name,
            threat=f"{self.settings.norm} {self.settings.eps}",
            surrogate=other.name if other else None,
            images=len(self.images),
            settings=settings,
            resolved={"type": defense.type, "arguments": defense.resolved()},
        )


def _cells(plan: Plan) -> list[Cell]:
    """A pairing of each defense, the first with a pixel budget. A certificate has none."""
    found: dict[str, Cell] = {}
    for cell in plan.cells:
        if cell.attack.kind == "attacks" and cell.attack.build().threat.name in NORMS:
            found.setdefault(cell.defense.name, cell)
    for cell in plan.cells:
        if cell.defense.name not in found:
            raise UserError(
                f"{cell.defense.title} is not paired with an attack of norm {', '.join(NORMS)}",
                remedy="Name a pairing with one by --only DEFENSE/ATTACK",
                where=cell.defense.place,
            )
    return list(found.values())


def _case(plan: Plan, cell: Cell, images: Images, options: Options) -> _Case:
    attack: Attack = cell.attack.build()
    protocol = plan.suite.protocol
    settings = Settings(
        norm=attack.threat.name,
        eps=attack.threat.eps,
        gradient=options.gradient or attack.gradient,
        eot=options.eot or attack.eot,
        steps=options.steps,
        largest_eot=options.largest_eot,
        queries=options.queries,
        votes=protocol.votes,
        seed=protocol.seed,
    )
    return _Case(plan, cell, _surrogate(plan, cell, options.surrogate), images, settings)


def _surrogate(plan: Plan, cell: Cell, wanted: str | None) -> Component | None:
    others = {c.defense.name: c.defense for c in plan.all_cells if c.defense.name != cell.defense.name}
    if wanted is None or (wanted == cell.defense.name and others):
        return next(iter(others.values()), None)
    if wanted not in others:
        raise UserError(f"the suite has no other defense '{wanted}'", remedy=nearest(wanted, others))
    return others[wanted]


def _finished(case: _Case, dataset: Dataset, out: Path, device: torch.device, callback: Callback) -> Diagnosis:
    """The diagnosis of one defense, written after every check."""
    diagnosis = case.blank
    kept = _kept(read(path_of(out, diagnosis.defense)), diagnosis.key)
    if set(kept) == {check.name for check in CHECKS}:
        findings = tuple(kept.values())
        with callback.diagnosing(diagnosis.defense, len(findings), lambda: 0):
            for finding in findings:
                callback.found(finding)
        return diagnosis.model_copy(update={"findings": findings, "finished": True})
    subject = _subject(case, dataset, device)
    with callback.diagnosing(diagnosis.defense, len(CHECKS), lambda: subject.passes):
        for check in CHECKS:
            if check.name not in kept:
                callback.checking(check.name)
                kept[check.name] = check(subject)
            callback.found(kept[check.name])
            done = [kept[c.name] for c in CHECKS if c.name in kept]
            diagnosis = diagnosis.model_copy(update={"findings": tuple(done), "finished": len(done) == len(CHECKS)})
            write(out, diagnosis)
    return diagnosis


def _kept(old: Diagnosis | None, key: str) -> dict[str, Finding]:
    findings = old.findings if old and old.key == key else ()
    return {finding.name: finding for finding in findings if finding.status != "failed"}


def _subject(case: _Case, dataset: Dataset, device: torch.device) -> Subject:
    defense = build_defense(case.cell.defense, dataset).to(device)
    refuse_unsuitable(case.cell, case.cell.attack.build(), defense)
    other = case.surrogate
    return Subject(
        defense,
        case.images.to(device),
        case.settings,
        surrogate=None if other is None else (other.name, build_defense(other, dataset).to(device)),
        batch_size=case.plan.suite.protocol.batch_size,
    )
