"""The findings of `harness diagnose` in a results directory: a line per check, a column per defense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.checks.finding import Finding
from harness.results.diagnosis import Compressions, Diagnosis, read_all
from harness.results.load import Run

EXPLAINED = ("warned", "failed")
"""Statuses whose message a table gives."""


@dataclass(frozen=True)
class Diagnostics:
    """The diagnoses of a run's defenses.

    Attributes:
        current: diagnoses of the defenses of this run, in its order.
        outdated: names of defenses that changed since, or that the run does not have; their findings are left out.
    """

    current: tuple[Diagnosis, ...]
    outdated: tuple[str, ...]

    @property
    def checks(self) -> list[str]:
        """Names of all checks, in order."""
        return list(dict.fromkeys(finding.name for found in self.current for finding in found.findings))

    @property
    def remark(self) -> str:
        """The sentences that explain the block to a reader."""
        sentences = ["warned: a sign of masked gradients, or of an attack too weak to tell."] if self.current else []
        if unfinished := [found.defense for found in self.current if not found.finished]:
            sentences.append(f"Unfinished: {', '.join(unfinished)}; run `harness diagnose` again.")
        if self.outdated:
            sentences.append(f"Left out, since the suite changed: {', '.join(self.outdated)}.")
        return " ".join(sentences)


def diagnostics(run: Run) -> Diagnostics:
    """The diagnoses in the run's directory.

    Raises:
        UserError: a file there is not a diagnosis.
    """
    known = {name: part.model_dump(mode="json") for name, part in run.manifest.resolved.defenses.items()}
    found = read_all(run.path)
    order = {name: place for place, name in enumerate(run.manifest.defenses)}
    found.sort(key=lambda each: order.get(each.defense, len(order)))
    current = tuple(each for each in found if known.get(each.defense) == each.resolved)
    titled = tuple(_titled(run, each) for each in current)
    return Diagnostics(titled, tuple(each.defense for each in found if each not in current))


def view(diagnosis: Diagnosis) -> str:
    """The budget, the view and the number of images of a diagnosis's attacks."""
    settings = diagnosis.settings
    return f"{diagnosis.threat}, {settings['gradient']}, {diagnosis.images} images"


def answer(diagnosis: Diagnosis, check: str) -> tuple[str, list[str]]:
    """The status of a check, or nothing, and its message where a table should show it."""
    finding = next((each for each in diagnosis.findings if each.name == check), None)
    if finding is None:
        return "", []
    return finding.status, [_describe(diagnosis, finding)] if finding.status in EXPLAINED else []


def compressions(run: Run) -> list[tuple[str, Compressions]]:
    """What purification makes of distances, by the label of each diagnosed defense that purifies."""
    return [
        (found.label or found.defense, Compressions.model_validate(finding.data))
        for found in diagnostics(run).current
        for finding in found.findings
        if "compression" in finding.data
    ]


def document(run: Run) -> list[dict[str, Any]]:
    """All diagnoses, for JSON."""
    return [found.model_dump(mode="json") for found in diagnostics(run).current]


def _titled(run: Run, diagnosis: Diagnosis) -> Diagnosis:
    """With the name that the run's table gives the defense."""
    facts = run.manifest.defenses.get(diagnosis.defense)
    return diagnosis.model_copy(update={"label": facts.title(diagnosis.defense)}) if facts else diagnosis


def _describe(diagnosis: Diagnosis, finding: Finding) -> str:
    return f"{diagnosis.label or diagnosis.defense}, {finding.name}: {finding.message} ({finding.source})"
