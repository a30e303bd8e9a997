from __future__ import annotations

import io
import math
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.cli import main
from harness.errors import UserError
from harness.reporting import report, summarise
from harness.reporting.page.svg import BOTTOM, HEIGHT, TOP, drawing
from harness.reporting.render.plots import figure
from harness.reporting.stats.accuracy import wilson
from harness.reporting.tables.charts import Chart, charts
from harness.results.load import read_run
from harness.results.record import Record

Column = Callable[..., list[Record]]


def drawn(root: Path) -> dict[str, Chart]:
    return {chart.title: chart for chart in charts(summarise(read_run(root)))}


@pytest.fixture
def run(maker: Any, rec: Callable[..., Record], column: Column) -> Path:
    """Three Linf budgets of one method, another threat, and a stochastic defense with two draws right of three."""
    for eps, letters in (("8/255", "rwww"), ("2/255", "rrrw"), ("4/255", "rrww")):
        maker.cell("plain", f"linf{eps[0]}", column(letters), threat=f"Linf {eps}")
    maker.cell("plain", "l2", column("rrrr"), threat="L2 0.5")
    maker.cell("noisy", "l2", [rec(i, "rrr", "rrw") for i in range(4)], stochastic=True, threat="L2 0.5")
    maker.cell("noisy", "linf8", [], stochastic=True)
    maker.defenses["plain"]["label"] = "cost $5 & $6"
    root: Path = maker.finish(votes=3)
    return root


def test_bars_carry_the_tables_numbers_and_intervals(run: Path) -> None:
    chart = drawn(run)["Accuracy by attack"]
    panel = figure(chart)
    axes = next(each for each in panel.axes if each.get_title("left") == "linf8, Linf 8/255")
    assert [bar.get_width() for bar in axes.patches] == [25.0]  # type: ignore[attr-defined]
    low, high = wilson(1, 4)
    ((start, end),) = [path.vertices[:, 0] for path in axes.collections[0].get_paths()]
    assert (start, end) == pytest.approx((100 * low, 100 * high))
    shared = next(each for each in panel.axes if each.get_title("left") == "l2, L2 0.5")
    assert [bar.get_width() for bar in shared.patches] == pytest.approx([100.0, 200 / 3])  # type: ignore[attr-defined]
    assert [text.get_text() for text in panel.axes[0].get_yticklabels()] == [r"cost \$5 & \$6", "noisy"]


def test_budgets_of_one_norm_make_a_curve_that_starts_at_clean_accuracy(run: Path) -> None:
    found = drawn(run)
    assert "Robust accuracy by L2 budget" not in found
    (axes,) = figure(found["Robust accuracy by Linf budget"]).axes
    (line, *_) = axes.lines
    assert list(line.get_xdata()) == pytest.approx([0, 2 / 255, 4 / 255, 8 / 255])
    assert list(line.get_ydata()) == [100, 75, 50, 25]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "2/255", "4/255", "8/255"]


def test_budgets_attacked_by_different_methods_are_no_curve(maker: Any, column: Column) -> None:
    maker.cell("d", "one", column("rrrr"), threat="Linf 0.1", method="pgd")
    maker.cell("d", "two", column("rrww"), threat="Linf 0.2", method="autoattack")
    assert set(drawn(maker.finish())) == {"Accuracy by attack"}


def test_k_draws_are_right_as_often_as_k_of_them_drawn_at_random(maker: Any, rec: Callable[..., Record]) -> None:
    patterns = ["rrrw", "rwww", "rrrr", "wwww"]
    maker.cell("noisy", "a", [rec(i, "rrrr", p) for i, p in enumerate(patterns)], stochastic=True)
    chart = drawn(maker.finish(votes=4))["noisy: right in each of k draws"]
    robust, benign = chart.lines
    for dot in robust.dots:
        choices = [list(combinations(p, int(dot.x))) for p in patterns]
        expected = np.mean([np.mean([set(choice) == {"r"} for choice in found]) for found in choices])
        assert dot.estimate.value == pytest.approx(expected)
    assert benign.baseline and [dot.estimate.value for dot in benign.dots] == [1.0] * 4


def test_sweeps_become_curves_over_numbers_or_in_a_row(maker: Any, column: Column) -> None:
    for name, letters in (("d-1", "rrrr"), ("d-16", "rrww"), ("d-x", "rrrw"), ("d-y", "wwww")):
        maker.cell(name, "a", column(letters))
    sweeps = [
        {"kind": "defenses", "name": "d", "label": "D", "paths": ["steps"], "variants": {"d-16": [16], "d-1": [1]}},
        {"kind": "defenses", "name": "e", "label": "E", "paths": ["mode"], "variants": {"d-x": ["x"], "d-y": ["y"]}},
    ]
    found = drawn(maker.finish(sweeps=sweeps))
    steps, mode = found["D: accuracy by steps"], found["E: accuracy by mode"]
    assert [(dot.x, dot.estimate.value) for dot in steps.lines[0].dots] == [(1, 1.0), (16, 0.5)]
    assert steps.logarithmic and figure(steps).axes[0].get_xscale() == "log"
    assert [line.label for line in steps.lines] == ["a", "Clean"]
    assert [(dot.x, dot.tick) for dot in mode.lines[0].dots] == [(0, "x"), (1, "y")]
    assert "Accuracy by attack" not in found


