"""The charts of a report as files for a paper, through matplotlib without a display.

The same results give the same bytes: no date is written, and the fonts come with matplotlib.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Collection
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Transform, offset_copy

from harness.errors import UserError
from harness.reporting.render.layout import Footnotes
from harness.reporting.render.sheet import FAILED
from harness.reporting.tables.charts import Chart, Dot, Line, charts
from harness.reporting.tables.notes import DOUBT, NOTHING, one_line
from harness.reporting.tables.table import Table, rule_name

PlotFormat = Literal["png", "pdf"]

COLOURS = ("#2f6db3", "#d0662a", "#3a8f5c", "#a8457c", "#7a6a2f", "#5b5ea6", "#4f9aa8", "#8c4a3a")
MARKERS = "osD^vPX*"
GREY = "#777777"

ASIDE = 2
"""Points between the lines of a curve."""

MARGIN = 0.06
"""Room at either end of an axis, in shares of its length."""

SMALL = 6.5
"""The font size of values, marks, captions and footnotes."""

LINE, CHARACTERS = 0.13, 19
"""The height of a line of that size in inches, and the number of its characters to an inch."""

VALUE = "value"
"""The name of the texts that are values beside bars."""

BY_RULE = ("bars", "budget", "sweep")
"""The kinds of charts whose values follow the table's rule over draws."""

WHISKERS: dict[str, Any] = {"fmt": "none", "elinewidth": 1, "capsize": 2.5, "alpha": 0.8}

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
    "savefig.dpi": 200,
    "mathtext.default": "regular",
}


def plots(tables: list[Table], format: PlotFormat) -> dict[str, bytes]:
    """A file per chart, by name.

    Raises:
        UserError: nothing is finished.
    """
    drawn: dict[str, bytes] = {}
    for table in tables:
        for chart in charts(table):
            name = _name(f"{table.run.manifest.suite} {chart.title}", format, drawn)
            drawn[name] = _drawn(figure(chart, footer(table, chart)), format)
    if not drawn:
        runs = ", ".join(str(table.run.path) for table in tables)
        raise UserError(f"{runs} has no finished number to plot", remedy="Run the suite again to finish it")
    return drawn


def figure(chart: Chart, caption: str = "") -> Figure:
    """A chart as a separate matplotlib figure. caption: what stands below it, before the footnotes."""
    footnotes = Footnotes()
    with rc_context(STYLE):
        panel = _bars(chart, footnotes) if chart.kind == "bars" else _curve(chart, footnotes)
        lines = [caption, *(f"{mark}: {text}" for text, mark in footnotes.letters.items())]
        width = int(panel.get_figwidth() * CHARACTERS)
        below = "\n".join(textwrap.fill(line, width) for line in lines if line)
        if below:
            panel.set_figheight(panel.get_figheight() + LINE * (below.count("\n") + 1))
            panel.supxlabel(_plain(below), x=0.01, ha="left", fontsize=SMALL, color=GREY)
        return panel


def footer(table: Table, chart: Chart) -> str:
    """The run, the images, and what the whiskers are. `harness diagnose` may have measured on fewer images."""
    manifest, sheet = table.run.manifest, one_line(table.run.manifest.title or table.run.manifest.suite)
    data = manifest.dataset
    doubt = f" {DOUBT}: in doubt." if any(dot.doubted for line in chart.lines for dot in line.dots) else ""
    drawn = chart.kind in BY_RULE and any(row.stochastic for row in table.rows)
    rule = f", {rule_name(table.rule, table.votes)} where stochastic" if drawn else ""
    count = _span([dot.estimate.n for line in chart.lines for dot in line.dots]) if chart.diagnosed else str(data.count)
    return f"{sheet}. n = {count} images {data.origin}{rule}; whiskers: 95% intervals.{doubt}"


def _span(counts: list[int]) -> str:
    """The number, or the smallest and the largest."""
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _marks(dot: Dot, footnotes: Footnotes) -> str:
    """The signs behind a value: of doubt, and of its footnotes."""
    marks = footnotes.marks(dot.remarks)
    return f"{DOUBT if dot.doubted else ''}{f' {marks}' if marks else ''}"


