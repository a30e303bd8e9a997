"""`harness diagnose`: what it keeps, when it computes anew, and what it refuses."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import cli
from harness.diagnosis import CHECKS, attack_checks
from harness.diagnosis import run as diagnosis_run
from harness.diagnosis import subject as diagnosis_subject
from harness.process.signals import Stopped
from harness.reporting import report, summarise
from harness.reporting.render.plots import figure
from harness.reporting.tables.charts import charts
from harness.results.load import read_run
from helpers.modules import source

pytestmark = pytest.mark.slow

FAKES = source("means")

SUITE = """\
suite: tiny
dataset: {name: digits, first: 8}
protocol: {gates: "off"}
defenses:
  means: {type: "./means.py:Means", label: Class means}
  weak: {type: "./means.py:Means", strength: 0.5}
attacks:
  flow: {type: stadv, bound: 0.05, steps: 2}
  linf: {type: pgd, norm: Linf, eps: 0.2, steps: 2}
  l2: {type: pgd, norm: L2, eps: 1, steps: 2}
"""

CALL = ("--images", "4", "--steps", "4", "--queries", "10")


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "means.py").write_text(FAKES)
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE)
    return path


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    return int(ended.value.code or 0)


def diagnosed(folder: Path, defense: str = "means") -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / f"results/tiny/diagnose/{defense}.json").read_text())
    return found


def test_every_check_is_kept_with_its_numbers_and_its_source(suite: Path) -> None:
    assert call("diagnose", str(suite), "--only", "means", *CALL) == 0
    found = diagnosed(suite.parent)
    assert found["finished"] and found["images"] == 4 and found["threat"] == "Linf 0.2" and found["surrogate"] == "weak"
    assert [finding["name"] for finding in found["findings"]] == [check.name for check in CHECKS]
    assert all(finding["source"] and finding["message"] for finding in found["findings"])


def test_what_it_says_to_type_shows_the_findings(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("diagnose", str(suite), "--only", "means", *CALL) == 0
    said = capsys.readouterr().out.strip().splitlines()[-1]
    first, second = (part.strip() for part in said.split("beside results:")[1].split(", then "))
    for command in (first, second):
        assert call(*command.removeprefix("harness ").split()) == 0, command
    assert "gradient randomness" in capsys.readouterr().out


def test_the_budget_of_a_named_attack_is_taken(suite: Path) -> None:
    assert call("diagnose", str(suite), "--only", "means/l2", *CALL) == 0
    assert diagnosed(suite.parent)["threat"] == "L2 1"


def test_a_finished_diagnosis_is_not_repeated(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("diagnose", str(suite), "--only", "means", *CALL)
    assert call(*command) == 0
    before = diagnosed(suite.parent)
    monkeypatch.setattr(diagnosis_run, "_subject", None)
    assert call(*command) == 0
    assert diagnosed(suite.parent) == before


def test_a_stopped_diagnosis_goes_on_from_the_checks_it_made(
    suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Stopped(signal.SIGINT)

    command = ("diagnose", str(suite), "--only", "means", *CALL)
    with monkeypatch.context() as patched:
        patched.setattr(attack_checks, "built", stop)
        patched.setattr(diagnosis_subject, "built", stop)
        assert call(*command) == 130
    assert "continues from there" in capsys.readouterr().out
    first = diagnosed(suite.parent)
    assert not first["finished"] and len(first["findings"]) == 4
    assert call(*command) == 0
    assert diagnosed(suite.parent)["findings"][:4] == first["findings"]


@pytest.mark.parametrize("change", [("steps", "5"), ("images", "3")])
def test_other_settings_compute_anew(suite: Path, change: tuple[str, str]) -> None:
    command = ["diagnose", str(suite), "--only", "means", *CALL]
    assert call(*command) == 0
    key = diagnosed(suite.parent)["key"]
    command[command.index(f"--{change[0]}") + 1] = change[1]
    assert call(*command) == 0
    assert diagnosed(suite.parent)["key"] != key


def test_a_crash_ends_in_errors_that_are_tried_again(suite: Path) -> None:
    crashing = SUITE.replace("label: Class means", "crash: true")
    suite.write_text(crashing)
    command = ("diagnose", str(suite), "--only", "means", *CALL)
    assert call(*command) == 1
    assert "failed" in {finding["status"] for finding in diagnosed(suite.parent)["findings"]}
    (suite.parent / "means.py").write_text(FAKES.replace("self.crash and", "False and"))
    assert call(*command) == 0


def test_findings_join_the_report_until_the_defense_changes(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", str(suite)) == 0
    assert call("diagnose", str(suite), "--only", "means/l2", *CALL) == 0
    capsys.readouterr()
    folder = suite.parent / "results/tiny"
    markdown = str(report(folder, "md"))
    assert "Gradient diagnostics" in markdown and "gradient randomness" in markdown
    assert "L2 1, exact, 4 images" in markdown and "Class means" in markdown
    (chart,) = (each for each in charts(summarise(read_run(folder))) if each.measure == "cosine")
    data = next(each["data"] for each in diagnosed(suite.parent)["findings"] if each["name"] == "gradient randomness")
    (line,) = chart.lines
    assert (chart.scale, line.label) == (1, "Class means")
    assert {dot.tick: dot.estimate.value for dot in line.dots} == data["cosine"]
    assert "cosine of two gradients" in str(report(folder, "html"))
    (panel,) = figure(chart).axes
    assert [*panel.lines[0].get_ydata()] == [*data["cosine"].values()]
    [run] = json.loads(str(report(folder, "json")))["runs"]
    assert run["diagnostics"] == [diagnosed(suite.parent)]
    stale = diagnosed(suite.parent)
    stale["resolved"] = {"type": "another", "arguments": {}}
    (folder / "diagnose/means.json").write_text(json.dumps(stale))
    markdown = str(report(folder, "md"))
    assert "gradient randomness" not in markdown and "the suite changed: means" in markdown


Spoil = Callable[[Path], list[str]]


def only_flow(suite: Path) -> list[str]:
    return ["--only", "means/flow"]


def no_surrogate(suite: Path) -> list[str]:
    return ["--only", "means", "--surrogate", "waek"]


def no_gradient(suite: Path) -> list[str]:
    return ["--gradient", "bdpa"]


def damaged(suite: Path) -> list[str]:
    path = suite.parent / "results/tiny/diagnose/means.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    return ["--only", "means"]


def foreign(suite: Path) -> list[str]:
    assert call("run", str(suite), "--only", "means/linf") == 0
    suite.write_text(suite.read_text().replace("suite: tiny", "suite: other"))
    return ["--only", "means", "--out", str(suite.parent / "results/tiny")]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (only_flow, "--only DEFENSE/ATTACK"),
        (no_surrogate, "'weak'"),
        (no_gradient, "bpda"),
        (damaged, "Delete it"),
        (foreign, "--out"),
    ],
)
def test_a_mistake_is_told_with_its_remedy(
    suite: Path, spoil: Spoil, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = spoil(suite)
    assert call("diagnose", str(suite), *arguments, *CALL) == 2
    assert said in capsys.readouterr().err
