"""Competitiveness ratios: how near a defense is to the best that is known against each attack (Dai et al., 2023).

    CR-avg   = mean over clean and the attacks a of    acc(a) / best(a)
    CR-worst = min over them of                        acc(a) / best(a)

best(a) is the accuracy that `report: {competitiveness: ...}` gives, in percent, or the highest in the table. The paper
takes it from networks trained against a alone. An attack that nothing withstands is left out. Both ends of an interval
are the mean, or the least, of those of the accuracies, all attacks at once; best(a) counts as exact.

Source: MultiRobustBench, arXiv:2302.10980, Sec. 4; there as CR_ind-avg and CR_ind-worst.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence

from harness.reporting.stats.accuracy import Estimate
from harness.reporting.tables.entries import Column, Entry

CLEAN = "clean"


def columns(members: Sequence[str]) -> tuple[Column, Column]:
    """The two columns. members: the attacks that count."""
    return (
        Column("cr-average", "cr_average", "CR-avg", tuple(members)),
        Column("cr-worst", "cr_worst", "CR-worst", tuple(members)),
    )


def best_known(
    members: Sequence[str], given: Mapping[str, float], rows: Sequence[Mapping[str, Entry]]
) -> dict[str, float]:
    """best(a) of clean images and each attack; those of 0 are left out.

    Args:
        members: the attacks that count.
        given: accuracies in percent, by attack or "clean".
        rows: for each defense of the table, its entries by column.
    """
    best = {}
    for name in (CLEAN, *members):
        shown = [row[name].estimate for row in rows if name in row]
        highest = given[name] / 100 if name in given else max((e.value for e in shown if e), default=0.0)
        if highest > 0:
            best[name] = highest
    return best


def entries(
    row: Mapping[str, Entry], best: Mapping[str, float], members: Sequence[str], given: Container[str] = ()
) -> tuple[Entry, Entry]:
    """The two entries of a defense.

    Args:
        row: its entries by column.
        best: of `best_known`.
        members: the attacks that count.
        given: those whose best accuracy is not the highest in the table, which no ratio to it can exceed.
    """
    parts = [row[name] for name in (CLEAN, *members)]
    if not best or any(part.status == "absent" for part in parts):
        return Entry("absent"), Entry("absent")
    done, total = min(part.done for part in parts), max(part.total for part in parts)
    known = {name: row[name].estimate for name in best}
    if any(part.status != "final" for part in parts) or not all(known.values()):
        failed = any(part.status == "failed" for part in parts)
        missing = Entry("failed" if failed else "unfinished", done, total)
        return missing, missing
    ratios = [
        [min(end / best[name], math.inf if name in given else 1.0) for end in (e.value, e.low, e.high)]
        for name, e in known.items()
        if e
    ]
    ends = list(zip(*ratios, strict=True))
    doubts = tuple(dict.fromkeys(doubt for part in parts for doubt in part.doubts))
    doubted = ("in doubt, since an accuracy behind it is",) if doubts else ()
    value, low, high = ends
    made = [Estimate(combine(value), combine(low), combine(high), total) for combine in (_mean, min)]
    average, worst = (Entry("final", done, total, estimate, remarks=doubted, doubts=doubted) for estimate in made)
    return average, worst


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
