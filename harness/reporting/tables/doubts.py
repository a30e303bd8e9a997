"""Which numbers are in doubt, and why: what was found out about a pairing that says its attack was too weak.

    remarks     of the attack itself, in its records
    cosine      a diagnosis beside the results measured it, and it is less than what the attack needs
    settling    the diagnosis fooled more images by more steps, or more draws, than the attack took
    sweeps      over `eot` or `steps`, in this run or by `harness eot` in the folder beside it: with more, robust
                accuracy still falls, by the verdict of `harness.reporting.tables.verdict`

For the first two see `harness.guard.doubt`. A diagnosis speaks of the view of the gradient that it looked through, and
by its attacks of one budget. Where nothing was found out there is no doubt, which is no proof of anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from harness.errors import UserError
from harness.guard.doubt import IN_DOUBT, plain
from harness.reporting.stats.accuracy import both_known
from harness.reporting.stats.change import change
from harness.reporting.tables.diagnostics import diagnostics
from harness.reporting.tables.outcomes import remarks_told, robust_successes
from harness.reporting.tables.verdict import judged
from harness.results.diagnosis import Cosines, Diagnosis, Strengths
from harness.results.load import CellResults, Run, read_run
from harness.results.manifest import Part
from harness.results.store import MANIFEST
from harness.suite.sweep import eot_suite

Pair = tuple[str, str]

Doubts = Mapping[Pair, tuple[str, ...]]
"""Sentences by defense and attack."""

SETTLED_BY = {"eot": "draws", "steps": "steps"}
"""Arguments of which an attack needs enough, and what they count."""


def doubts(run: Run) -> Doubts:
    """Of all pairings that have any. Raises UserError where a file in the folder of diagnoses is none."""
    diagnosed = {found.defense: found for found in diagnostics(run).current}
    found = {
        pair: tuple(dict.fromkeys([*_remarks(pairing), *_diagnosed(run, pairing, diagnosed), *_swept(run, pairing)]))
        for pair, pairing in run.pairings.items()
    }
    return {pair: reasons for pair, reasons in found.items() if reasons}


def _remarks(pairing: CellResults) -> Iterator[str]:
    return (plain(remark) for remark in remarks_told(pairing.records) if remark.startswith(IN_DOUBT))


def _diagnosed(run: Run, pairing: CellResults, diagnosed: Mapping[str, Diagnosis]) -> Iterator[str]:
    found, part = diagnosed.get(pairing.facts.defense), _part(run, pairing)
    climbs = bool((pairing.records["backwards"] > 0).any())
    if found is None or part is None or not climbs or found.settings["gradient"] not in _views(part.arguments):
        return
    yield from _noisy(found, pairing.facts.least_cosine)
    if found.threat == pairing.facts.threat:
        yield from _unsettled(found, part.arguments)


def _noisy(found: Diagnosis, needed: float | None) -> Iterator[str]:
    cosine = next((_of_single_draws(finding.data) for finding in found.findings if "cosine" in finding.data), None)
    if cosine is not None and needed is not None and cosine < needed:
        yield (
            f"gradients too noisy for this attack: two draws have a cosine of {cosine:.2f} ({found.images} images), "
            f"and it needs {needed:.2f}"
        )


def _of_single_draws(data: dict[str, Any]) -> float | None:
    """c of `harness.guard.doubt` by what was measured with the most draws per gradient, where it is most certain."""
    measured = Cosines.model_validate(data).cosine
    if not measured:
        return None
    draws, cosine = max((int(draws), cosine) for draws, cosine in measured.items())
    if not math.isfinite(cosine) or draws < 1:
        return None
    return cosine / (cosine + draws * (1 - cosine)) if cosine > 0 else 0.0


def _unsettled(found: Diagnosis, arguments: Mapping[str, Any]) -> Iterator[str]:
    for finding in found.findings:
        if "success" not in finding.data:
            continue
        strengths = Strengths.model_validate(finding.data)
        for name, counts in (("eot", strengths.eot), ("steps", strengths.steps)):
            own = arguments.get(name)
            if counts and isinstance(own, int) and own < counts[-1] and strengths.rising:
                yield f"more {SETTLED_BY[name]} than its {own} fool more images ({finding.message})"


def _swept(run: Run, pairing: CellResults) -> Iterator[str]:
    """What sweeps over one argument say of a pairing that is a point of them, or would be."""
    defense, attack = pairing.facts.defense, pairing.facts.attack
    for sweep in run.manifest.sweeps:
        path = sweep.paths[0] if len(sweep.paths) == 1 else ""
        if sweep.kind == "attacks" and attack in sweep.variants and path in SETTLED_BY:
            counts = {name: values[0] for name, values in sweep.variants.items()}
            yield from _falling(run, defense, counts, counts[attack], path)
    part = _part(run, pairing)
    if part is not None and isinstance(own := part.arguments.get("eot"), int):
        for other in _beside(run, defense, attack):
            for sweep in other.manifest.sweeps:
                counts = {
                    name: values[0]
                    for name, values in sweep.variants.items()
                    if sweep.paths == ("eot",) and _same_but_eot(run, other, (defense, attack), (defense, name))
                }
                yield from _falling(other, defense, counts, own, "eot")


def _falling(run: Run, defense: str, counts: Mapping[str, Any], own: Any, path: str) -> Iterator[str]:
    """That robust accuracy falls from `own`, or the next smaller count, to the largest one. counts: by attack."""
    found = {
        count: pairing
        for name, count in counts.items()
        if isinstance(count, int) and (pairing := run.pairings.get((defense, name))) and pairing.finished
    }
    below = [count for count in found if isinstance(own, int) and count <= own]
    if not below or max(found) <= own:
        return
    rule = run.manifest.report.vote
    known = both_known(*(robust_successes(found[count].records, rule) for count in (max(below), max(found))))
    if len(known[0]):
        what = SETTLED_BY[path]
        verdict = judged(change(*known), f"from {max(below)} to {max(found)} {what}")
        if verdict.kind == "falling":
            yield f"not settled in {what}: {verdict.text.partition(': ')[2].rstrip('.')}"


def _beside(run: Run, defense: str, attack: str) -> Iterator[Run]:
    """What `harness eot` left of a pairing, in the folder that holds the run's own."""
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
    parts = run.manifest.resolved, other.manifest.resolved
    attacks = [resolved.cells.get("/".join(pair)) for resolved, pair in zip(parts, (here, there), strict=True)]
    settings = [part and (part.type, {**part.arguments, "eot": None}) for part in attacks]
    defenses = [resolved.defenses.get(here[0]) for resolved in parts]
    return None not in (*settings, *defenses) and settings[0] == settings[1] and defenses[0] == defenses[1]


def _part(run: Run, pairing: CellResults) -> Part | None:
    """The attack of a pairing as the suite resolved it."""
    return run.manifest.resolved.cells.get(pairing.facts.name)


def _views(arguments: Any) -> set[str]:
    """Views of the gradient that an attack takes, or attacks inside it."""
    if isinstance(arguments, dict):
        own = {value for key, value in arguments.items() if key == "gradient" and isinstance(value, str)}
        return own.union(*map(_views, arguments.values()))
    return set().union(*map(_views, arguments)) if isinstance(arguments, list) else set()
