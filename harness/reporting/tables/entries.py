"""The entries of a table: the results of a defense's pairings, column by column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from harness.guard.doubt import plain
from harness.reporting.stats.accuracy import Estimate, Successes, accuracy, average, both_known, failed
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
from harness.results.columns import Columns
from harness.results.load import CellResults
from harness.results.record import Rule

MANY = 3
"""How many damaged or stale shards a remark names."""

OPEN = "left out of the accuracy but allowed for by the interval"

Status = Literal["final", "failed", "unfinished", "absent"]


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        name: the attack's name in the suite, or the kind.
        members: the attacks that it covers; all of them for the clean column.
        threat, method: how most of the column's pairings were attacked; None unless it is one attack.
    """

    kind: Literal["clean", "attack", "average", "worst", "cr-average", "cr-worst"]
    name: str
    label: str
    members: tuple[str, ...]
    threat: str | None = None
    method: str | None = None

    def usual(self, pairing: CellResults) -> bool:
        """Whether a pairing was attacked in the same way as most of the column."""
        return (pairing.facts.threat, pairing.facts.method) == (self.threat, self.method)


@dataclass(frozen=True)
class Entry:
    """One entry of the table.

    Attributes:
        status: "failed" is a pairing of which more than a few images ended in an error (see `stats.accuracy.failed`),
            or a number that depends on one; "absent" is a pairing (or the average of one) that the run does not have.
        done, total: images with a record, and all images.
        estimate: the accuracy; None unless the status is "final".
        benign: accuracy of the same draws and rule on the clean images, likewise.
        errors, violations: how many images ended in an error (neither robust nor misclassified), or left the budget
            (the attack failed on them); summed over the attacks for an average or a worst case.
        remarks: what a reader must know about this entry.
        doubts: those of the remarks that say why the accuracy may be too high, see `harness.reporting.tables.doubts`.
        pairing: the stored results, where the column is one attack.
        published: the published number for this entry.
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
    """A defense and its results.

    Attributes:
        pairings: the results by attack.
        shared: remarks that apply to all of them, which belong to the row.
        count: the number of images of the run.
        labels: the labels of the attacks.
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
    return pairing.finished and failed(errors(pairing.columns), pairing.total)


def entry(column: Column, subject: Subject, rule: Rule) -> Entry:
    """The entry of a defense in a column."""
    if column.kind == "clean":
        return _clean(subject, list(subject.pairings), rule)
    if any(name not in subject.pairings for name in column.members):
        return Entry("absent")
    if column.kind == "attack":
        return _attack(column, subject, rule)
    return _combined(column, subject, rule)


def naive_successes(pairings: Sequence[CellResults], stochastic: bool, rule: Rule) -> Successes:
    """Successes under the worst of these finished attacks, (n,)."""
    successes = _stacked(pairings, rule)
    return strongest(_stacked_draws(pairings), successes, rule) if stochastic else weakest(successes)


def _clean(subject: Subject, names: Sequence[str], rule: Rule) -> Entry:
    """Predictions on clean images do not depend on the attack, so that the records of any pairing serve."""
    if not names:
        return Entry("absent")
    parts = [pairing for name in names if len((pairing := subject.pairings[name]).columns)]
    if not parts:
        return Entry("unfinished", 0, subject.count)
    records = _first_answers(parts, subject.count)
    done, missing = len(records), unanswered(records)
    status: Status = "unfinished" if done < subject.count else "failed" if failed(len(missing), done) else "final"
    estimate = accuracy(clean_successes(records, rule)) if status == "final" else None
    remarks = tuple(_error_remark("without finite logits", missing, done, status))
    return Entry(status, done, subject.count, estimate, estimate, len(missing), remarks=remarks)


def _first_answers(parts: Sequence[CellResults], count: int) -> Columns:
    """A record for each image that any pairing has: the first one with predictions, if there is one.

    count: the number of images of the run.
    """
    chosen, known, seen = list[Columns](), np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    for part in parts:
        new = (part.columns.draws("clean") > 0) & ~known[part.places]
        if new.any():
            chosen.append(part.columns if new.all() else part.columns.take(np.flatnonzero(new)))
            known[part.places[new]] = True
    for part in parts:
        new = ~(known | seen)[part.places]
        if new.any():
            chosen.append(part.columns.take(np.flatnonzero(new)))
            seen[part.places[new]] = True
    return Columns.joined(chosen)


