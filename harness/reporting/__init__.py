"""From results on disk to tables.

    find_runs, read_run  results directories -> `Run`: records by pairing
    summarise            `Run` -> `Table`: accuracies, intervals, remarks          (tables, stats)
    report               `Table` -> text, a page of HTML with the images, plots    (formats, render, page)

A report reads and never writes. It uses a shard only if the store finds its hashes right, shows an unfinished number as
unfinished, and never mixes records of different cell keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.process.lazy import lazy

if TYPE_CHECKING:
    from harness.reporting.formats import Rendered
    from harness.reporting.output import report
    from harness.reporting.tables.table import Table, summarise
    from harness.results.load import CellResults, Run, find_runs

__all__ = ["CellResults", "Rendered", "Run", "Table", "find_runs", "report", "summarise"]

__getattr__ = lazy(
    __name__,
    {
        "CellResults": "harness.results.load",
        "Rendered": "harness.reporting.formats",
        "Run": "harness.results.load",
        "Table": "harness.reporting.tables.table",
        "find_runs": "harness.results.load",
        "report": "harness.reporting.output",
        "summarise": "harness.reporting.tables.table",
    },
)
