"""The table of a run: defenses by clean accuracy, attacks, their average and their worst case.

A number is final only where every image of its pairing has a record; the average and the worst case, where all their
attacks are. Clean accuracy goes through the same rule over draws as robust accuracy, and so does the benign baseline
that stands beside each: success counted over many queries brings even clean images down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from harness.report.facts import Manifest
from harness.report.load import Pairing, Run
from harness.report.naive import Comparison, compare
from harness.report.reference import Published, Reference, named
from harness.report.statistics import RULES, Estimate, Rule, Successes, accuracy, average, success, worst_case
from harness.threat import TOLERANCE

NO_ANSWER = -1
"""The vote of a draw whose logits were not finite."""

MANY = 3
"""Damaged or stale shards that a remark names."""

VIOLATION = "violation"
"""The record's flag of an image outside the budget, which the report counts instead of repeating."""


@dataclass(frozen=True)
class Column:
    """What a column is about.

    Attributes:
        name: the attack's name in the suite, or the kind.
        members: the attacks that it speaks of; all of them for the clean column.
        threat, method: how most of the column's pairings were attacked; None unless it is one attack.
    """

    kind: Literal["clean", "attack", "average", "worst"]
    name: str
    label: str
    members: tuple[str, ...]
    threat: str | None = None
    method: str | None = None


@dataclass(frozen=True)
class Entry:
    """One place of the table.

    Attributes:
        status: "absent" is a pairing (or the average of one) that the run does not have.
        done, total: images with a record, and all images.
        estimate: the accuracy that the column is about; None unless the status is "final".
        benign: accuracy of the same draws and rule on the clean images, likewise.
        errors, violations: images that ended in an error (not robust), or were found outside the budget (the attack
            failed on them); summed over the attacks for an average or a worst case.
        remarks: what a reader must know about this place.
        pairing: what lies on disk, where the column is one attack.
        published: the number that the suite's reference has for this place.
    """

    status: Literal["final", "unfinished", "absent"]
    done: int = 0
    total: int = 0
    estimate: Estimate | None = None
    benign: Estimate | None = None
    errors: int = 0
    violations: int = 0
    remarks: tuple[str, ...] = ()
    pairing: Pairing | None = None
    published: Published | None = None


@dataclass(frozen=True)
class Row:
    """A defense.

    Attributes:
        remarks: what a reader must know about all of its numbers.
        entries: one per column.
        by_rule: the entries under every rule, if it is stochastic.
        naive: the naive evaluation of each budget beside a better one, where the suite says what is naive.
    """

    name: str
    label: str
    stochastic: bool
    remarks: tuple[str, ...]
    entries: tuple[Entry, ...]
    by_rule: dict[Rule, tuple[Entry, ...]]
    naive: tuple[Comparison, ...] = ()


@dataclass(frozen=True)
class Table:
    run: Run
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def rule(self) -> Rule:
        """Of the headline numbers."""
        return self.run.manifest.report.vote

    @property
    def votes(self) -> int:
        return self.run.manifest.protocol.votes


def summarise(run: Run) -> Table:
    """The table of a run, rows and columns in the suite's order."""
    columns, reference = tuple(_columns(run)), named(run.manifest.report.reference)
    return Table(run, columns, tuple(_row(run, name, columns, reference) for name in run.manifest.defenses))


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


def usual(column: Column, pairing: Pairing) -> bool:
    """Whether a pairing was attacked as most of its column was."""
    return (pairing.facts.threat, pairing.facts.method) == (column.threat, column.method)


def rule_name(rule: Rule, votes: int) -> str:
    """In words, for headings and notes."""
    return "single draw" if rule == "single" else f"{rule} of {votes} draws"


def _row(run: Run, name: str, columns: Sequence[Column], reference: Reference) -> Row:
    facts, manifest = run.manifest.defenses[name], run.manifest
    pairings = {attack: pairing for (defense, attack), pairing in run.pairings.items() if defense == name}
    rule = manifest.report.vote
    rules = RULES if facts.stochastic else (rule,)
    shared = _shared_flags(list(pairings.values()))
    published = [reference.get((name, column.name)) for column in columns]
    by_rule = {
        r: tuple(
            replace(_entry(column, pairings, shared, r, manifest), published=number)
            for column, number in zip(columns, published, strict=True)
        )
        for r in rules
    }
    naive = tuple(_naive(pairings, rule, manifest.report.naive))
    labels = {attack: other.label or attack for attack, other in manifest.attacks.items()}
    remarks = (*shared, *(found.told(labels) for found in naive if found.misleading))
    draws = by_rule if facts.stochastic else {}
    return Row(name, facts.label or name, facts.stochastic, remarks, by_rule[rule], draws, naive)


