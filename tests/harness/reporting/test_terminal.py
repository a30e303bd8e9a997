"""The table for the terminal: the same words at every width, none of them broken."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest

from harness.process.console import new_console
from harness.reporting import report
from harness.results.record import Record
from tests.harness.reporting.conftest import Maker

LABELS = (
    "Undefended",
    "Likelihood maximisation",
    "A robust diffusion classifier of many words",
    "Adversarial/training",
)


def printed(rendered: Any, width: int) -> str:
    sink = io.StringIO()
    new_console(file=sink, width=width).print(rendered)
    return sink.getvalue()


@pytest.fixture
def wide_run(maker: Maker, rec: Callable[..., Record]) -> Any:
    """Four defenses, one of them stochastic, under five attacks, with a group and remarks."""
    for number, label in enumerate(LABELS):
        for attack in range(5):
            draws = "rrw" if number == 2 else "r"
            records = [rec(i, draws, draws if i % 2 else "w" * len(draws)) for i in range(4)]
            flags = ["a remark of the attack that runs over more than one line of a narrow terminal"]
            maker.cell(f"d{number}", f"a{attack}", records, stochastic=number == 2, flags=flags)
        maker.defenses[f"d{number}"]["label"] = label
    for attack in range(5):
        maker.attacks[f"a{attack}"] = {"label": f"Attack number {attack}"}
    report = {"average": ["a0", "a1"], "worst": ["a0", "a1"], "groups": {"Purification": ["d1", "d2"]}}
    return maker.finish(votes=3, report=report)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_word_of_the_report_is_broken_and_no_line_is_longer_than_the_terminal(wide_run: Any, width: int) -> None:
    rendered = report(wide_run, "table")
    wide, narrow = printed(rendered, 1000), printed(rendered, width)
    assert set(re.findall(r"[^\s─]+", wide)) == set(re.findall(r"[^\s─]+", narrow))
    assert max(map(len, narrow.splitlines())) <= width


def test_columns_take_the_room_that_there_is(wide_run: Any) -> None:
    """Labels are written in full where the line holds all columns, and wrapped where it does not."""
    rendered = report(wide_run, "table")
    assert LABELS[2] in printed(rendered, 200)
    assert LABELS[2] not in printed(rendered, 80)
    heads = [line for line in printed(rendered, 80).splitlines() if line.startswith("Defense ")]
    assert len(heads) < 6
