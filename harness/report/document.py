"""Tables as one JSON document: the lines of `harness.report.tidy`, each run with its whole manifest."""

from __future__ import annotations

import json

from harness.report.table import Table
from harness.report.tidy import lines

SCHEMA_VERSION = 1


def render(tables: list[Table]) -> str:
    """JSON, indented."""
    runs = [
        {
            "path": str(table.run.path),
            "manifest": table.run.manifest.raw,
            "lines": [vars(line) for line in lines(table)],
        }
        for table in tables
    ]
    return json.dumps({"schema_version": SCHEMA_VERSION, "runs": runs}, indent=1) + "\n"
