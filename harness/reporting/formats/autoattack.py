"""AutoAttack's evaluations in Markdown, with a table for each dataset and budget as in AutoAttack's own README.

`clean` and `AA` are percentages; `report.` is the published number that the suite names; `?` marks a number in doubt.

Source: https://github.com/fra31/auto-attack.
"""

from __future__ import annotations

from harness.reporting.render.markdown import escape
from harness.reporting.tables.leaderboard import Standing, standings
from harness.reporting.tables.table import Table

HEAD = "| # | paper | model | architecture | clean | report. | AA |\n|---:|---|---|---|---:|---:|---:|\n"


def render(tables: list[Table], images: int | None = None) -> str:
    """The tables, the most robust defense first. Raises UserError if there is no evaluation."""
    groups: dict[tuple[str, str, str], list[Standing]] = {}
    for standing in standings(tables):
        name = standing.table.run.manifest.dataset.name
        groups.setdefault((name, standing.norm, standing.eps), []).append(standing)
    return "\n".join(_section(*group, found) for group, found in groups.items())


def _section(dataset: str, norm: str, eps: str, found: list[Standing]) -> str:
    ranked = sorted(found, key=lambda standing: -standing.robust.value)
    rows = "".join(_row(place, standing) for place, standing in enumerate(ranked, 1))
    notes = "".join(f"- {escape(standing.row.label)}: {_note(standing)}\n" for standing in ranked)
    return f"## {escape(dataset)}, {norm}, eps = {eps}\n\n{HEAD}{rows}\n{notes}"


def _row(place: int, standing: Standing) -> str:
    clean, robust = f"{100 * standing.clean.value:.2f}", f"{100 * standing.robust.value:.2f}"
    doubt = "?" if standing.doubts else ""
    return f"| {place} | | {escape(standing.row.label)} | | {clean} | {standing.published} | {robust}{doubt} |\n"


def _note(standing: Standing) -> str:
    parts = [f"AutoAttack, standard, on {escape(standing.sample)}"]
    if standing.least.value < standing.robust.value:
        parts.append(f"another attack of this budget leaves {100 * standing.least.value:.2f}")
    parts += [f"in doubt, {escape(doubt)}" for doubt in standing.doubts]
    return "; ".join(parts) + "."
