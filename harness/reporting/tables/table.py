"""The table of a run: a row per defense, with clean accuracy, attacks, their average and their worst case.

A number is final only where every image of its pairing has a record; the average and the worst case, where all their
attacks are. It has failed where more than a few of its images ended in an error
(`harness.reporting.stats.accuracy.failed`); then there is no number, and no average or worst case over it. Clean
accuracy uses the same rule over draws as robust accuracy, and so does the benign baseline beside each number, since
success in all of many draws is rarer even on clean images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from harness.reporting.stats.naive import NaiveComparison, compare
from harness.reporting.tables import ratio
from harness.reporting.tables.doubts import Doubts, doubts
from harness.reporting.tables.entries import Column, Entry, Subject, entry, has_failed, naive_successes
from harness.reporting.tables.outcomes import robust_successes
from harness.reporting.tables.reference import Reference, named
from harness.results.bounds import Bounds, bounds
from harness.results.load import CellResults, Run
from harness.results.record import RULES, Rule


@dataclass(frozen=True)
class Row:
    """A defense.

    Attributes:
        remarks: what a reader must know about all of its numbers.
        entries: one per column.
        by_rule: the entries under every rule, if it is stochastic.
        naive: the naive evaluation of each budget and a better one, where the suite names naive attacks.
    """

    name: str
    label: str
    stochastic: bool
    remarks: tuple[str, ...]
    entries: tuple[Entry, ...]
    by_rule: dict[Rule, tuple[Entry, ...]]
    naive: tuple[NaiveComparison, ...] = ()


@dataclass(frozen=True)
class Table:
    """The table of a run: columns, and a row per defense with an entry per column; and what was certified."""

    run: Run
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    certified: tuple[Bounds, ...] = ()

    @property
    def rule(self) -> Rule:
        """The rule over draws of the headline numbers."""
        return self.run.manifest.report.vote

    @property
    def votes(self) -> int:
        return self.run.manifest.protocol.votes


def summarise(run: Run) -> Table:
    """The table of a run, rows and columns in the suite's order."""
    columns, reference, doubted = tuple(_columns(run)), named(run.manifest.report.reference), doubts(run)
    rows = tuple(_row(run, name, columns, reference, doubted) for name in run.manifest.defenses)
    if run.manifest.report.competitiveness is not None:
        columns, rows = _with_ratios(run, columns, rows)
    return Table(run, columns, rows, tuple(bounds(run)))


def _with_ratios(
    run: Run, columns: tuple[Column, ...], rows: tuple[Row, ...]
) -> tuple[tuple[Column, ...], tuple[Row, ...]]:
    """The columns and rows of a table with its competitiveness ratios, which are formed under the headline rule."""
    report = run.manifest.report
    known = [{column.name: entry for column, entry in zip(columns, row.entries, strict=True)} for row in rows]
    best = ratio.best_known(report.worst, report.competitiveness or {}, known)
    longer = []
    for row, own in zip(rows, known, strict=True):
        both = ratio.entries(own, best, report.worst, report.competitiveness or {})
        by_rule = {
            rule: (*shown, *(both if rule == report.vote else (Entry("absent"), Entry("absent"))))
            for rule, shown in row.by_rule.items()
        }
        longer.append(replace(row, entries=(*row.entries, *both), by_rule=by_rule))
    return (*columns, *ratio.columns(report.worst)), tuple(longer)


def rule_name(rule: Rule, votes: int) -> str:
    """The rule in words, for headings and notes."""
    return "single draw" if rule == "single" else f"{rule} of {votes} draws"


def _columns(run: Run) -> Iterator[Column]:
    manifest = run.manifest
    yield Column("clean", "clean", "Clean", tuple(manifest.attacks))
    for name, facts in manifest.attacks.items():
        ways = Counter((p.facts.threat, p.facts.method) for p in run.pairings.values() if p.facts.attack == name)
        threat, method = ways.most_common(1)[0][0] if ways else (None, None)
        yield Column("attack", name, facts.label or name, (name,), facts.threat or threat, method)
    if len(manifest.report.average) > 1:
        yield Column("average", "average", "Avg", manifest.report.average)
    if len(manifest.report.worst) > 1:
        yield Column("worst", "worst", "Worst", manifest.report.worst)


def subject_of(run: Run, name: str, doubted: Doubts) -> Subject:
    """A defense and its results. doubted: see `harness.reporting.tables.doubts`."""
    facts, manifest = run.manifest.defenses[name], run.manifest
    pairings = {attack: pairing for (defense, attack), pairing in run.pairings.items() if defense == name}
    labels = {attack: other.label or attack for attack, other in manifest.attacks.items()}
    own = {attack: found for (defense, attack), found in doubted.items() if defense == name}
    shared = _shared_flags(list(pairings.values()))
    return Subject(pairings, facts.stochastic, shared, manifest.dataset.count, labels, own)


def _row(run: Run, name: str, columns: Sequence[Column], reference: Reference, doubted: Doubts) -> Row:
    facts, manifest = run.manifest.defenses[name], run.manifest
    subject = subject_of(run, name, doubted)
    shared, labels, rule = subject.shared, subject.labels, manifest.report.vote
    published = [reference.get((name, column.name)) for column in columns]
    by_rule = {
        r: tuple(
            replace(entry(column, subject, r), published=number)
            for column, number in zip(columns, published, strict=True)
        )
        for r in (RULES if facts.stochastic else (rule,))
    }
    naive = tuple(_naive(subject, rule, manifest.report.naive))
    misled = (comparison.describe(labels) for comparison in naive if comparison.misleading)
    remarks = (*_noise_known(facts.noise_seed), *shared, *misled)
    draws = by_rule if facts.stochastic else {}
    return Row(name, facts.title(name), facts.stochastic, remarks, by_rule[rule], draws, naive)


def _noise_known(seed: int | None) -> Iterator[str]:
    if seed is not None:
        yield (
            f"its noise is fixed by seed {seed} and known to the attacker: these are numbers of the derandomised "
            "defense, not of the defense as it is deployed"
        )


def _naive(subject: Subject, rule: Rule, names: Sequence[str]) -> Iterator[NaiveComparison]:
    """A comparison per budget, of attacks that are finished and did not fail, once all naive attacks are finished."""
    pairings = subject.pairings
    for threat in dict.fromkeys(pairings[name].facts.threat for name in names if name in pairings):
        same = {name: pairing for name, pairing in pairings.items() if pairing.facts.threat == threat}
        if any(name in names and not pairing.finished for name, pairing in same.items()):
            continue
        valid = {name: pairing for name, pairing in same.items() if pairing.finished and not has_failed(pairing)}
        naive = [name for name in names if name in valid]
        others = {name: robust_successes(p.columns, rule) for name, p in valid.items() if name not in names}
        if naive and others:
            together = naive_successes([valid[name] for name in naive], subject.stochastic, rule)
            if comparison := compare(naive, together, others):
                yield comparison


def _shared_flags(pairings: list[CellResults]) -> tuple[str, ...]:
    """Remarks of the gates that apply to the defense itself: those on all of its pairings."""
    flags = dict.fromkeys(flag for pairing in pairings for flag in pairing.facts.flags)
    return tuple(flag for flag in flags if all(flag in pairing.facts.flags for pairing in pairings))
