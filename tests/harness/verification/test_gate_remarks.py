"""Verification makes the remarks of gates anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.verified import edit_manifest, finish, in_cell, manifest, reports

SATURATED = """
suite: saturated
dataset: {name: digits, first: 8}
protocol: {shard: 8, gates: POLICY}
defenses:
  scaled: {type: "./fakes.py:Scaled"}
attacks:
  weak: {type: noise, norm: Linf, eps: 0.1}
"""

SCALED = """

class Scaled(NearestMean):
    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x).softmax(1)
"""


def with_gates(suite: Path, policy: str) -> Path:
    fakes = suite.parent / "fakes.py"
    fakes.write_text(fakes.read_text() + SCALED)
    return finish(suite, SATURATED.replace("POLICY", policy))


def test_a_gate_s_remark_that_was_taken_out_is_put_back(small_suite: Path) -> None:
    out = with_gates(small_suite, "mark")
    flags = manifest(out)["cells"][0]["flags"]
    assert any(flag.startswith("logits, not probabilities") for flag in flags)
    assert reports(out)["scaled/weak"].outcome == "holds"
    edit_manifest(out, in_cell(flags=[]), sealed=True)
    report = reports(out)["scaled/weak"]
    assert report.outcome == "fails" and report.problems == [
        f"a gate finds what the manifest does not say: {flag}" for flag in flags
    ]


@pytest.mark.slow
def test_a_remark_that_no_gate_makes_could_not_be_verified(small_suite: Path) -> None:
    out = finish(small_suite)
    edit_manifest(out, in_cell(flags=["batch independence: row 3 is another"]), sealed=True)
    report = reports(out)["plain/weak"]
    assert report.outcome == "in part" and not report.problems
    assert report.gaps == ["the gates do not repeat a remark of the manifest: batch independence: row 3 is another"]


def test_a_run_without_gates_holds_with_what_they_find_now(small_suite: Path) -> None:
    report = reports(with_gates(small_suite, "off"))["scaled/weak"]
    assert report.outcome == "holds" and report.remarks[0].startswith("the run's gates were off; made now, they find: ")
