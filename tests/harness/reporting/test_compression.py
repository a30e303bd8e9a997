"""What `harness diagnose` measured of compression is a table and a chart of the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.reporting import report, summarise
from harness.reporting.render.plots import footer
from harness.reporting.tables.charts import charts
from harness.results.load import read_run
from harness.results.record import Record

PART = {"type": "diffpure", "arguments": {}}


@pytest.fixture
def measured(maker: Any, column: Callable[..., list[Record]]) -> Callable[..., Path]:
    """A run with a diagnosis whose ratios are these, of two sizes of the perturbation."""

    def made(images: int = 4, **ratios: list[list[float]]) -> Path:
        maker.cell("pure", "linf", column("rrww"))
        maker.defenses["pure"]["type"] = PART["type"]
        root: Path = maker.finish(resolved={"defenses": {"pure": PART}})
        data = {"images": images, "shares": [0.5, 1.0], "compression": ratios}
        content = {
            **{"schema_version": 2, "harness": "0", "key": "k", "suite": "tiny", "defense": "pure", "label": "Pure"},
            **{"attack": "linf", "threat": "Linf 8/255", "surrogate": None, "images": images, "resolved": PART},
            **{"settings": {"gradient": "exact"}, "finished": True},
            "findings": [{"name": "compression", "status": "passed", "message": "m", "data": data}],
        }
        path = root / "diagnose" / "pure.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
        return root

    return made


def test_the_table_has_the_ratios_at_eps_and_the_chart_those_of_every_size(measured: Callable[..., Path]) -> None:
    draw, slope, other = (
        [[0.5, 0.4, 0.6], [0.25, 0.2, 0.3]],
        [[0.75, 0.7, 0.8], [1.5, 1.2, 1.8]],
        [[9, 8, 10], [5, 4, 6]],
    )
    root = measured(random=draw, gradient=slope, other_noise=other)
    page = str(report(root, "md"))
    assert "Compression by purification" in page
    line = next(line for line in page.splitlines() if line.startswith("| pure |") and "0.25" in line)
    assert all(text in line for text in ("0.25", "0.20–0.30", "1.5", "1.20–1.80", "5 <sub>4.00–6.00"))
    (chart,) = [chart for chart in charts(summarise(read_run(root))) if chart.kind == "compression"]
    assert [(dot.x, dot.estimate.value) for dot in chart.lines[0].dots] == [(0.5, 0.75), (1.0, 1.5)]
    assert chart.top == 1.8  # a ratio above 1 is inside the chart
    assert "Compression: distance of two images" in str(report(root, "html"))


def test_the_plot_says_on_how_many_images_it_was_measured_and_not_how_many_the_run_has(
    measured: Callable[..., Path],
) -> None:
    ratios = [[0.5, 0.4, 0.6]] * 2
    table = summarise(read_run(measured(images=3, random=ratios, gradient=ratios, other_noise=ratios)))
    footers = {chart.kind: footer(table, chart) for chart in charts(table)}
    assert "n = 4 images" in footers["bars"] and "n = 3 images" in footers["compression"]


def test_ratios_of_other_sizes_than_it_says_are_no_diagnosis(measured: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="not a diagnosis"):
        report(measured(random=[[1, 1, 1]], gradient=[[1, 1, 1]]), "md")
