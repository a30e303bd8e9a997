"""The site of many runs: ranked by worst case within a threat model, static, one page a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.reporting import summarise
from harness.reporting.page.render import POLICY
from harness.reporting.page.site import page_names, site
from harness.reporting.tables.ranking import ranking
from harness.results.load import find_runs, read_run

HOSTILE = "</td><script>window.stolen = true</script>"


@pytest.fixture
def results(maker: Any, column: Any, tmp_path: Path) -> Path:
    """Two runs: one with two attacks of one threat model, and another of which a defense is unfinished."""
    one, two = type(maker)(tmp_path / "results/one"), type(maker)(tmp_path / "results/two")
    one.cell("plain", "a", column("rrww"), threat="Linf 0.1")
    one.cell("plain", "b", column("wrrw"), threat="Linf 0.1")
    one.cell("plain", "far", column("rwww"), threat="L2 0.5")
    one.cell("plain", "none", column("rrrr"), threat="Linf 0")
    one.finish(title=HOSTILE)
    two.cell("better", "a", column("rrrw"), threat="Linf 0.1")
    two.cell("unfinished", "a", column("rr"), threat="Linf 0.1")
    two.cell(
        "doubtful",
        "a",
        column("rrww"),
        threat="Linf 0.1",
        least_cosine=0.9,
        gradient_noise={"cosine": 0.1, "images": 4},
    )
    two.finish()
    return tmp_path / "results"


def tables(results: Path) -> list[Any]:
    return [summarise(read_run(path)) for path in find_runs(results)]


def test_the_worst_case_is_over_the_attacks_of_one_threat_model_image_by_image(results: Path) -> None:
    found = {
        (standing.row.name, standing.threat): standing.worst
        for standings in ranking(tables(results)).values()
        for standing in standings
    }
    assert found["plain", "Linf 0.1"].estimate.value == 0.25  # type: ignore[union-attr]  # rrww and wrrw: one is left
    assert found["plain", "L2 0.5"].estimate.value == 0.25  # type: ignore[union-attr]
    assert found["better", "Linf 0.1"].estimate.value == 0.75  # type: ignore[union-attr]
    assert found["unfinished", "Linf 0.1"].estimate is None
    assert ("plain", "Linf 0") not in found


def test_standings_are_sorted_by_worst_case_and_those_without_a_number_come_last(results: Path) -> None:
    divisions = ranking(tables(results))
    assert list(divisions) == [("digits (test)", "Linf 0.1"), ("digits (test)", "L2 0.5")]
    names = [standing.row.name for standing in divisions["digits (test)", "Linf 0.1"]]
    assert names == ["better", "doubtful", "plain", "unfinished"]


def test_the_site_asks_for_nothing_and_its_links_lead_to_its_own_files(results: Path) -> None:
    files = dict(site(tables(results), results, images=1))
    assert list(files) == ["index.html", "runs/one.html", "runs/two.html"]
    for name, content in files.items():
        page = content.decode()
        assert POLICY.replace("'", "&#39;") in page or POLICY in page
        links = re.findall(r'(?:href|src)="([^"]*)"', page)
        local = [link for link in links if not link.startswith(("data:", "#"))]
        assert all((Path(name).parent / link).as_posix().replace("runs/../", "") in files for link in local)
        assert not re.search(r"(?:src|href|action)=\"?(?:https?:)?//", page)
    assert "../index.html" in files["runs/one.html"].decode()


def test_no_name_in_a_result_becomes_markup_and_doubt_is_shown(results: Path) -> None:
    index = dict(site(tables(results), results, images=0))["index.html"].decode()
    assert HOSTILE not in index and "&lt;script&gt;window.stolen" in index
    rows = re.findall(r'<tr class="standing"(.*?)</tr>', index, re.DOTALL)
    doubtful = next(row for row in rows if "doubtful" in row)
    assert 'data-doubted="yes"' in doubtful and "50.0?" in doubtful
    assert sum('data-doubted="yes"' in row for row in rows) == 1


def test_every_run_has_a_page_of_its_own_whatever_its_name() -> None:
    runs = [Path(f"r/{name}") for name in ("a/b", "a-b", "A-b", "ä", "a b")]
    names = page_names(runs, Path("r"))
    assert len({name.lower() for name in names}) == 5
    assert all(re.fullmatch(r"runs/[A-Za-z0-9_-]+\.html", name) for name in names)
    assert page_names([Path("results/x")], Path("results/x")) == ["runs/x.html"]


@pytest.mark.slow
def test_the_command_writes_the_site(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["site", str(results), "--out", str(tmp_path / "site"), "--images", "1"])
    assert ended.value.code == 0
    written = sorted(path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html"))
    assert written == ["index.html", "runs/one.html", "runs/two.html"]
    assert "Open" in capsys.readouterr().out
