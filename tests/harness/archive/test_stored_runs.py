"""The runs that are stored with the project are what their numbers say, by the program inside each of them alone."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.archives import CHECKER, WITHOUT, unpacked

REFERENCE = Path(__file__).parents[3] / "results" / "reference"
STORED = sorted(REFERENCE.rglob("*.zip"))


def test_there_is_one() -> None:
    assert STORED


@pytest.mark.parametrize("archive", STORED, ids=lambda archive: archive.stem)
def test_it_holds_by_its_own_checker_and_by_ours_and_has_the_numbers_of_the_table_beside_it(
    archive: Path, tmp_path: Path
) -> None:
    folder = unpacked(archive, tmp_path)
    (folder / "today.py").write_bytes(CHECKER.read_bytes())
    for checker in ("check.py", "today.py"):
        command = [sys.executable, "-I", "-c", WITHOUT, str(folder / checker)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    with archive.with_suffix(".csv").open(newline="") as lines:
        table = {_place(line): float(line["accuracy"]) for line in csv.DictReader(lines) if line["accuracy"]}
    index = json.loads((folder / "export.json").read_text())["table"]
    assert table == {_place(line): line["accuracy"] for line in index if _place(line) in table}


def _place(line: dict[str, str]) -> tuple[str, ...]:
    return tuple(line[name] for name in ("defense", "kind", "attack", "rule"))
