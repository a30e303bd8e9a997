"""Results directories, written as one of the formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.reporting import formats
from harness.reporting.formats import Rendered
from harness.reporting.tables.requirement import Judgement, Requirement, judge
from harness.reporting.tables.table import summarise
from harness.results.load import find_runs, read_run


def report(root: Path, format: str = "table", images: int | None = None) -> Rendered:
    """All runs in or below the folder `root`, in the order of their paths, in one format.

    Args:
        format: one of `harness.reporting.formats.names()`.
        images: how many of each pairing the HTML page shows; left out, `harness.reporting.page.gallery` chooses.

    Returns:
        A rich renderable for "table", the files by name for plots and claims, text that ends in a newline for every
        other format.

    Raises:
        UserError: there is no run, a run cannot be read, or there is no such format.
    """
    return judged_report(root, format, images)[0]


def judged_report(
    root: Path,
    format: str = "table",
    images: int | None = None,
    requirements: Sequence[Requirement] = (),
    folder: Path | None = None,
) -> tuple[Rendered, list[Judgement]]:
    """A report as above, and whether its tables meet requirements; formats for continuous integration show both.

    Args:
        folder: where the file will lie, for links to what lies in or below it; `root` by default.

    Raises:
        UserError: as above, or a requirement names what no table has.
    """
    module = formats.find(format)
    tables = [summarise(read_run(path)) for path in find_runs(root)]
    judgements = judge(tables, requirements)
    more: dict[str, Any] = {"judgements": judgements} if getattr(module, "JUDGES", False) else {}
    if getattr(module, "LINKS", False):
        more["folder"] = folder or root
    rendered: Rendered = module.render(tables, images, **more)
    return rendered, judgements
