"""The reasons to doubt a number: signs that the attack was too weak, so that the true robust accuracy may be lower.

A pairing of a defense and an attack is in doubt for any of these reasons:

    its own word    the attack said so, in a remark in its records
    noise           the defense's gradients are too noisy for the attack, see `harness.guard.doubt`. The run measures
                    this before it attacks; where it did not, a diagnosis beside the results may have done so
    a diagnosis     found that attacks of more steps, or of more draws per gradient, fool more images
    a sweep         over `steps` or `eot`, in this run, or made by `harness eot` in the folder beside it, shows that
                    robust accuracy still falls, see `harness.reporting.tables.verdict`

A diagnosis counts only for attacks that differentiate the same view of the defense, and its attacks only for the budget
that they had. A sweep over `eot` that has converged takes back the doubt about noise, if its largest number of draws is
enough for the noise.

A number without a doubt may still be too high: nobody may have looked. One of 0% is never in doubt: it cannot be lower.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.errors import UserError
from harness.guard.doubt import IN_DOUBT, cosine_of_single_draws, plain, too_noisy
from harness.reporting.stats.accuracy import both_known
from harness.reporting.stats.change import change
from harness.reporting.tables.diagnostics import diagnostics
from harness.reporting.tables.outcomes import remarks_told, robust_successes
from harness.reporting.tables.verdict import Verdict, judged
from harness.results.diagnosis import Cosines, Diagnosis, Strengths
from harness.results.facts import NoiseFacts, Part
from harness.results.load import CellResults, Run, read_run
from harness.results.record import Rule
from harness.results.store import MANIFEST
from harness.suite.names import eot_suite

Pair = tuple[str, str]

Doubts = Mapping[Pair, tuple[str, ...]]
"""The reasons, as sentences, by defense and attack."""

SETTLED_BY = {"eot": "draws", "steps": "steps"}
"""The arguments of an attack that can be too small, and the words for what they count."""


def doubts(run: Run) -> Doubts:
    """The reasons to doubt the numbers of a run. A pairing without any is left out.

    Raises:
        UserError: a file in the run's folder of diagnoses is not a diagnosis.
    """
    diagnosed = {found.defense: found for found in diagnostics(run).current}
    found = {
        pair: tuple(dict.fromkeys(_reasons(run, pairing, diagnosed.get(pairing.facts.defense))))
        for pair, pairing in run.pairings.items()
    }
    return {pair: reasons for pair, reasons in found.items() if reasons and _could_be_lower(run, run.pairings[pair])}


def _could_be_lower(run: Run, pairing: CellResults) -> bool:
    successes = robust_successes(pairing.columns, run.manifest.report.vote)
    return bool((successes[~np.isnan(successes)] > 0).any())


def _reasons(run: Run, pairing: CellResults, diagnosis: Diagnosis | None) -> Iterator[str]:
    yield from (plain(remark) for remark in remarks_told(pairing.columns) if remark.startswith(IN_DOUBT))
    curves = list(_curves(run, pairing))
    if diagnosis is not None and not _looked_through(run, pairing, diagnosis):
        diagnosis = None
    noise = _noise(pairing, diagnosis)
    if noise and not any(curve.settles_noise for curve in curves):
        yield noise
    if diagnosis is not None and diagnosis.threat == pairing.facts.threat:
        yield from _beaten(diagnosis, _arguments(run, pairing))
    yield from (curve.falls for curve in curves if curve.falls)


def _looked_through(run: Run, pairing: CellResults, diagnosis: Diagnosis) -> bool:
    """Whether the attack took gradients of the same view of the defense as the diagnosis."""
    climbed = bool((pairing.columns.numbers("backwards") > 0).any())
    return climbed and diagnosis.settings["gradient"] in _views(_arguments(run, pairing))


def _noise(pairing: CellResults, diagnosis: Diagnosis | None) -> str | None:
    """That the gradients were too noisy for the attack: by what the run measured, or else by a diagnosis."""
    measured, needed = pairing.facts.gradient_noise, pairing.facts.least_cosine
    if measured is None and diagnosis is not None:
        measured = _diagnosed_noise(diagnosis)
    if measured is None or needed is None or measured.cosine >= needed:
        return None
    return too_noisy(measured.cosine, needed, measured.images)


def _diagnosed_noise(diagnosis: Diagnosis) -> NoiseFacts | None:
    """The noise by the cosines of the most draws per gradient, which are the most certain ones."""
    data = next((finding.data for finding in diagnosis.findings if "cosine" in finding.data), None)
    measured = Cosines.model_validate(data).cosine if data else {}
    if not measured:
        return None
    draws, cosine = max((int(draws), cosine) for draws, cosine in measured.items())
    if not math.isfinite(cosine) or draws < 1 or diagnosis.images < 1:
        return None
    return NoiseFacts(cosine=cosine_of_single_draws(cosine, draws), images=diagnosis.images)


def _beaten(diagnosis: Diagnosis, arguments: Mapping[str, Any]) -> Iterator[str]:
    """That attacks of the diagnosis fooled more images with more steps or draws than this attack has."""
    for finding in diagnosis.findings:
        if "success" not in finding.data:
            continue
        strengths = Strengths.model_validate(finding.data)
        for name, counts in (("eot", strengths.eot), ("steps", strengths.steps)):
            own = arguments.get(name)
            if counts and isinstance(own, int) and own < counts[-1] and strengths.rising:
                yield f"more {SETTLED_BY[name]} than its {own} fool more images ({finding.message})"


@dataclass(frozen=True)
class _Curve:
    """Robust accuracy against steps or draws, of attacks that differ in nothing else.

    Attributes:
        path: the argument that differs, "steps" or "eot".
        own: what the attack in question has; the curve need not have a point there.
        points: the finished pairings by what they have.
        rule: what counts as success over the draws of a stochastic defense.
    """

    path: str
    own: int
    points: Mapping[int, CellResults]
    rule: Rule

    @property
    def falls(self) -> str | None:
        """That the attack's count is too small: with the largest one, robust accuracy is lower."""
        verdict = self._verdict
        if verdict is None or verdict.kind != "falling":
            return None
        return f"not settled in {SETTLED_BY[self.path]}: {verdict.text.partition(': ')[2].rstrip('.')}"

    @property
    def settles_noise(self) -> bool:
        """Whether noise costs the attack nothing: as many draws as the noise asks for find no more."""
        if self.path != "eot" or self._verdict is None or self._verdict.kind != "converged":
            return False
        facts = self.points[max(self.points)].facts
        noise, needed = facts.gradient_noise, facts.least_cosine
        return noise is not None and needed is not None and noise.cosine >= needed

    @property
    def _verdict(self) -> Verdict | None:
        """On the step from the attack's own count, or the next smaller one, to the largest; None if there is none."""
        below = [count for count in self.points if count <= self.own]
        if not below or max(self.points) <= self.own:
            return None
        ends = max(below), max(self.points)
        known = both_known(*(robust_successes(self.points[count].columns, self.rule) for count in ends))
        if not len(known[0]):
            return None
        return judged(change(*known), f"from {ends[0]} to {ends[1]} {SETTLED_BY[self.path]}")


