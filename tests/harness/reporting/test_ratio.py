"""Competitiveness ratios against numbers worked out by hand."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.reporting import report, summarise
from harness.reporting.stats.accuracy import Estimate
from harness.reporting.tables import ratio
from harness.reporting.tables.entries import Entry
from harness.results.load import read_run
from harness.results.record import Record

MEMBERS = ("linf", "l2", "fog")


def final(value: float, doubts: tuple[str, ...] = ()) -> Entry:
    return Entry("final", 32, 32, Estimate(value, value - 0.1, value + 0.1, 32), doubts=doubts)


def row(clean: float, linf: float, l2: float, fog: float) -> dict[str, Entry]:
    return dict(zip(("clean", *MEMBERS), map(final, (clean, linf, l2, fog)), strict=True))


ROWS = (row(1.0, 0.2, 0.4, 0.0), row(0.8, 0.5, 0.2, 0.0))


def test_ratios_are_the_mean_and_the_least_of_accuracy_to_the_best_known() -> None:
    best = ratio.best_known(MEMBERS, {"l2": 80.0}, ROWS)
    assert best == {"clean": 1.0, "linf": 0.5, "l2": 0.8}, "nothing withstands the fog"
    average, worst = ratio.entries(ROWS[0], best, MEMBERS, {"l2"})
    assert average.estimate and worst.estimate
    assert average.estimate.value == pytest.approx((1 + 0.4 + 0.5) / 3)
    assert worst.estimate.value == pytest.approx(0.4)
    assert average.estimate.low == pytest.approx((0.9 + 0.2 + 0.375) / 3)
    assert worst.estimate.high == pytest.approx(min(1.1, 0.6, 0.625))
    assert average.estimate.high == pytest.approx((1 + 0.6 + 0.625) / 3), "none exceeds the best of the table"
    average, worst = ratio.entries(ROWS[1], best, MEMBERS)
    assert average.estimate and worst.estimate
    assert (average.estimate.value, worst.estimate.value) == pytest.approx(((0.8 + 1 + 0.25) / 3, 0.25))


def test_the_best_of_every_attack_has_a_ratio_of_one() -> None:
    best = ratio.best_known(("linf",), {}, ROWS[1:])
    assert [e.estimate.value for e in ratio.entries(ROWS[1], best, ("linf",)) if e.estimate] == [1.0, 1.0]


def test_there_is_no_ratio_where_a_number_is_missing_and_doubt_is_handed_on() -> None:
    best = ratio.best_known(MEMBERS, {}, ROWS)
    for status in ("failed", "unfinished", "absent"):
        without = {**ROWS[0], "l2": Entry(status, 3, 32)}  # type: ignore[arg-type]
        assert [e.status for e in ratio.entries(without, best, MEMBERS)] == [status, status]
    doubted = {**ROWS[0], "l2": final(0.4, ("few steps",))}
    assert all(entry.doubts for entry in ratio.entries(doubted, best, MEMBERS))


def test_every_format_has_them_where_the_suite_asks_and_none_elsewhere(
    maker: Any, column: Callable[..., list[Record]]
) -> None:
    """plain: clean 100, linf 50, l2 25 of best 100, 50 and 50, so that the ratios are 1, 1 and 1/2."""
    maker.cell("plain", "linf", column("rrww"))
    maker.cell("plain", "l2", column("rwww"), threat="L2 0.5")
    maker.cell("other", "linf", column("rwww"))
    maker.cell("other", "l2", column("wwww"), threat="L2 0.5")
    both = ["linf", "l2"]
    root: Path = maker.finish(votes=1, report={"worst": both, "competitiveness": {"l2": 50.0}})
    table = summarise(read_run(root))
    kinds = [shown.kind for shown in table.columns]
    average, worst = (table.rows[0].entries[kinds.index(kind)].estimate for kind in ("cr-average", "cr-worst"))
    assert average and worst and (average.value, worst.value) == pytest.approx((2.5 / 3, 0.5))
    for name in ("table", "md", "csv", "json", "latex", "html"):
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(report(root, name), markup=False, highlight=False, soft_wrap=True)
        found = console.export_text()
        assert ("cr-average" if name in ("csv", "json") else "CR-avg") in found, name
        assert ("0.8333" if name in ("csv", "json") else "83.3") in found, name
    plain: Path = maker.finish(votes=1, report={"worst": both})
    assert not [shown for shown in summarise(read_run(plain)).columns if shown.kind.startswith("cr-")]
