"""Published numbers beside ours: `report: {reference: table1}` in a suite means results/reference/table1.csv.

    row, column      a defense and an attack of the suite, by their names there; also clean, average and worst
    value, unit      as printed; only numbers in % are accuracies
    source, page     where it was published

The folder is searched in the current folder, then in the checkout that this package runs from.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import Place, UserError

FOLDER = Path("results") / "reference"
COLUMNS = ("table", "row", "column", "value", "unit", "source", "page", "note")


@dataclass(frozen=True)
class PublishedNumber:
    """A published accuracy.

    Attributes:
        value: in [0, 1].
        text: in percent, as printed.
        source: table or section, with the page if known.
    """

    value: float
    text: str
    source: str


Reference = dict[tuple[str, str], PublishedNumber]
"""By row and column."""


def find(name: str) -> Path | None:
    """The file that a suite's `reference` names, or None where there is none."""
    folders = (FOLDER, Path(__file__).parents[3] / FOLDER)
    return next((path for folder in folders if (path := folder / f"{name}.csv").is_file()), None)


def read(path: Path) -> Reference:
    """The accuracies in a file.

    Raises:
        UserError: a column is missing, a value is no percentage, or a number appears twice.
    """
    numbers: Reference = {}
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.DictReader(file)
        absent = [column for column in COLUMNS if column not in (lines.fieldnames or ())]
        if absent:
            raise UserError(
                f"a file of published numbers has no column '{absent[0]}'",
                remedy=f"Its columns are {', '.join(COLUMNS)}",
                where=Place(path, 1),
            )
        for place, key, number in _numbers(lines, path):
            if key in numbers:
                raise UserError(f"{'/'.join(key)} appears twice", remedy="Remove one of them", where=place)
            numbers[key] = number
    return numbers


def named(name: str | None) -> Reference:
    """The numbers that a suite's `reference` names; none where it names no file, or one that is missing."""
    path = find(name) if name else None
    return read(path) if path else {}


def _numbers(lines: csv.DictReader[str], path: Path) -> Iterator[tuple[Place, tuple[str, str], PublishedNumber]]:
    for line in lines:
        if line["unit"] != "%":
            continue
        place = Place(path, lines.line_num)
        try:
            value = float(line["value"]) / 100
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise UserError(f"value is '{line['value']}'", remedy="Give a percentage", where=place)
        source = f"{line['source']}, p. {line['page']}" if line["page"] else line["source"]
        yield place, (line["row"], line["column"]), PublishedNumber(value, line["value"], source)
