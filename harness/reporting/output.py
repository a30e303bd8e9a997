"""Results directories, written as one of the formats."""

from __future__ import annotations

from pathlib import Path

from harness.reporting import formats
from harness.reporting.formats import Rendered
from harness.reporting.tables.table import summarise
from harness.results.load import find_runs, read_run


def report(root: Path, format: str = "table", images: int | None = None) -> Rendered:
    """All runs in or below the folder `root`, in the order of their paths, in one format.

    Args:
        format: one of `harness.reporting.formats.names()`.
        images: how many of each pairing the HTML page shows; left out, `harness.reporting.page.gallery` chooses.

    Returns:
        A rich renderable for "table", the files by name for plots, text that ends in a newline for every other format.

    Raises:
        UserError: there is no run, a run cannot be read, or there is no such format.
    """
    module = formats.find(format)
    rendered: Rendered = module.render([summarise(read_run(path)) for path in find_runs(root)], images)
    return rendered
