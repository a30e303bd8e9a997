"""Results that an earlier version made keep their keys: nothing of theirs is computed anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness import cli

EARLIER = Path(__file__).parent / "golden" / "results_before_layout"
"""Made by `harness run suites/quickstart.yaml` at commit 96ca91a, the last one before modules and folders moved."""


def test_a_run_that_an_earlier_version_finished_has_nothing_left_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(EARLIER / "run", out)
    with pytest.raises(SystemExit) as exit:
        cli.main(["run", str(EARLIER / "suite.yaml"), "--out", str(out)])
    assert exit.value.code == 0
    assert "Nothing to do" in capsys.readouterr().out
