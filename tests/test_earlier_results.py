"""Results that an earlier version made keep their keys: nothing of theirs is computed anew, and they still hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness import cli

GOLDEN = Path(__file__).parent / "golden"
EARLIER = {
    "results_before_layout": "suites/quickstart.yaml at commit 96ca91a, the last one before modules and folders moved",
    "results_before_aliases": "its own suite at commit 5ee7900, when each alias was a class in a file of its own",
}
"""Folders with a suite and what `harness run` made of it, at which commit."""


@pytest.mark.parametrize("earlier", EARLIER)
def test_a_run_that_an_earlier_version_finished_has_nothing_left_to_do(
    earlier: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(GOLDEN / earlier / "run", out)
    with pytest.raises(SystemExit) as exit:
        cli.main(["run", str(GOLDEN / earlier / "suite.yaml"), "--out", str(out)])
    assert exit.value.code == 0
    assert "Nothing to do" in capsys.readouterr().out


@pytest.mark.slow
def test_results_of_attacks_and_defenses_that_became_aliases_are_verified(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        cli.main(["verify", str(GOLDEN / "results_before_aliases" / "run")])
    assert exit.value.code == 0, capsys.readouterr().out
