"""What came of a run, for Python: a table to look at, and data to go on with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from harness.reporting import Table, summarise
from harness.reporting.render import html, markdown, terminal
from harness.reporting.render.layout import lay_out
from harness.reporting.stats.accuracy import Estimate
from harness.reporting.tables.certified import attacked_accuracy, certified_accuracy, radii
from harness.reporting.tables.lines import lines
from harness.results.bounds import Bounds
from harness.results.load import COLUMNS, Run, read_run

PAIRING = ["defense", "attack"]

SUMMARY = [
    *(*PAIRING, "threat", "method", "status", "accuracy", "low", "high", "clean", "clean_low", "clean_high"),
    *("n", "total", "errors", "stochastic", "rule", "published", "doubt", "flags"),
]


CERTIFIED_COLUMNS = [
    *("defense", "certificate", "index", "label", "certified_class", "p_low", "radius", "lower", "upper", "upper_by"),
    "fault",
]


class TableView:
    """A table that shows itself wherever it is: `rich.print` in a terminal, `str` as Markdown, HTML in a notebook."""

    def __init__(self, table: Table) -> None:
        self._sheets = [lay_out(table)]

    def __str__(self) -> str:
        return markdown.render(self._sheets)

    def __rich__(self) -> Any:
        return terminal.render(self._sheets)

    def _repr_html_(self) -> str:
        return html.render(self._sheets)

    __repr__ = __str__


@dataclass(frozen=True)
class Results:
    """The results of a run.

    `harness.evaluate`, `harness.run` and `harness.load_results` return it. Accuracies are fractions in [0, 1].

    Attributes:
        run: records and manifest, as read from disk.
        computed: shards that the call which returned this computed; 0 where nothing was left to do.

    Example:
        >>> results = harness.load_results(directory)
        >>> results.summary[["defense", "attack", "n"]].values.tolist()[0]
        ['undefended', 'linf', 32]
        >>> print(results.table())  # doctest: +ELLIPSIS
        **...
    """

    run: Run
    computed: int = 0
    _owner: TemporaryDirectory[str] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def read(cls, root: Path, computed: int = 0, owner: TemporaryDirectory[str] | None = None) -> Results:
        """The results in a directory. owner: of a directory that vanishes with this object.

        Raises:
            UserError: there are none, or they cannot be read.
        """
        return cls(read_run(root), computed, owner)

    @property
    def path(self) -> Path:
        """The results directory. That of an evaluation without `out` vanishes with this object."""
        return self.run.path

    @cached_property
    def summarised(self) -> Table:
        """Every number of the table with its interval and remarks, as `harness.summarise` returns them."""
        return summarise(self.run)

    def table(self) -> TableView:
        """The table of `harness report`: clean and robust accuracies with 95% intervals, footnotes and remarks."""
        return TableView(self.summarised)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per image and pairing: `defense`, `attack`, then the fields of a record.

        `verdict` is "robust", "fooled" or "error"; `clean_votes` and `adv_votes` are predicted classes by draw;
        `clean_margins` and `adv_margins` the true class's logit minus the largest other; `linf`, `l2`, `l1` distances
        from the clean image; `index` the image's place in the split, or among the images that were given.
        """
        rows = [
            {"defense": defense, "attack": attack, **record}
            for (defense, attack), cell in self.run.pairings.items()
            for record in cell.records.to_dict("records")
        ]
        return pd.DataFrame(rows, columns=[*PAIRING, *COLUMNS])

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row per pairing, with the numbers of the table.

        `accuracy`, `low` and `high` are robust accuracy and its 95% interval, missing unless `status` is "final";
        `clean`, `clean_low` and `clean_high` are those of the same images before the attack; `n` of `total` images have
        a record, of which `errors` ended in an error. How the draws of a stochastic defense become one number says
        `rule`. `doubt` says why the accuracy may be too high, and is empty where nothing is known to say so.
        """
        chosen = [
            vars(line) | {"clean": line.benign, "clean_low": line.benign_low, "clean_high": line.benign_high}
            for line in lines(self.summarised)
            if line.kind == "attack" and line.headline and line.status != "absent"
        ]
        return pd.DataFrame(chosen, columns=SUMMARY)

    @cached_property
    def certified(self) -> pd.DataFrame:
        """One row per image and certificate of a smoothed defense; see `harness.results.bounds`.

        `certified_class` is the class that holds up to `radius` in L2, -1 where the certificate abstains. `lower` is
        the radius if that class is the true one, else 0; `upper` is the distance of the nearest image on which votes
        show a misclassification, and `upper_by` the attack that found it; infinite and empty where none did. `fault`
        says whether an answer contradicts the certificate.
        """
        return pd.DataFrame(
            [row for found in self.summarised.certified for row in _by_image(found)], columns=CERTIFIED_COLUMNS
        )

    @cached_property
    def certified_accuracy(self) -> pd.DataFrame:
        """One row per certificate and radius in L2: certified and attacked accuracy, with their intervals."""
        found = self.summarised.certified
        return pd.DataFrame(
            [
                {
                    "defense": each.defense,
                    "certificate": each.certificate,
                    "radius": radius,
                    **_spread("certified", certified_accuracy(each, radius)),
                    **_spread("attacked", attacked_accuracy(each, radius)),
                }
                for each in found
                for radius in radii(found, self.run)
            ]
        )

    @property
    def errors(self) -> pd.DataFrame:
        """The images that ended in an error, of those in `frame`: defense, attack, index, and why."""
        failed = self.frame[self.frame["verdict"] == "error"]
        return failed[[*PAIRING, "index", "error"]].reset_index(drop=True)

    def __repr__(self) -> str:
        count = len(self.errors)
        told = f", {count} images ended in errors (see .errors)" if count else ""
        return f"Results({len(self.run.pairings)} pairings, {len(self.frame)} records{told}, path='{self.path}')"

    def __rich__(self) -> Any:
        return self.table().__rich__()

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def _by_image(found: Bounds) -> Iterator[dict[str, Any]]:
    known, faults = found.certified, {fault.index for fault in found.faults}
    for row, index in enumerate(found.index.tolist()):
        yield {
            "defense": found.defense,
            "certificate": found.certificate,
            "index": index,
            "label": int(found.truth[row]),
            "certified_class": int(known.classes[row]),
            "p_low": float(known.p_low[row]),
            "radius": float(known.radii[row]),
            "lower": float(found.lower[row]),
            "upper": float(found.upper[row]),
            "upper_by": found.by[row],
            "fault": index in faults,
        }


def _spread(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