def _naive(pairings: dict[str, Pairing], rule: Rule, names: Sequence[str]) -> Iterator[Comparison]:
    """By budget; only attacks that are finished are compared, and none until the naive ones are."""
    for threat in dict.fromkeys(pairings[name].facts.threat for name in names if name in pairings):
        same = {name: pairing for name, pairing in pairings.items() if pairing.facts.threat == threat}
        if any(name in names and not pairing.finished for name, pairing in same.items()):
            continue
        successes = {
            name: np.where(pairing.records["verdict"] == "error", np.nan, robust_successes(pairing.records, rule))
            for name, pairing in same.items()
            if pairing.finished
        }
        naive = {name: successes.pop(name) for name in names if name in successes}
        if found := compare(naive, successes):
            yield found


def _shared_flags(pairings: list[Pairing]) -> tuple[str, ...]:
    """Gate remarks on the defense itself: those on all of its pairings."""
    flags = dict.fromkeys(flag for pairing in pairings for flag in pairing.facts.flags)
    return tuple(flag for flag in flags if all(flag in pairing.facts.flags for pairing in pairings))


def _entry(
    column: Column, pairings: dict[str, Pairing], shared: tuple[str, ...], rule: Rule, manifest: Manifest
) -> Entry:
    if column.kind == "clean":
        return _clean(list(pairings.values()), rule, manifest.dataset.count)
    if any(name not in pairings for name in column.members):
        return Entry("absent")
    members = [pairings[name] for name in column.members]
    finished = all(member.finished for member in members)
    single = members[0] if column.kind == "attack" else None
    return Entry(
        "final" if finished else "unfinished",
        done=min(member.done for member in members),
        total=manifest.dataset.count,
        estimate=_combine(column, [robust_successes(member.records, rule) for member in members]) if finished else None,
        benign=_combine(column, [_benign(member.records, rule) for member in members]) if finished else None,
        errors=sum(_errors(member.records) for member in members),
        violations=sum(_violations(member.records) for member in members),
        remarks=tuple(_remarks(column, single, shared)) if single else (),
        pairing=single,
    )


def _combine(column: Column, successes: list[Successes]) -> Estimate:
    if column.kind == "average":
        return average(np.stack(successes))
    return worst_case(np.stack(successes))


def _clean(pairings: list[Pairing], rule: Rule, count: int) -> Entry:
    """The defense's answers on clean images are the same whatever the attack: any pairing's will do."""
    if not pairings:
        return Entry("absent")
    parts = [pairing.records[["clean_votes", "label"]] for pairing in pairings if pairing.done]
    if not parts:
        return Entry("unfinished", 0, count)
    records = pd.concat(parts).sort_values("clean_votes", key=lambda votes: votes.map(len) == 0, kind="stable")
    records = records[~records.index.duplicated()]
    failed = sum(not votes or NO_ANSWER in votes for votes in records["clean_votes"])
    final = len(records) == count
    estimate = accuracy(_benign(records, rule)) if final else None
    remarks = (f"{_images(failed)} without a finite answer, counted as wrong",) if failed else ()
    return Entry("final" if final else "unfinished", len(records), count, estimate, estimate, failed, remarks=remarks)


def _benign(records: pd.DataFrame, rule: Rule) -> Successes:
    """Successes on the clean images, (n,), in the run's order of images."""
    pairs = zip(records["clean_votes"], records["label"], strict=True)
    return np.array([success(votes, label, rule) for votes, label in pairs], dtype=np.float64)


def robust_successes(records: pd.DataFrame, rule: Rule) -> Successes:
    """Successes on the adversarial images, likewise; an error is none."""
    rows = zip(records["adv_votes"], records["label"], records["verdict"], strict=True)
    successes = [0.0 if verdict == "error" else success(votes, label, rule) for votes, label, verdict in rows]
    return np.array(successes, dtype=np.float64)


def _errors(records: pd.DataFrame) -> int:
    return int((records["verdict"] == "error").sum())


def _violations(records: pd.DataFrame) -> int:
    return int(((records["verdict"] != "error") & (records["violation"].astype(float) > TOLERANCE)).sum())


def _remarks(column: Column, pairing: Pairing, shared: tuple[str, ...]) -> Iterator[str]:
    facts, records = pairing.facts, pairing.records
    if not usual(column, pairing):
        yield facts.method if facts.threat == column.threat else f"{facts.threat}, {facts.method}"
    if errors := _errors(records):
        yield f"{_images(errors)} ended in an error, counted as not robust"
    if violations := _violations(records):
        yield f"{_images(violations)} left the budget, counted as failures of the attack"
    if pairing.damaged:
        yield f"not counted, the next run redoes them: {_some(pairing.damaged)}"
    if pairing.stale:
        yield f"not counted, records of another claim: images {_some(pairing.stale)}"
    yield from (flag for flag in facts.flags if flag not in shared)
    yield from dict.fromkeys(flag for flags in records["flags"] for flag in flags if flag != VIOLATION)


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - MANY} more" if len(texts) > MANY else ""
    return "; ".join(texts[:MANY]) + more


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
