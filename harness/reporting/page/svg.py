"""The geometry of a chart, 0 to `WIDTH` and 0 to `HEIGHT`, for the page's SVG; the template adds only colours."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.reporting.tables.charts import Chart, Line

WIDTH, HEIGHT = 420, 240
LEFT, RIGHT, TOP, BOTTOM = 34, 12, 10, 40
CLOSE = 26
"""Ticks nearer than this would overlap."""

ASIDE = 3
"""Lines are drawn this far beside each other, so that their intervals do not overlap."""


@dataclass(frozen=True)
class Mark:
    """A dot at (x, y), its interval from low to high (both y), and its description."""

    x: float
    y: float
    low: float
    high: float
    title: str


@dataclass(frozen=True)
class Stroke:
    """One line. path: "x,y x,y ..."."""

    label: str
    baseline: bool
    path: str
    marks: list[Mark]


@dataclass(frozen=True)
class Drawing:
    """ticks: x and its text; rules: y and its text."""

    title: str
    axis: str
    ticks: list[tuple[float, str]]
    rules: list[tuple[float, str]]
    strokes: list[Stroke]


def drawing(chart: Chart) -> Drawing:
    """The geometry of a chart with an axis of numbers."""
    ticks: list[tuple[float, str]] = []
    for x, text in ((round(_across(chart, x), 1), text) for x, text in chart.ticks):
        if not ticks or x - ticks[-1][0] >= CLOSE:
            ticks.append((x, text))
    shares = [chart.top * share for share in (0, 0.25, 0.5, 0.75, 1)]
    rules = [(round(_down(chart, share), 1), f"{chart.scale * share:.3g}") for share in shares]
    aside = [ASIDE * (at - (len(chart.lines) - 1) / 2) for at in range(len(chart.lines))]
    strokes = [_stroke(chart, line, shift) for line, shift in zip(chart.lines, aside, strict=True)]
    return Drawing(chart.title, chart.axis, ticks, rules, strokes)


def _stroke(chart: Chart, line: Line, shift: float) -> Stroke:
    marks = []
    for dot in line.dots:
        value, low, high = dot.estimate.value, dot.estimate.low, dot.estimate.high
        title = f"{line.label}, {chart.axis} {dot.tick}: {_written(chart, value, low, high)}"
        y, bottom, top = (round(_down(chart, max(0.0, share)), 1) for share in (value, low, high))
        marks.append(Mark(round(_across(chart, dot.x) + shift, 1), y, bottom, top, title))
    return Stroke(line.label, line.baseline, " ".join(f"{mark.x},{mark.y}" for mark in marks), marks)


def _written(chart: Chart, value: float, low: float, high: float) -> str:
    if chart.scale == 100:
        return f"{100 * value:.1f}% ({100 * low:.1f}–{100 * high:.1f})"
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def _across(chart: Chart, x: float) -> float:
    scale = math.log if chart.logarithmic else float
    low, high = scale(chart.ticks[0][0]), scale(chart.ticks[-1][0])
    share = (scale(x) - low) / (high - low) if high > low else 0.5
    return LEFT + 10 + share * (WIDTH - LEFT - RIGHT - 20)


def _down(chart: Chart, share: float) -> float:
    return TOP + (1 - share / chart.top) * (HEIGHT - TOP - BOTTOM)
