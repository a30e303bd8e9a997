"""`Results`: one row per image, one per pairing, and a table that shows itself."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

import harness
from harness.verification import CellReport

pytestmark = pytest.mark.slow

FINISHED = Path(__file__).parents[2] / "golden" / "results_before_layout" / "run"


@pytest.fixture(scope="module")
def results() -> harness.Results:
    return harness.load_results(FINISHED)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> harness.Results:
    """Of a model and images that exist in Python alone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    data = torch.rand(6, 3, 4, 4), torch.arange(6) % 3
    return harness.evaluate(model, "pgd", data=data, name="net", out=tmp_path_factory.mktemp("run"))


def test_a_frame_has_a_row_per_image_and_pairing(results: harness.Results) -> None:
    counts = results.frame.groupby(["defense", "attack"]).size()
    assert len(counts) == 10 and set(counts) == {32}
    assert list(results.frame.columns)[:5] == ["defense", "attack", "index", "label", "verdict"]


def test_accuracies_of_the_summary_are_shares_of_the_frame(results: harness.Results) -> None:
    """Independently of the report: of a deterministic defense, the share of robust images."""
    shares = (results.frame["verdict"] == "robust").groupby([results.frame["defense"], results.frame["attack"]]).mean()
    for row in results.summary.query("not stochastic").to_dict("records"):
        assert row["accuracy"] == pytest.approx(shares[row["defense"], row["attack"]])


def test_a_summary_has_the_numbers_of_the_report(results: harness.Results) -> None:
    text = str(results.table())
    for row in results.summary.to_dict("records"):
        assert f"{100 * row['accuracy']:.1f}" in text


def test_a_table_is_markdown_as_text_rich_in_a_terminal_and_html_in_a_notebook(results: harness.Results) -> None:
    table = results.table()
    assert str(table) == harness.report(results) == harness.report(FINISHED, "md")
    shown = io.StringIO()
    Console(width=200, file=shown).print(table)
    assert "Undefended" in shown.getvalue() and "|" not in shown.getvalue()
    html = table._repr_html_()
    assert html.count("<tr>") == html.count("</tr>") > 5 and "<td" in html and "Undefended" in html
    assert results._repr_html_() == html


def test_html_escapes_what_others_wrote(tmp_path: Path) -> None:
    from harness.reporting.render import html
    from harness.reporting.render.sheet import Grid, Sheet, Shown

    nasty = "<script>alert(1)</script>"
    grid = Grid([Shown(nasty, nasty, nasty)], [[Shown(nasty, nasty, nasty, published=nasty)]], headings={0: nasty})
    page = html.render([Sheet(nasty, nasty, grid, grid, [(nasty, nasty)], [nasty])])
    assert "<script>" not in page and page.count("&lt;script&gt;") == 20


def test_results_can_be_given_wherever_a_directory_can(results: harness.Results) -> None:
    assert harness.summarise(results).rows[0].name == harness.summarise(str(FINISHED)).rows[0].name
    assert harness.compare(results, FINISHED).matches[0].same_claim
    assert {match.first[1] for match in harness.compare(results).matches} == {"linf", "l2"}


def test_there_are_no_results_where_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(harness.UserError, match="no run has begun in it"):
        harness.load_results(tmp_path)


def outcomes(reports: list[CellReport]) -> dict[str, str]:
    return {report.name: report.outcome for report in reports}


def test_verification_replays_what_files_tell(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    harness.evaluate(model, "pgd", data="digits", size=2, out=tmp_path, name="net")
    reports = {report.name: report for report in harness.verify(FINISHED, only="undefended/linf", limit=2)}
    assert reports["undefended/linf"].outcome == "holds" and reports["undefended/linf"].answered
    assert outcomes(harness.verify(tmp_path)) == {"run.json": "holds", "net/pgd": "not replayed"}


def test_verification_says_what_an_object_from_python_leaves_open(given: harness.Results) -> None:
    manifest, pairing = harness.verify(given)
    assert manifest.outcome == "holds"
    assert (pairing.outcome, pairing.within, pairing.images) == ("not replayed", 6, 6)
    assert "given as an object in Python (Sequential)" in str(pairing.unreplayed)
    assert "--suite" not in str(pairing.unreplayed)


def test_images_from_python_lie_beside_the_results_wherever_these_are_moved(
    given: harness.Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(given.path, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert outcomes(harness.verify("moved"))["run.json"] == "holds"
    page = harness.report("moved", "html")
    assert "was not on the machine" not in page


def test_images_that_were_exchanged_are_found(given: harness.Results, tmp_path: Path) -> None:
    import numpy as np

    shutil.copytree(given.path, tmp_path / "run")
    with np.load(tmp_path / "run/data.npz") as file:
        np.savez(tmp_path / "run/data.npz", images=file["images"] * 0.5, labels=file["labels"])
    manifest, *_ = harness.verify(tmp_path / "run")
    assert manifest.outcome == "fails" and "not those of the results" in manifest.problems[0]


def test_a_suite_runs_from_python_as_from_the_command_line(small_suite: Path, tmp_path: Path) -> None:
    from harness import cli

    results = harness.run(harness.load_suite(str(small_suite)), tmp_path / "python", device="cpu")
    with pytest.raises(SystemExit):
        cli.main(["run", str(small_suite), "--out", str(tmp_path / "command"), "--device", "cpu"])
    other = harness.load_results(tmp_path / "command")
    same = [name for name in other.frame.columns if name != "seconds"]
    assert results.computed == 12 and results.frame[same].equals(other.frame[same])
    assert harness.run(harness.load_suite(small_suite), tmp_path / "command").computed == 0
