"""The places of a table: what a defense's pairings come to, column by column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from harness.guard.doubt import plain
from harness.reporting.stats.accuracy import Estimate, Successes, accuracy, average, failed
from harness.reporting.stats.worst import Draws, noisy_worst_case, splittable, strongest, weakest, worst_case
from harness.reporting.tables.contradiction import above_clean
from harness.reporting.tables.outcomes import (
    clean_successes,
    errors,
    images_told,
    reason,
    remarks_told,
    robust_draws,
    robust_successes,
    unanswered,
    violations,
)
from harness.reporting.tables.reference import PublishedNumber
from harness.results.load import CellResults
from harness.results.record import Rule

MANY = 3
"""Damaged or stale shards that a remark names."""

OPEN = "left out of the value and left open by the interval"

Status = Literal["final", "failed", "unfinished", "absent"]


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

    def usual(self, pairing: CellResults) -> bool:
        """Whether a pairing was attacked as most of the column was."""
        return (pairing.facts.threat, pairing.facts.method) == (self.threat, self.method)


@dataclass(frozen=True)
class Entry:
    """One place of the table.

    Attributes:
        status: "failed" is a pairing of which more than a few images ended in an error (see `statistics.failed`), or a
            number that needs one; "absent" is a pairing (or the average of one) that the run does not have.
        done, total: images with a record, and all images.
        estimate: the accuracy that the column is about; None unless the status is "final".
        benign: accuracy of the same draws and rule on the clean images, likewise.
        errors, violations: images that ended in an error (neither robust nor misclassified), or were found outside the
            budget (the attack failed on them); summed over the attacks for an average or a worst case.
        remarks: what a reader must know about this place.
        doubts: those of the remarks that say why the accuracy may be too high, see `harness.reporting.tables.doubts`.
        pairing: what lies on disk, where the column is one attack.
        published: the number that the suite's reference has for this place.
    """

    status: Status
    done: int = 0
    total: int = 0
    estimate: Estimate | None = None
    benign: Estimate | None = None
    errors: int = 0
    violations: int = 0
    remarks: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    pairing: CellResults | None = None
    published: PublishedNumber | None = None


@dataclass(frozen=True)
class Subject:
    """A defense, and what its entries are made of.

    Attributes:
        pairings: by attack.
        shared: remarks on all of them, which belong to the row.
        count: images of the run.
        labels: of the attacks.
        doubts: by attack, see `harness.reporting.tables.doubts`.
    """

    pairings: dict[str, CellResults]
    stochastic: bool
    shared: tuple[str, ...]
    count: int
    labels: Mapping[str, str]
    doubts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def has_failed(pairing: CellResults) -> bool:
    """Whether a finished pairing has no number because of errors."""
    return pairing.finished and failed(errors(pairing.records), pairing.total)


def entry(column: Column, subject: Subject, rule: Rule) -> Entry:
    """What a defense has in a column."""
    if column.kind == "clean":
        return _clean(subject, list(subject.pairings), rule)
    if any(name not in subject.pairings for name in column.members):
        return Entry("absent")
    if column.kind == "attack":
        return _attack(column, subject, rule)
    return _combined(column, subject, rule)


def naive_successes(pairings: Sequence[CellResults], stochastic: bool, rule: Rule) -> Successes:
    """Under the worst of these finished attacks, (n,)."""
    successes = _stacked(pairings, rule)
    return strongest(_stacked_draws(pairings), successes, rule) if stochastic else weakest(successes)


def _clean(subject: Subject, names: Sequence[str], rule: Rule) -> Entry:
    """The defense's answers on clean images are the same whatever the attack: any pairing's will do."""
    if not names:
        return Entry("absent")
    parts = [records for name in names if len(records := subject.pairings[name].records)]
    if not parts:
        return Entry("unfinished", 0, subject.count)
    records = pd.concat([part[["clean_votes", "label", "error"]] for part in parts])
    records = records.sort_values("clean_votes", key=lambda votes: votes.map(len) == 0, kind="stable")
    records = records[~records.index.duplicated()]
    done, missing = len(records), unanswered(records)
    status: Status = "unfinished" if done < subject.count else "failed" if failed(len(missing), done) else "final"
    estimate = accuracy(clean_successes(records, rule)) if status == "final" else None
    remarks = tuple(_told("without a finite answer", missing, done, status))
    return Entry(status, done, subject.count, estimate, estimate, len(missing), remarks=remarks)


def _attack(column: Column, subject: Subject, rule: Rule) -> Entry:
    pairing = subject.pairings[column.name]
    records = pairing.records
    status: Status = "unfinished" if not pairing.finished else "failed" if has_failed(pairing) else "final"
    final = status == "final"
    doubts = subject.doubts.get(column.name, ()) if final else ()
    return Entry(
        status,
        done=pairing.done,
        total=subject.count,
        estimate=accuracy(robust_successes(records, rule)) if final else None,
        benign=_clean(subject, [column.name], rule).estimate if final else None,
        errors=errors(records),
        violations=violations(records),
        remarks=tuple(dict.fromkeys([*_remarks(column, pairing, status, subject), *doubts])),
        doubts=doubts,
        pairing=pairing,
    )


def _combined(column: Column, subject: Subject, rule: Rule) -> Entry:
    """An average or a worst case."""
    members = [subject.pairings[name] for name in column.members]
    status, estimate, remarks = _combination(column, members, subject, rule)
    doubts = tuple(_inherited(column, members, subject)) if status == "final" else ()
    return Entry(
        status,
        done=min(member.done for member in members),
        total=subject.count,
        estimate=estimate,
        benign=_clean(subject, column.members, rule).estimate if status == "final" else None,
        errors=sum(errors(member.records) for member in members),
        violations=sum(violations(member.records) for member in members),
        remarks=(*remarks, *doubts),
        doubts=doubts,
    )


def _inherited(column: Column, members: Sequence[CellResults], subject: Subject) -> Iterator[str]:
    """Why a number that is made of several is in doubt. A worst case needs one good attack of each budget."""
    doubted = [member for member in members if subject.doubts.get(member.facts.attack)]
    good = {member.facts.threat for member in members if member not in doubted} if column.kind == "worst" else set()
    if open_ones := [member for member in doubted if member.facts.threat not in good]:
        yield f"in doubt, since {_named(open_ones, subject)} {'is' if len(open_ones) == 1 else 'are'}"


def _combination(
    column: Column, members: Sequence[CellResults], subject: Subject, rule: Rule
) -> tuple[Status, Estimate | None, tuple[str, ...]]:
    if broken := [member for member in members if has_failed(member)]:
        return "failed", None, (f"failed, since {_named(broken, subject)} failed",)
    if not all(member.finished for member in members):
        return "unfinished", None, ()
    crashed = [member for member in members if errors(member.records)]
    remarks = (f"errors under {_named(crashed, subject)}, {OPEN}",) if crashed else ()
    successes = _stacked(members, rule)
    if column.kind == "average":
        return "final", average(successes), remarks
    unknown = successes.max(axis=0) if subject.stochastic else weakest(successes)
    if failed(count := int(np.isnan(unknown).sum()), subject.count):
        return "failed", None, (f"failed: {_of(count, subject.count)} ended in an error under one attack or another",)
    if not subject.stochastic:
        return "final", worst_case(successes), remarks
    draws = _stacked_draws(members)
    return "final", noisy_worst_case(draws, successes, rule), (_chosen_how(draws.shape[2], rule), *remarks)


def _stacked(members: Sequence[CellResults], rule: Rule) -> Successes:
    """(attacks, n)."""
    return np.stack([robust_successes(member.records, rule) for member in members])


def _stacked_draws(members: Sequence[CellResults]) -> Draws:
    """(attacks, n, v), of as many draws as there are of every attack."""
    draws = [robust_draws(member.records) for member in members]
    count = min(each.shape[1] for each in draws)
    return np.stack([each[:, :count] for each in draws])


def _chosen_how(draws: int, rule: Rule) -> str:
    """What a worst case of a stochastic defense estimates."""
    if splittable(draws, rule):
        return (
            "the lowest accuracy under any one attack, or under the attack that an image's other draws choose, which "
            "errs upwards; the interval starts from the minimum over few draws, which errs downwards"
        )
    what = "draw" if draws == 1 else f"{rule} of {draws} draws"
    return (
        f"the lowest accuracy under any one attack, which errs upwards: one {what} cannot choose the attack and judge "
        "it too; the interval starts from the images that withstand each, which errs downwards"
    )


def _remarks(column: Column, pairing: CellResults, status: Status, subject: Subject) -> Iterator[str]:
    facts, records = pairing.facts, pairing.records
    if not column.usual(pairing):
        yield facts.method if facts.threat == column.threat else f"{facts.threat}, {facts.method}"
    yield from _told("ended in an error", records[records["verdict"] == "error"], pairing.done, status)
    if count := violations(records):
        yield f"{images_told(count)} left the budget, counted as failures of the attack"
    if pairing.damaged:
        yield f"not counted, the next run redoes them: {_some(pairing.damaged)}"
    if pairing.stale:
        yield f"not counted, records of another claim: images {_some(pairing.stale)}"
    if told := above_clean(records, stochastic=subject.stochastic):
        yield told
    yield from (flag for flag in facts.flags if flag not in subject.shared)
    yield from (plain(remark) for remark in remarks_told(records))


def _told(what: str, crashed: pd.DataFrame, done: int, status: Status) -> Iterator[str]:
    """That these of the images done have no verdict, what that does to the number, and the first one's reason."""
    if len(crashed) and status == "failed":
        yield f"failed: {_of(len(crashed), done)} {what}{reason(crashed)}"
    elif len(crashed):
        yield f"{images_told(len(crashed))} {what}{f', {OPEN}' if status == 'final' else ''}{reason(crashed)}"


def _named(members: Sequence[CellResults], subject: Subject) -> str:
    return ", ".join(subject.labels.get(member.facts.attack, member.facts.attack) for member in members)


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - MANY} more" if len(texts) > MANY else ""
    return "; ".join(texts[:MANY]) + more


def _of(count: int, total: int) -> str:
    return f"{count} of {images_told(total)}"
