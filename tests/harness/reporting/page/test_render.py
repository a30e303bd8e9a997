"""The page as a text: it holds what the other formats do, asks for nothing, and takes names for what they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.reporting import summarise
from harness.reporting.page import render
from harness.reporting.page.matrix import matrices
from harness.reporting.page.render import POLICY
from harness.reporting.render.layout import lay_out
from harness.reporting.tables.comparison import contrast
from harness.results.load import read_run
from harness.results.record import Record
from helpers.page import COUNT, HOSTILE, Parsed, page_of

pytestmark = pytest.mark.slow


def test_the_page_asks_for_nothing_and_forbids_it(run: Path) -> None:
    parsed = Parsed(page_of(run))
    assert all(address.startswith(("data:", "#")) for address in parsed.addresses)
    assert parsed.policy == POLICY
    required = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    assert POLICY.startswith(required)
    assert not {"link rel=stylesheet", "iframe", "object", "form"} & set(parsed.tags)


def test_a_hostile_name_is_text(run: Path) -> None:
    parsed = Parsed(page_of(run))
    assert parsed.tags.count("script") == 2 and "img" not in parsed.tags
    assert HOSTILE in parsed.texts
    found = json.loads(parsed.scripts[0])
    assert HOSTILE in {pairing["labels"][0] for pairing in found[0]["pairings"]}


def test_the_page_holds_every_number_interval_footnote_and_note_of_the_other_formats(run: Path) -> None:
    sheet = lay_out(summarise(read_run(run)))
    texts = Parsed(page_of(run)).texts
    assert sheet.main and sheet.draws and sheet.footnotes
    for grid in (sheet.main, sheet.draws):
        for shown in (shown for line in (grid.head, *grid.lines) for shown in line):
            assert not shown.text or shown.text in texts
            assert not shown.detail or shown.detail in texts
            assert not shown.marks or shown.marks in texts
    for text in (*(part for note in sheet.footnotes for part in note), *sheet.notes):
        assert text in texts


def test_a_misleading_naive_evaluation_stands_above_the_table(maker: Any, column: Callable[..., list[Record]]) -> None:
    maker.count = 8
    maker.cell("masked", "naive", column("r" * 8))
    maker.cell("masked", "strong", column("w" * 8))
    texts = Parsed(page_of(maker.finish(report={"naive": ["naive"]}))).texts
    at = next(place for place, text in enumerate(texts) if "naive evaluation was misleading" in text)
    assert at < texts.index("Results") and texts[at - 1] == "masked"


def test_a_cell_that_failed_leads_to_its_images_and_says_why(maker: Any, rec: Callable[..., Record]) -> None:
    maker.cell("d", "a", [rec(i, adv="", verdict="error", error="ValueError: x (mine.py:3)") for i in range(4)])
    page = page_of(maker.finish())
    texts = Parsed(page).texts
    assert "failed" in texts and "failed: 4 of 4 images ended in an error: ValueError: x (mine.py:3)" in texts
    assert 'class="number failed" data-sort="failed"' in page
    assert re.search(r'<small class="reason" title="[^"]*ended in an error[^"]*">', page)
    assert 'class="open" data-run="0" data-defense="d" data-attack="a">failed</button>' in page


def test_differences_to_a_cell_that_failed_are_not_shown(maker: Any, rec: Callable[..., Record]) -> None:
    maker.cell("fine", "a", [rec(i) for i in range(4)])
    maker.cell("broken", "a", [rec(i, adv="", verdict="error", error="x") for i in range(4)])
    run = read_run(maker.finish())
    (matrix,) = matrices(contrast(run).matches, run.manifest)
    assert [[place.text for place in line] for _, line in matrix.lines] == [["", "failed"], ["failed", ""]]


def test_published_numbers_stand_beside_ours(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "pub." not in page_of(run)
    sheet = lay_out(summarise(read_run(run)))
    assert sheet.main
    beside = replace(sheet.main.lines[0][1], published="pub. 71.00, −4.0")
    main_grid = replace(sheet.main, lines=[[sheet.main.lines[0][0], beside]])
    monkeypatch.setattr(render, "lay_out", lambda table: replace(sheet, main=main_grid))
    assert "pub. 71.00, −4.0" in Parsed(page_of(run)).texts


def test_the_same_results_give_the_same_page(run: Path) -> None:
    assert page_of(run) == page_of(run)


def test_the_command_writes_one_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, path in ((), run / "report.html"), (("--output", str(run / "mine.html")), run / "mine.html"):
        with pytest.raises(SystemExit) as end:
            main(["report", str(run), "--format", "html", *arguments])
        assert end.value.code == 0 and path.read_text() == page_of(run)
        assert str(path) in capsys.readouterr().out.replace("\n", "")


def test_a_page_that_lies_elsewhere_names_the_records_without_linking_them(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["report", str(run), "--format", "html", "--output", str(tmp_path / "elsewhere" / "page.html")])
    (found, *_) = json.loads(Parsed((tmp_path / "elsewhere" / "page.html").read_text()).scripts[0])[0]["pairings"]
    records = [rest for image in found["images"] for name, *rest in image["facts"] if name == "Record"]
    assert len(records) == COUNT and all(len(rest) == 1 for rest in records)
