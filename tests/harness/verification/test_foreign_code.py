"""Verification runs no code of others unless it is trusted."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from harness import cli
from harness.suite import load_suite
from harness.suite.cell_key import cell_key, component_hash
from helpers.verified import call, finish, manifest, own_files, reports

PLANTED = """
import pathlib
pathlib.Path({mark!r}).write_text("it ran")
"""


@pytest.mark.slow
def test_nothing_of_others_runs_without_trust(small_suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, mark = finish(small_suite), small_suite.parent / "mark"
    fakes = small_suite.parent / "fakes.py"
    fakes.write_text(fakes.read_text() + PLANTED.format(mark=str(mark)))
    for report in reports(out, trust=False).values():
        assert report.outcome == "not replayed" and report.within == 10
        assert report.unreplayed in [
            f"it names code (./fakes.py:{cls}); add --trust to run it" for cls in ("NearestMean", "Noisy")
        ]
    assert call(str(out), "--suite", str(small_suite)) == 3
    assert "add --trust" in " ".join(capsys.readouterr().out.split())
    for command in (["report", str(out)], ["report", str(out), "--format", "html"], ["compare", str(out)]):
        with contextlib.suppress(SystemExit):
            cli.main(command)
    assert not mark.exists()
    reports(out)
    assert mark.exists()


INNER = """
suite: inner
dataset: {name: digits, first: 2}
protocol: {shard: 2}
defenses:
  front: {type: diffpure, weights: digits-ncsnpp, classifier: {type: "./fakes.py:NearestMean"}, t_star: 0.02, dt: 0.01}
  own: {type: undefended, weights: own.safetensors}
attacks:
  weak: {type: noise, norm: Linf, eps: 0.1}
"""


@pytest.mark.slow
def test_code_inside_an_argument_or_a_card_is_code_of_others(small_suite: Path) -> None:
    own_files(small_suite.parent)
    (small_suite.parent / "net.py").write_text("from defenses.networks.cnn import CNN\n\nclass Net(CNN):\n    pass\n")
    card = small_suite.parent / "own.yaml"
    card.write_text(card.read_text().replace("type: cnn", 'type: "./net.py:Net"'))
    out = finish(small_suite, INNER)
    assert all(report.outcome == "holds" for report in reports(out).values())
    found = reports(out, trust=False)
    assert "it names code (./fakes.py:NearestMean)" in (found["front/weak"].unreplayed or "")
    assert "it names code (./net.py:Net)" in (found["own/weak"].unreplayed or "")


def test_a_cell_s_key_is_made_as_the_run_makes_it(small_suite: Path) -> None:
    """Independent of `rebuild`: from the suite itself."""
    out = finish(small_suite)
    cell = load_suite(small_suite).cells[0]
    claims = {"votes": 3, "seed": 0, "shard": 4}
    parts = component_hash(cell.defense), component_hash(cell.attack), manifest(out)["dataset"]["fingerprint"]
    assert manifest(out)["cells"][0]["key"] == cell_key(*parts, claims)
