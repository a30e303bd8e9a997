"""Accuracy by forward passes: what a naive count over the records gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.reporting import summarise
from harness.reporting.tables.charts import charts
from harness.reporting.tables.passes import accuracy_by_passes, stops_early
from harness.results.columns import columns_of
from harness.results.load import read_run
from harness.results.record import Record

SPENT = [("r", "w", 5), ("r", "w", 40), ("r", "r", 700), ("w", "w", 0), ("r", "w", 650), ("r", "r", 700)]
"""The answer before and after the attack, and the forward passes, of each image."""


def test_an_image_is_right_until_the_passes_that_misclassified_it(rec: Callable[..., Record]) -> None:
    records = columns_of([rec(i, clean, adv, forwards=spent) for i, (clean, adv, spent) in enumerate(SPENT)])
    points = accuracy_by_passes(records, "single")
    assert [k for k, _ in points] == [1, 3, 10, 30, 100, 300, 700]
    for k, estimate in points:
        right = [clean == "r" and (adv == "r" or spent > k) for clean, adv, spent in SPENT]
        assert estimate.value == np.mean(right)
    assert points[-1][1].value == 2 / 6 and stops_early(records, "single")


def test_images_that_ended_in_errors_are_left_out(rec: Callable[..., Record]) -> None:
    records = [rec(i, clean, adv, forwards=spent) for i, (clean, adv, spent) in enumerate(SPENT)]
    records.append(rec(6, adv="", verdict="error", error="x", forwards=3))
    values = [found.value for _, found in accuracy_by_passes(columns_of(records), "single")]
    assert values == [found.value for _, found in accuracy_by_passes(columns_of(records[:-1]), "single")]


def test_a_chart_has_every_deterministic_defense_where_one_attack_stopped_early(
    maker: Any, rec: Callable[..., Record]
) -> None:
    for name, passes in (("one", [5, 40, 20, 20]), ("two", [20] * 4)):
        maker.cell(name, "a", [rec(i, "r", "wwrr"[i], forwards=k) for i, k in enumerate(passes)])
        maker.cell(name, "b", [rec(i, "r", "wwrr"[i], forwards=20) for i in range(4)])
    maker.cell("random", "a", [rec(i, "rr", "rw", forwards=i) for i in range(4)], stochastic=True)
    drawn = [chart for chart in charts(summarise(read_run(maker.finish(votes=2)))) if chart.kind == "queries"]
    assert [chart.title for chart in drawn] == ["a, Linf 8/255: accuracy by forward passes"]
    assert [line.label for line in drawn[0].lines] == ["one", "two"]
    assert drawn[0].logarithmic
    assert [[dot.x for dot in line.dots] for line in drawn[0].lines] == [[1, 3, 10, 40]] * 2
    assert [dot.estimate.value for dot in drawn[0].lines[1].dots] == [1, 1, 1, 0.5]
    assert drawn[0].lines[0].dots[-1].estimate.value == 0.5
