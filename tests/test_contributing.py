"""What CONTRIBUTING says of the layout is so."""

from __future__ import annotations

import re
from pathlib import Path

from tests.test_layout import between_units, import_graph

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
EXAMPLE = "foo"
"""Part of the names of files that a contributor would add."""


def table(heading: str) -> list[list[str]]:
    """The cells of the table whose first heading is given, row by row."""
    _, _, rest = TEXT.partition(f"| {heading} |")
    assert rest, heading
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def layers() -> list[list[str]]:
    """The units of each row of the table of `harness/`, as `test_layout` names them."""
    rows = [re.findall(r"`([\w.]+?)(?:\.py|/)`", cells[0]) for cells in table("in `harness/`")]
    return [["harness" if name == "__init__" else f"harness.{name}" for name in row] for row in rows]


def test_every_path_that_is_named_exists() -> None:
    named = [path for path in re.findall(r"`([a-z.][\w.-]*/[\w./-]*)`", TEXT) if EXAMPLE not in path]
    assert "harness/threat.py" in named
    folders = (ROOT, ROOT / "harness", ROOT / "harness/reporting", *(ROOT / name for name in ("defenses", "attacks")))
    folders += tuple(ROOT / name for name in ("suites", "tests"))
    for path in named:
        assert any((folder / path).exists() for folder in folders), path


def test_every_file_that_a_contributor_would_add_has_its_folder() -> None:
    named = re.findall(r"`([\w/]+/)foo\w*\.py`", TEXT)
    assert len(named) == 5
    for folder in named:
        assert (ROOT / folder).is_dir(), folder


def test_every_function_that_is_named_is_in_the_file_that_is_named_before_it() -> None:
    answers = dict(table("question"))
    for start, file, name in (
        ("Where is an image projected", "harness/threat.py", "project"),
        ("Where is a verdict made", "harness/results/record.py", "verdict_of"),
        ("Where does BPDA live", "harness/gradients.py", "bpda"),
        ("Where does BPDA live", "harness/defense.py", "purify_surrogate"),
        ("How do I add a report format", "harness/reporting/formats/md.py", "render"),
    ):
        (answer,) = (answer for question, answer in answers.items() if question.startswith(start))
        assert f"`{name}`" in answer
        assert f"def {name}(" in (ROOT / file).read_text()


def test_the_table_of_the_engine_has_every_file_and_folder_once() -> None:
    found = {path.relative_to(ROOT).with_suffix("") for path in (ROOT / "harness").glob("*.py")}
    found |= {path.parent.relative_to(ROOT) for path in (ROOT / "harness").glob("*/__init__.py")}
    units = {".".join(path.parts).removesuffix(".__init__") for path in found}
    named = [unit for row in layers() for unit in row]
    assert sorted(named) == sorted(units)


def test_each_row_imports_only_rows_above_it() -> None:
    imports = between_units(import_graph())
    above: set[str] = set()
    for row in layers():
        above |= set(row)
        for unit in row:
            assert imports[unit] <= above, f"{unit} imports {sorted(imports[unit] - above)}"