def _bars(chart: Chart, footnotes: Footnotes) -> Figure:
    """A panel per column, side by side in rows of four; a bar per defense, a dash or "failed" where it has none."""
    ticks = chart.ticks
    wide = min(len(chart.lines), 4)
    deep = -(-len(chart.lines) // wide)
    panel = Figure(figsize=(1.2 + 1.9 * wide, deep * (0.9 + 0.28 * len(ticks))), layout="constrained")
    places = panel.subplots(deep, wide, sharey=True, squeeze=False).flatten()
    for axes, line in zip(places, chart.lines, strict=False):
        axes.set_title(_plain(line.label))
        at, values = [dot.x for dot in line.dots], _values(line, chart.scale)
        axes.barh(at, values, 0.62, color="#9db8d9")
        axes.errorbar(values, at, xerr=_spread(line, chart.scale), ecolor="#1f3b5c", **WHISKERS)
        for dot in line.dots:
            written = f"{chart.scale * dot.estimate.value:.1f}{_marks(dot, footnotes)}"
            axes.text(103, dot.x, written, va="center", fontsize=SMALL, color=GREY, gid=VALUE)
        for x in {x for x, _ in ticks} - set(at):
            axes.text(2, x, FAILED if x in dict(line.failed) else NOTHING, va="center", color=GREY)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 100)
        axes.set_xlabel(chart.measure)
    for axes in places[len(chart.lines) :]:
        axes.set_visible(False)
    places[0].set_yticks([x for x, _ in ticks], [_plain(text) for _, text in ticks])
    places[0].invert_yaxis()
    return panel


def _curve(chart: Chart, footnotes: Footnotes) -> Figure:
    """All lines over one axis, moved aside by a few points so that their intervals do not overlap."""
    panel = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = panel.subplots()
    axes.set_title(_plain(chart.title))
    if chart.logarithmic:
        axes.set_xscale("log", base=2)
    axes.set_xticks([x for x, _ in chart.ticks], [_plain(text) for _, text in chart.ticks])
    axes.set_xticks([], minor=True)
    for place, line in enumerate(chart.lines):
        aside = ASIDE * (place - (len(chart.lines) - 1) / 2)
        moved = offset_copy(axes.transData, panel, aside, units="points")
        _draw_line(axes, line, chart.scale, _colour(chart, line), MARKERS[place % len(MARKERS)], moved)
        for dot in line.dots:
            if marks := _marks(dot, footnotes).strip():
                at, colour = (dot.x, chart.scale * dot.estimate.value), _colour(chart, line)
                axes.annotate(marks, at, (4, 3), textcoords="offset points", fontsize=SMALL, color=colour)
    lowest = min(0.0, *(dot.estimate.value for line in chart.lines for dot in line.dots))
    axes.set_xlim(*_limits(chart))
    axes.set_ylim(chart.scale * lowest, chart.scale * chart.top * 1.03)
    axes.set_xlabel(_plain(chart.axis))
    axes.set_ylabel(chart.measure)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return panel


def _colour(chart: Chart, line: Line) -> str:
    """The colour of a line. A single baseline is grey; each of several has the colour of its attack."""
    alike = [other for other in chart.lines if other.baseline == line.baseline]
    return GREY if line.baseline and len(alike) == 1 else COLOURS[alike.index(line) % len(COLOURS)]


def _limits(chart: Chart) -> tuple[float, float]:
    """The axis with room at both ends: matplotlib does not allow for lines that were moved aside."""
    at = [dot.x for line in chart.lines for dot in line.dots]
    low, high = min(at), max(at)
    if chart.logarithmic:
        room = (high / low) ** MARGIN if high > low else 2**MARGIN
        return low / room, high * room
    room = MARGIN * ((high - low) or 1)
    return low - room, high + room


def _draw_line(axes: Axes, line: Line, scale: float, colour: str, marker: str, transform: Transform) -> None:
    at, values = [dot.x for dot in line.dots], _values(line, scale)
    style, marker = ("--", "") if line.baseline else ("-", marker)
    axes.plot(at, values, color=colour, label=_plain(line.label), transform=transform, ls=style, marker=marker, ms=4)
    axes.errorbar(at, values, yerr=_spread(line, scale), ecolor=colour, transform=transform, **WHISKERS)


def _values(line: Line, scale: float) -> list[float]:
    return [scale * dot.estimate.value for dot in line.dots]


def _spread(line: Line, scale: float) -> tuple[list[float], list[float]]:
    """How far the 95% interval reaches below and above each value."""
    below = [scale * (dot.estimate.value - dot.estimate.low) for dot in line.dots]
    return below, [scale * (dot.estimate.high - dot.estimate.value) for dot in line.dots]


def _plain(text: str) -> str:
    """Text in which matplotlib finds no mathematics."""
    return text.replace("$", r"\$")


def _name(text: str, format: str, taken: Collection[str]) -> str:
    stem = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    numbers = (f"{stem}{f'-{number}' if number else ''}.{format}" for number in range(len(taken) + 1))
    return next(name for name in numbers if name not in taken)


def _drawn(panel: Figure, format: PlotFormat) -> bytes:
    dateless: dict[str, Any] = {"CreationDate": None} if format == "pdf" else {"Software": None}
    sink = io.BytesIO()
    with rc_context(STYLE):
        panel.savefig(sink, format=format, metadata=dateless)
    return sink.getvalue()
