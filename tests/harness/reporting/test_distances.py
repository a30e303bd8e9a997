"""Accuracy at every radius, from the distances in the records of one minimum-norm attack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.reporting import report, summarise
from harness.reporting.tables.charts import charts
from harness.reporting.tables.distances import distances
from harness.results.load import read_run
from harness.results.record import Record


def test_accuracy_falls_where_the_nearest_images_are(maker: Any, rec: Callable[..., Record]) -> None:
    """Of four images: one wrong as it is, misclassified at 0.1 and at 0.3, and one robust."""
    records = [
        rec(0, "w", "w", l2=0.0),
        rec(1, "r", "w", l2=0.1),
        rec(2, "r", "w", l2=0.3),
        rec(3, "r", "r", l2=0.0),
    ]
    maker.cell("plain", "near", records, threat="L2 0.4", nearest=True)
    maker.cell("plain", "pgd", records, threat="L2 0.4")
    root = maker.finish()
    (found,) = distances(summarise(read_run(root)))
    expected = {0.0: 0.75, 0.05: 0.75, 0.1: 0.5, 0.15: 0.5, 0.2: 0.5, 0.25: 0.5, 0.3: 0.25, 0.35: 0.25, 0.4: 0.25}
    assert {round(radius, 6): estimate.value for radius, estimate in found.points} == expected
    assert "Accuracy by L2 distance" in str(report(root, "md"))
    (chart,) = [chart for chart in charts(summarise(read_run(root))) if chart.kind == "distance"]
    assert chart.lines[0].label == "plain, near" and len(chart.lines[0].dots) == 9


def test_radii_that_count_values_are_whole_numbers(maker: Any, rec: Callable[..., Record]) -> None:
    counts = [0.0, 1.0, 3.0, 0.0]
    records = [rec(at, clean, adv, l0=counts[at]) for at, (clean, adv) in enumerate(["ww", "rw", "rw", "rr"])]
    maker.cell("plain", "near", records, threat="L0 4", nearest=True)
    (found,) = distances(summarise(read_run(maker.finish())))
    values = {radius: estimate.value for radius, estimate in found.points}
    assert found.norm == "L0" and values == {0.0: 0.75, 1.0: 0.5, 2.0: 0.5, 3.0: 0.25, 4.0: 0.25}
