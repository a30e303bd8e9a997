"""Claims for RobustBench: a file for each defense and budget, as its `model_info/DATASET/NORM/NAME.json`.

What results do not say is left empty, for you to fill in: `link`, `authors`, `venue`, `architecture`, and whether
`additional_data` was used. `autoattack_acc` is the accuracy under AutoAttack; `external`, the lowest under any attack
of the same budget, where one is lower. `footnote` says on how many images, with the interval; a number in doubt is
`unreliable`.

Source: `robustbench.leaderboard.template` (https://github.com/RobustBench/robustbench).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from harness.reporting.tables.leaderboard import Standing, standings
from harness.reporting.tables.table import Table


def render(tables: list[Table], images: int | None = None) -> dict[str, bytes]:
    """The files by name. Raises UserError if nothing can be claimed."""
    files: dict[str, bytes] = {}
    for standing in standings(tables):
        path = next(path for path in _paths(standing) if path not in files)
        files[path] = (json.dumps(_claim(standing), indent=2, ensure_ascii=False) + "\n").encode()
    return files


def _paths(standing: Standing) -> Iterator[str]:
    """Names for a claim, the second for a further budget of the same norm, and others for other runs."""
    manifest = standing.table.run.manifest
    dataset, eps = (re.sub(r"[^A-Za-z0-9-]", "_", text) for text in (manifest.dataset.name, standing.eps))
    folder = f"{dataset}/{standing.norm}"
    yield f"{folder}/{standing.row.name}.json"
    yield f"{folder}/{standing.row.name}_{eps}.json"
    number = 1
    while number := number + 1:
        yield f"{folder}/{manifest.suite}_{standing.row.name}_{eps}_{number}.json"


def _claim(standing: Standing) -> dict[str, Any]:
    doubt = f" It may be too high: {'; '.join(standing.doubts)}." if standing.doubts else ""
    lower = standing.least.value < standing.robust.value
    return {
        "link": "",
        "name": standing.row.label,
        "authors": "",
        "additional_data": None,
        "number_forward_passes": 1,
        "dataset": standing.table.run.manifest.dataset.name,
        "venue": "",
        "architecture": "",
        "eps": standing.eps,
        "clean_acc": _percent(standing.clean.value),
        "reported": _percent(standing.least.value),
        "autoattack_acc": _percent(standing.robust.value),
        **({"external": _percent(standing.least.value)} if lower else {}),
        **({"unreliable": True} if standing.doubts else {}),
        "footnote": f"{standing.sample}.{doubt}",
    }


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