def _attack(column: Column, subject: Subject, rule: Rule) -> Entry:
    pairing = subject.pairings[column.name]
    records = pairing.columns
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
    doubts = tuple(_inherited(column, members, subject, rule)) if status == "final" else ()
    return Entry(
        status,
        done=min(member.done for member in members),
        total=subject.count,
        estimate=estimate,
        benign=_clean(subject, column.members, rule).estimate if status == "final" else None,
        errors=sum(errors(member.columns) for member in members),
        violations=sum(violations(member.columns) for member in members),
        remarks=(*remarks, *doubts),
        doubts=doubts,
    )


def _inherited(column: Column, members: Sequence[CellResults], subject: Subject, rule: Rule) -> Iterator[str]:
    """Why a number that is made of several is in doubt."""
    doubted = [member for member in members if subject.doubts.get(member.facts.attack)]
    good = [member for member in members if member not in doubted] if column.kind == "worst" else []
    if open_ones := [member for member in doubted if not any(_outdoes(other, member, rule) for other in good)]:
        yield f"in doubt, since {_named(open_ones, subject)} {'is' if len(open_ones) == 1 else 'are'}"


def _outdoes(good: CellResults, doubted: CellResults, rule: Rule) -> bool:
    """Whether a worst case needs the doubted attack no more, since a good one of the same budget left as little."""
    if good.facts.threat != doubted.facts.threat:
        return False
    left, left_by_doubted = both_known(*(robust_successes(attack.columns, rule) for attack in (good, doubted)))
    return bool(left.mean() <= left_by_doubted.mean())


def _combination(
    column: Column, members: Sequence[CellResults], subject: Subject, rule: Rule
) -> tuple[Status, Estimate | None, tuple[str, ...]]:
    if broken := [member for member in members if has_failed(member)]:
        return "failed", None, (f"failed, since {_named(broken, subject)} failed",)
    if not all(member.finished for member in members):
        return "unfinished", None, ()
    crashed = [member for member in members if errors(member.columns)]
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
    """Successes, (attacks, n)."""
    return np.stack([robust_successes(member.columns, rule) for member in members])


def _stacked_draws(members: Sequence[CellResults]) -> Draws:
    """Draws, (attacks, n, v), where v is the smallest number of draws of any attack."""
    draws = [robust_draws(member.columns) for member in members]
    count = min(each.shape[1] for each in draws)
    return np.stack([each[:, :count] for each in draws])


def _chosen_how(draws: int, rule: Rule) -> str:
    """A remark on what the worst case of a stochastic defense estimates."""
    if splittable(draws, rule):
        return (
            "the lowest accuracy under any one attack, or under the attack that an image's other draws choose, which "
            "is rather too high; the interval starts from each image's minimum over few draws, which is rather too low"
        )
    what = "draw" if draws == 1 else f"{rule} of {draws} draws"
    return (
        f"the lowest accuracy under any one attack, which is rather too high: one {what} cannot both choose the attack "
        "and judge it; the interval starts from the images that withstand every attack, which is rather too low"
    )


def _remarks(column: Column, pairing: CellResults, status: Status, subject: Subject) -> Iterator[str]:
    facts, records = pairing.facts, pairing.columns
    if not column.usual(pairing):
        yield facts.method if facts.threat == column.threat else f"{facts.threat}, {facts.method}"
    yield from _error_remark("ended in an error", records.take(np.flatnonzero(records.failed)), pairing.done, status)
    if count := violations(records):
        yield f"{images_told(count)} outside the budget, counted as failures of the attack"
    if pairing.damaged:
        yield f"not counted, and computed again by the next run: {_some(pairing.damaged)}"
    if pairing.stale:
        yield f"not counted, since the records have another cell key: images {_some(pairing.stale)}"
    if remark := above_clean(records, stochastic=subject.stochastic):
        yield remark
    yield from (flag for flag in facts.flags if flag not in subject.shared)
    yield from (plain(remark) for remark in remarks_told(records))


def _error_remark(what: str, crashed: Columns, done: int, status: Status) -> Iterator[str]:
    """How many images have no verdict, what that means for the number, and the reason of the first one."""
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