def _curves(run: Run, pairing: CellResults) -> Iterator[_Curve]:
    """The curves that a pairing is a point of, or lies on between two points."""
    defense, attack = pairing.facts.defense, pairing.facts.attack
    for sweep in run.manifest.sweeps:
        path = sweep.paths[0] if len(sweep.paths) == 1 else ""
        if sweep.kind == "attacks" and attack in sweep.variants and path in SETTLED_BY:
            counts = {name: values[0] for name, values in sweep.variants.items()}
            yield from _curve(run, defense, counts, counts[attack], path)
    own = _arguments(run, pairing).get("eot")
    for other in beside(run, defense, attack) if isinstance(own, int) else ():
        for sweep in other.manifest.sweeps:
            counts = {
                name: values[0]
                for name, values in sweep.variants.items()
                if sweep.paths == ("eot",) and _same_but_eot(run, other, (defense, attack), (defense, name))
            }
            yield from _curve(other, defense, counts, own, "eot")


def _curve(run: Run, defense: str, counts: Mapping[str, Any], own: Any, path: str) -> Iterator[_Curve]:
    """The curve through the finished pairings of a run. counts: what each attack has, by its name."""
    points = {
        count: pairing
        for name, count in counts.items()
        if isinstance(count, int) and (pairing := run.pairings.get((defense, name))) and pairing.finished
    }
    if points and isinstance(own, int):
        yield _Curve(path, own, points, run.manifest.report.vote)


def beside(run: Run, defense: str, attack: str) -> Iterator[Run]:
    """The runs that `harness eot` made of a pairing, in the folder that this run's own folder lies in."""
    name = eot_suite(run.manifest.suite, defense, attack)
    for folder in sorted(run.path.absolute().parent.glob(f"{name}*")):
        if not (folder / MANIFEST).is_file():
            continue
        try:
            found = read_run(folder)
        except UserError:  # another run's folder, whose own report says what is wrong with it
            continue
        if found.manifest.suite == name:
            yield found


def _same_but_eot(run: Run, other: Run, here: Pair, there: Pair) -> bool:
    """Whether pairings of this run and of another have the same defense, and attacks that differ in `eot` alone."""
    parts = run.manifest.resolved, other.manifest.resolved
    attacks = [resolved.cells.get("/".join(pair)) for resolved, pair in zip(parts, (here, there), strict=True)]
    settings = [part and (part.type, {**part.arguments, "eot": None}) for part in attacks]
    defenses = [resolved.defenses.get(here[0]) for resolved in parts]
    return None not in (*settings, *defenses) and settings[0] == settings[1] and defenses[0] == defenses[1]


def _arguments(run: Run, pairing: CellResults) -> Mapping[str, Any]:
    """The arguments of a pairing's attack, as the suite resolved them; empty if the manifest does not have them."""
    part: Part | None = run.manifest.resolved.cells.get(pairing.facts.name)
    return part.arguments if part else {}


def _views(arguments: Any) -> set[str]:
    """The views of the gradient that an attack takes, and those of the attacks inside it."""
    if isinstance(arguments, Mapping):
        own = {value for key, value in arguments.items() if key == "gradient" and isinstance(value, str)}
        return own.union(*map(_views, arguments.values()))
    return set().union(*map(_views, arguments)) if isinstance(arguments, list) else set()
