"""A check turns whatever a function says or raises into a finding, and a finding needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.checks.finding import COLOURS, Finding, Measured, Outcome, Skip, Status, check


@check("sign", "Euclid", "Euler", passes=2)
def sign(number: float) -> Measured:
    """Measures a number."""
    if number == 0:
        raise Skip("zero has no sign")
    if number > 9:
        raise KeyError("large")
    if number < -9:
        sys.exit("the end")
    return ("passed" if number > 0 else "warned"), f"the number is {number}", {"number": number}


@pytest.mark.parametrize(
    ("number", "status", "message", "data"),
    [
        (1, "passed", "the number is 1", {"number": 1}),
        (-1, "warned", "the number is -1", {"number": -1}),
        (0, "skipped", "zero has no sign", {}),
        (10, "failed", "it raises KeyError", {}),
        (-10, "failed", "the end; this would end the whole program", {}),
    ],
)
def test_every_way_out_of_a_check_is_a_status(number: float, status: Status, message: str, data: object) -> None:
    found = sign(number)
    assert (found.name, found.status, found.source, found.data) == ("sign", status, "Euclid; Euler", data)
    assert message in found.message and found.seconds >= 0
    assert sign.passes == 2


def test_a_check_without_numbers_has_no_data() -> None:
    @check("plain")
    def plain(_: None) -> Outcome:
        return "passed", "fine"

    found = plain(None)
    assert (found.data, found.source, found.remedy) == ({}, "", None)


def test_every_status_has_a_colour() -> None:
    assert {Finding("name", status, "").status for status in COLOURS} == {"passed", "warned", "failed", "skipped"}


def test_findings_are_made_without_torch() -> None:
    code = (
        "import sys; from harness.checks import Finding; Finding('a', 'passed', 'b'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