def test_the_pages_drawing_has_the_same_heights(run: Path) -> None:
    chart = drawn(run)["Robust accuracy by Linf budget"]
    (stroke,) = drawing(chart).strokes
    scale = HEIGHT - TOP - BOTTOM
    values = [1 - (mark.y - TOP) / scale for mark in stroke.marks]
    assert values == pytest.approx([1, 0.75, 0.5, 0.25], abs=1e-3)
    assert [mark.x for mark in stroke.marks] == sorted(mark.x for mark in stroke.marks)
    assert all(mark.high <= mark.y <= mark.low for mark in stroke.marks)
    assert stroke.marks[-1].title.startswith("cost $5 & $6, Linf budget (0: no attack) 8/255: 25.0% (")


def test_unfinished_numbers_are_not_drawn(run: Path) -> None:
    bars = drawn(run)["Accuracy by attack"]
    assert [dot.tick for line in bars.lines if line.label.startswith("linf8") for dot in line.dots] == ["cost $5 & $6"]


@pytest.mark.slow
def test_files_are_valid_and_the_same_each_time(run: Path) -> None:
    first = report(run, "png")
    assert isinstance(first, dict) and len(first) == 3 and first == report(run, "png")
    for content in first.values():
        with Image.open(io.BytesIO(content)) as image:
            assert image.size > (500, 300) and np.asarray(image.convert("L")).std() > 5


def test_equal_titles_get_files_of_their_own(maker: Any, column: Column, tmp_path: Path) -> None:
    for name in ("one", "two"):
        made = type(maker)(tmp_path / "runs" / name)
        made.cell("d", "a", column("rrrr"))
        made.finish()
    assert list(report(tmp_path / "runs", "png")) == ["tiny-accuracy-by-attack.png", "tiny-accuracy-by-attack-1.png"]


def test_nothing_finished_is_a_mistake_and_says_so(maker: Any) -> None:
    maker.cell("d", "a", [])
    with pytest.raises(UserError, match="no finished number"):
        report(maker.finish(), "png")


@pytest.mark.slow
def test_the_command_writes_into_a_folder(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Documents, which are the same each time."""
    documents: list[dict[str, bytes]] = []
    for arguments, folder in (([], run / "plots"), (["--output", str(tmp_path / "mine")], tmp_path / "mine")):
        with pytest.raises(SystemExit) as end:
            main(["report", str(run), "--format", "pdf", *arguments])
        assert end.value.code == 0
        documents.append({path.name: path.read_bytes() for path in folder.glob("*.pdf")})
    assert capsys.readouterr().out.count("Wrote") == 6
    assert documents[0] == documents[1] and len(documents[0]) == 3
    assert all(content.startswith(b"%PDF") for content in documents[0].values())


def test_an_interval_without_width_is_drawn(maker: Any, column: Column) -> None:
    maker.cell("d", "a", column("rrrr"))
    panel = figure(drawn(maker.finish())["Accuracy by attack"])
    assert all(math.isfinite(value) for value in panel.axes[0].get_position().bounds)


def test_what_failed_has_no_bar_and_says_so(maker: Any, rec: Callable[..., Record], column: Column) -> None:
    broken = [rec(i, clean="", adv="", verdict="error", error="x") for i in range(4)]
    maker.cell("fine", "a", column("rrww"))
    maker.cell("half", "a", broken)
    maker.cell("half", "b", column("rrww"))
    maker.cell("broken", "a", broken)
    maker.cell("broken", "b", broken)
    chart = drawn(maker.finish())["Accuracy by attack"]
    panel = figure(chart)
    axes = next(each for each in panel.axes if each.get_title("left").startswith("a, "))
    assert [bar.get_width() for bar in axes.patches] == [50.0]  # type: ignore[attr-defined]
    assert [text.get_text() for text in axes.texts] == ["50.0", "failed", "failed"]
    assert [text.get_text() for text in panel.axes[0].get_yticklabels()] == ["fine", "half", "broken"]


def test_what_failed_has_no_dot_in_any_curve(maker: Any, rec: Callable[..., Record]) -> None:
    broken = [rec(i, adv="", verdict="error", error="x") for i in range(4)]
    for eps, records in (
        ("2/255", [rec(i) for i in range(4)]),
        ("4/255", broken),
        ("8/255", [rec(i) for i in range(4)]),
    ):
        maker.cell("noisy", f"linf{eps[0]}", records, threat=f"Linf {eps}", stochastic=True)
    found = drawn(maker.finish(votes=2))
    assert [dot.tick for dot in found["Robust accuracy by Linf budget"].lines[0].dots] == ["0", "2/255", "8/255"]
    assert "linf4" not in {line.label for line in found["noisy: right in each of k draws"].lines}
