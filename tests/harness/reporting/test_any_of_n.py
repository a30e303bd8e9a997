"""Beside robust accuracy in any of n queries stand the clean images under as many queries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.evaluation.run import run
from harness.reporting import report, summarise
from harness.results.load import read_run
from harness.suite import load_suite

SUITE = """
suite: any
dataset: {name: digits, first: 24}
protocol: {votes: 5}
defenses:
  dropout: {type: "defenses.canaries.input_dropout:InputDropout", rate: 0.4,
    classifier: {type: undefended, weights: digits-cnn}}
attacks:
  weak: {type: noise, norm: Linf, eps: 1/255}
report: {average: []}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("any")
    (folder / "any.yaml").write_text(SUITE)
    run(load_suite(folder / "any.yaml"), folder / "out", torch.device("cpu"))
    return folder / "out"


def test_the_baseline_is_the_clean_images_under_as_many_queries(finished: Path) -> None:
    table = summarise(read_run(finished))
    records = list(read_run(finished).pairings["dropout", "weak"].columns)
    assert {len(votes) for record in records for votes in (record.clean_votes, record.adv_votes)} == {5}
    found = table.rows[0].by_rule["worst"][1]
    assert found.benign and found.estimate
    always = sum(all(vote == record.label for vote in record.clean_votes) for record in records) / len(records)
    once = sum(record.clean_votes[0] == record.label for record in records) / len(records)
    assert found.benign.value == always < once - 0.1, "clean images fail in one of five draws, too"
    assert abs(found.estimate.value - always) < 0.25, "noise of a level does not add to that"


@pytest.mark.parametrize("format", ["md", "latex"])
def test_it_stands_in_the_line_below_the_number(finished: Path, format: str) -> None:
    entry = summarise(read_run(finished)).rows[0].by_rule["worst"][1]
    assert entry.benign and entry.estimate
    lines = str(report(finished, format)).splitlines()
    for side, estimate in (("robust", entry.estimate), ("benign", entry.benign)):
        (line,) = [line for line in lines if side in line.split()]
        assert f"{100 * estimate.value:.1f}" in line
