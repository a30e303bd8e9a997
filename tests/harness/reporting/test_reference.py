"""Published numbers: typed without slips, read strictly, and shown beside ours."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.reporting import report, summarise
from harness.reporting.render.layout import lay_out
from harness.reporting.tables.reference import COLUMNS, PublishedNumber, find, named, read
from harness.results.load import read_run

FILES = sorted((Path(__file__).parents[3] / "results" / "reference").glob("*.csv"))
HEAD = ",".join(COLUMNS)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, with published numbers `mine`."""
    path = tmp_path / "results" / "reference" / "mine.csv"
    path.parent.mkdir(parents=True)
    path.write_text(
        f"{HEAD}\nmine,dc,clean,93.54,%,Table 1,7,\nmine,dc,linf,35.94,%,Table 1,7,\n"
        "mine,rdc,linf,73.24,%,Table 1,7,\nmine,dc,time,640,times,Sec. 4.4,,\n"
    )
    monkeypatch.chdir(tmp_path)
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_published_file_is_read_and_says_where_each_number_is_from(path: Path) -> None:
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert all(line["table"] == path.stem and line["source"] for line in lines)
    assert len(read(path)) == sum(line["unit"] == "%" for line in lines)


def test_the_averages_of_table_2_are_those_of_its_columns() -> None:
    numbers = named("table2")
    rows = {row for row, _ in numbers}
    assert len(rows) == 8 and len(numbers) == 40
    for row in rows:
        mean = sum(numbers[row, column].value for column in ("linf", "l2", "stadv")) / 3
        assert numbers[row, "average"].value == pytest.approx(mean, abs=5.1e-5)


def test_table_1_and_table_2_agree_where_they_speak_of_the_same() -> None:
    first, second = named("table1"), named("table2")
    shared = {key: number.text for key, number in first.items() if key in second}
    assert len(shared) == 14
    assert shared == {key: second[key].text for key in shared}


def test_the_gains_that_the_text_claims_are_those_of_the_tables() -> None:
    def gain(table: str, ours: tuple[str, str], theirs: tuple[str, str]) -> float:
        numbers = named(table)
        return round(100 * (numbers[ours].value - numbers[theirs].value), 2)

    assert gain("table1", ("rdc", "linf"), ("at_edm_linf", "linf")) == 2.34
    assert gain("table1", ("dc", "linf"), ("jem", "linf")) == 27.74
    assert gain("table1", ("dc", "l2"), ("jem", "l2")) == 50.58
    assert gain("table2", ("rdc", "l2"), ("at_edm_linf", "l2")) == 10.54
    assert gain("table2", ("rdc", "linf"), ("at_edm_l2", "linf")) == 19.92
    assert gain("table2", ("rdc", "stadv"), ("at_ddpm_l2", "stadv")) == 86.14
    assert gain("table3", ("rdc_1", "bpda"), ("rdc_1", "exact")) == 0.39


def test_the_folder_at_hand_comes_before_the_package_s(here: Path) -> None:
    assert find("mine") is not None and find("table1") is not None
    (here.parent / "table1.csv").write_text(f"{HEAD}\ntable1,dc,linf,1,%,Own,,\n")
    assert named("table1") == {("dc", "linf"): PublishedNumber(0.01, "1", "Own")}
    assert named("nothing") == named(None) == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("row,column,value\n", r"bad\.csv:1: .*no column 'table'"),
        (f"{HEAD}\nt,dc,linf,many,%,T,,\n", r"bad\.csv:2: value is 'many'"),
        (f"{HEAD}\nt,dc,linf,935.5,%,T,,\n", r"bad\.csv:2: value is '935.5'"),
        (f"{HEAD}\nt,dc,linf,1,%,T,,\nt,dc,linf,2,%,T,,\n", r"bad\.csv:3: dc/linf appears twice"),
    ],
)
def test_a_faulty_file_is_refused_with_its_line(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(UserError, match=complaint):
        read(tmp_path / "bad.csv")


@pytest.fixture
def run(maker: Any, column: Callable, here: Path) -> Path:
    """A run of which 3 of 4 images withstand linf, with the published numbers `mine`."""
    maker.cell("dc", "linf", column("rrrw"))
    maker.cell("rdc", "linf", column("rr"))
    maker.cell("other", "linf", column("rrww"))
    root: Path = maker.finish(report={"reference": "mine"})
    return root


def test_the_published_number_and_the_difference_stand_beside_ours(run: Path) -> None:
    sheet = lay_out(summarise(read_run(run)))
    assert sheet.main is not None
    lines = {line[0].text: [shown.published for shown in line[1:]] for line in sheet.main.lines}
    assert lines["dc"][:2] == ["pub. 93.54, +6.5", "pub. 35.94, +39.1"]
    assert lines["rdc"][:2] == ["", "pub. 73.24"]
    assert not any(lines["other"])
    assert any("mine: Table 1, p. 7" in note for note in sheet.notes)


@pytest.mark.parametrize("format", ["table", "md", "latex"])
def test_every_readable_format_shows_it(format: Any, run: Path) -> None:
    from rich.console import Console

    found = report(run, format)
    if format == "table":
        console = Console(width=120, file=io.StringIO())
        with console.capture() as capture:
            console.print(found)
        found = capture.get()
    assert str(found).count("pub. 35.94, +39.1") == 1


def test_data_formats_hold_it_as_numbers(run: Path) -> None:
    lines = {(line["defense"], line["kind"]): line for line in csv.DictReader(io.StringIO(str(report(run, "csv"))))}
    line = lines["dc", "attack"]
    assert float(line["published"]) == pytest.approx(0.3594) and line["published_in"] == "Table 1, p. 7"
    assert float(line["difference"]) == pytest.approx(0.75 - 0.3594)
    assert lines["rdc", "attack"]["published"] and not lines["rdc", "attack"]["difference"]
    assert not lines["other", "attack"]["published"]


def test_numbers_that_are_not_here_are_told_and_not_fatal(maker: Any, column: Callable, here: Path) -> None:
    maker.cell("dc", "linf", column("rrrw"))
    sheet = lay_out(summarise(read_run(maker.finish(report={"reference": "gone"}))))
    assert any("'gone' are missing" in note and "results/reference/gone.csv" in note for note in sheet.notes)
