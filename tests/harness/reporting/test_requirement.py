"""`harness report --fail-under`: what passes, what does not, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.errors import UserError
from harness.reporting.output import judged_report
from harness.reporting.tables.requirement import Bound, Judgement, Requirement
from harness.results.record import Record


@pytest.fixture
def run(maker: Any, rec: Callable[..., Record], column: Callable[..., list[Record]]) -> Path:
    """plain: 40% under linf, an average of 30% and a worst case of 20%; crashed: failed; half: unfinished."""
    maker.count, maker.shard = 10, 10
    maker.cell("plain", "linf", column("rrrrwwwwww"))
    maker.cell("plain", "l2", column("rrwwwwwwww"), threat="L2 0.5")
    maker.cell("crashed", "linf", [rec(at, adv="", verdict="error", error="it failed") for at in range(10)])
    maker.cell("half", "linf", column("rrrr"))
    root: Path = maker.finish(report={"average": ["linf", "l2"], "worst": ["linf", "l2"]})
    return root


def judged(run: Path, text: str, bound: Bound = "value") -> Judgement:
    _, (judgement,) = judged_report(run, "md", requirements=[Requirement.parse(text, bound)])
    return judgement


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("plain/linf=40", True),
        ("plain/linf=40.1", False),
        ("plain/clean=100%", True),
        ("plain/average=30", True),
        ("plain/average=30.5", False),
        ("plain/worst=20", True),
        ("plain/worst=21", False),
    ],
)
def test_the_accuracy_itself_is_compared(run: Path, text: str, met: bool) -> None:
    judgement = judged(run, text)
    assert judgement.met is met
    assert ("not below the required" in judgement.text) is met
    assert "the accuracy itself is compared, neither end of its interval" in judgement.text


@pytest.mark.parametrize(("bound", "passes", "fails"), [("low", 16.8, 16.9), ("high", 68.7, 68.8)])
def test_an_end_of_the_interval_may_be_compared(run: Path, bound: Bound, passes: float, fails: float) -> None:
    """Wilson's interval of 4 in 10 is 16.82 to 68.73%."""
    assert judged(run, f"plain/linf={passes}", bound).met
    judgement = judged(run, f"plain/linf={fails}", bound)
    assert not judgement.met
    assert f"{'lower' if bound == 'low' else 'upper'} end of its interval is compared" in judgement.text
    assert "is 40.0% (95% interval 16.8 to 68.7%, 10 images)" in judgement.text


@pytest.mark.parametrize(("name", "status"), [("crashed", "failed"), ("half", "unfinished")])
def test_a_number_that_does_not_exist_meets_nothing(run: Path, name: str, status: str) -> None:
    judgement = judged(run, f"{name}/linf=0")
    assert not judgement.met
    assert f"has no number ({status})" in judgement.text


def test_a_number_in_doubt_meets_nothing(maker: Any, column: Callable[..., list[Record]]) -> None:
    noise = {"cosine": 0.01, "images": 4}
    maker.cell("noisy", "linf", column("rrrr"), least_cosine=0.5, gradient_noise=noise)
    judgement = judged(maker.finish(), "noisy/linf=40")
    assert not judgement.met
    assert "not below the required 40%" in judgement.text and "but it may be too high" in judgement.text


@pytest.mark.parametrize(
    "text", ["plain/linf", "plain=40", "plain/linf=much", "plain/linf=101", "a/b/c=1", "/linf=3", ""]
)
def test_what_is_no_requirement_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="DEFENSE/ATTACK=PERCENT"):
        Requirement.parse(text)


def test_a_place_that_no_table_has_is_refused(run: Path) -> None:
    for text in ("plain/lin=40", "crashed/worst=40"):
        with pytest.raises(UserError, match="no table has"):
            judged(run, text)


def test_the_status_and_the_sentence_of_the_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, status, said in (
        (["--fail-under", "plain/linf=40"], 0, "passed: tiny: plain/linf is 40.0%"),
        (["--fail-under", "plain/linf=40", "--fail-under", "plain/l2=21"], 1, "failed: tiny: plain/l2 is 20.0%"),
        (["--fail-under", "plain/linf=40", "--bound", "low"], 1, "the lower end of its interval is compared"),
        (["--fail-under", "plain=40"], 2, "error: 'plain=40' is no requirement"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["report", str(run), "--format", "csv", *options])
        shown = capsys.readouterr()
        assert (ended.value.code or 0) == status
        assert said in shown.err
        assert shown.out.startswith("run,suite") == (status < 2)
