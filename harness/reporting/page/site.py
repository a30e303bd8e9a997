"""A site of many runs: an index page with a leaderboard, and the page of each run. Plain files, no server needed.

index.html          the leaderboard, with filters, and the list of runs
runs/NAME.html      one page a run, as `harness report --format html` writes it
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.reporting.page.render import POLICY, read_asset, render, template
from harness.reporting.render.layout import entry_shown
from harness.reporting.render.sheet import Shown
from harness.reporting.tables.notes import one_line
from harness.reporting.tables.ranking import RankedDefense, ranking
from harness.reporting.tables.table import Table

INDEX = "index.html"


def site(tables: Sequence[Table], root: Path, images: int | None = None) -> Iterator[tuple[str, bytes]]:
    """The files of the site by name, one after another, the index first.

    Args:
        tables: of the runs; root: the folder in or below which they lie.
        images: how many images of each pairing a page shows; left out, `harness.reporting.page.gallery` chooses.
    """
    names = page_names([table.run.path for table in tables], root)
    yield INDEX, _index(tables, names).encode()
    for table, name in zip(tables, names, strict=True):
        yield name, render([table], images, home=f"../{INDEX}").encode()


def page_names(runs: Sequence[Path], root: Path) -> list[str]:
    """The name of each run's page, after its folder; each a different one.

    Example:
        >>> page_names([Path("results/digits/a b"), Path("results/digits/a-b")], Path("results"))
        ['runs/digits-a-b.html', 'runs/digits-a-b-2.html']
    """
    names: list[str] = []
    for path in runs:
        relative = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        stem = re.sub(r"[^A-Za-z0-9_]+", "-", relative if relative != "." else path.absolute().name).strip("-") or "run"
        number, name = 1, f"runs/{stem}.html"
        while name.lower() in {taken.lower() for taken in names}:  # some file systems ignore the case of letters
            number += 1
            name = f"runs/{stem}-{number}.html"
        names.append(name)
    return names


def _index(tables: Sequence[Table], names: Sequence[str]) -> str:
    pages = {table.run.path: name for table, name in zip(tables, names, strict=True)}
    divisions = [
        {
            "dataset": dataset,
            "threat": threat,
            "rows": [_standing(place, found, pages) for place, found in enumerate(standings, 1)],
        }
        for (dataset, threat), standings in ranking(tables).items()
    ]
    runs = [_run(table, name) for table, name in zip(tables, names, strict=True)]
    page = template("site.html").render(
        policy=POLICY,
        style=read_asset("style.css"),
        script=read_asset("sort.js") + "\n" + read_asset("site.js"),
        divisions=divisions,
        runs=runs,
        datasets=sorted({division["dataset"] for division in divisions}),
        threats=sorted({division["threat"] for division in divisions}),
    )
    return page.rstrip() + "\n"


def _standing(place: int, standing: RankedDefense, pages: dict[Path, str]) -> dict[str, Any]:
    manifest = standing.table.run.manifest
    worst = entry_shown(standing.worst)
    return {
        "place": place if standing.worst.estimate else "",
        "label": one_line(standing.row.label),
        "remarks": [*standing.row.remarks, *standing.worst.remarks],
        "doubted": bool(standing.worst.doubts),
        "worst": _cell(worst, standing.worst.status),
        "clean": _cell(entry_shown(standing.clean), standing.clean.status),
        "attacks": ", ".join(map(one_line, standing.attacks)),
        "count": len(standing.attacks),
        "images": manifest.dataset.count,
        "page": pages[standing.table.run.path],
        "title": one_line(manifest.title or manifest.suite),
        "words": " ".join([standing.row.label, manifest.suite, manifest.title or "", *standing.attacks]).lower(),
    }


def _cell(shown: Shown, status: str) -> dict[str, Any]:
    """A number for the template. sort: what it is sorted by; nothing where there is no number."""
    return {"shown": shown, "sort": shown.estimate.value if shown.estimate else "", "status": status}


def _run(table: Table, name: str) -> dict[str, Any]:
    manifest, pairings = table.run.manifest, table.run.pairings.values()
    finished = sum(pairing.finished for pairing in pairings)
    started = manifest.sessions[-1].started if manifest.sessions else None
    return {
        "page": name,
        "title": one_line(manifest.title or manifest.suite),
        "suite": manifest.suite,
        "dataset": f"{manifest.dataset.count:,} of {manifest.dataset.name} ({manifest.dataset.split})",
        "size": f"{len(manifest.defenses)} × {len(manifest.attacks)}",
        "state": "finished" if finished == len(pairings) else f"{finished} of {len(pairings)} pairings",
        "date": (started or "")[:10],
        "harness": manifest.harness,
        "edited": manifest.edited,
    }
