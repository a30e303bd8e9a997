"""JUnit and SARIF: what fails, what is only told, and that texts of strangers cannot break the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import pytest

from harness.reporting.formats.sarif import RULES
from harness.reporting.output import judged_report
from harness.reporting.tables.requirement import Requirement
from harness.results.record import Record

NASTY = "<&\"'>]]> \x1b[31m \u202e"


@pytest.fixture
def run(maker: Any, rec: Callable[..., Record], column: Callable[..., list[Record]]) -> Path:
    """A sound pairing, one that failed, one that is unfinished, and one whose number is in doubt."""
    noise = {"cosine": 0.01, "images": 4}
    maker.cell("sound", "linf", column("rrww"))
    maker.cell("crashed", "linf", [rec(at, adv="", verdict="error", error=NASTY) for at in range(4)])
    maker.cell("half", "linf", column("rr"))
    maker.cell("noisy", "linf", column("rrrr"), least_cosine=0.5, gradient_noise=noise, flags=["logits are saturated"])
    root: Path = maker.finish()
    return root


def rendered(run: Path, format: str, *required: str) -> str:
    text, _ = judged_report(run, format, requirements=[Requirement.parse(text) for text in required])
    assert isinstance(text, str)
    return text


def outcomes(text: str) -> dict[str, str]:
    cases = xml.fromstring(text).iter("testcase")
    return {case.attrib["name"]: next((n.tag for n in case if n.tag != "system-out"), "passed") for case in cases}


def test_junit_has_a_test_for_every_pairing_and_requirement(run: Path) -> None:
    text = rendered(run, "junit", "sound/linf=50", "sound/linf=51")
    assert outcomes(text) == {
        "sound/linf": "passed",
        "crashed/linf": "error",
        "half/linf": "skipped",
        "noisy/linf": "passed",
        "sound/linf at least 50%": "passed",
        "sound/linf at least 51%": "failure",
    }


def test_junit_counts_its_tests(run: Path) -> None:
    (suite,) = xml.fromstring(rendered(run, "junit", "sound/linf=51")).iter("testsuite")
    counts = {name: suite.attrib[name] for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "1", "errors": "1", "skipped": "1"}


def test_junit_tells_the_number_its_interval_and_its_doubts(run: Path) -> None:
    root = xml.fromstring(rendered(run, "junit"))
    told = {case.attrib["name"]: case.findtext("system-out") or "" for case in root.iter("testcase")}
    assert told["sound/linf"] == "robust accuracy 50.0% (95% interval 15.0 to 85.0%, 4 images)"
    assert "in doubt: " in told["noisy/linf"]


def results(text: str) -> list[dict[str, Any]]:
    (found,) = json.loads(text)["runs"]
    return list(found["results"])


def test_sarif_lists_what_is_not_as_it_should_be(run: Path) -> None:
    found = {
        (r["ruleId"], r["locations"][0]["logicalLocations"][0]["fullyQualifiedName"])
        for r in results(rendered(run, "sarif", "sound/linf=50", "sound/linf=51"))
    }
    assert found == {
        ("below-requirement", "tiny/sound/linf"),
        ("failed-pairing", "tiny/crashed/linf"),
        ("unfinished-pairing", "tiny/half/linf"),
        ("number-in-doubt", "tiny/noisy/linf"),
        ("remark", "tiny/noisy"),
    }


def test_sarif_has_what_its_standard_requires(run: Path) -> None:
    content = json.loads(rendered(run, "sarif", "sound/linf=51"))
    assert content["version"] == "2.1.0"
    (found,) = content["runs"]
    rules = {rule["id"] for rule in found["tool"]["driver"]["rules"]}
    assert rules == set(RULES)
    for result in found["results"]:
        assert result["ruleId"] in rules and result["level"] in ("error", "warning", "note")
        assert result["message"]["text"].endswith(".")
        place = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert place == str(run / "run.json")


@pytest.mark.parametrize("format", ["junit", "sarif"])
def test_texts_of_strangers_are_shown_and_do_no_harm(run: Path, format: str) -> None:
    text = rendered(run, format)
    assert "\x1b" not in text and "\u202e" not in text
    shown = text if format == "junit" else json.dumps(results(text))
    assert "\\x1b[31m" in shown.replace("\\\\", "\\")
    assert len(outcomes(rendered(run, "junit"))) == 4
