"""Results that an earlier version made keep their keys: nothing of theirs is computed anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.__main__ import main

EARLIER = Path(__file__).parent / "golden" / "results_before_layout"
"""Made by `harness run suites/quickstart.yaml` at commit 96ca91a, the last one before modules and folders moved."""


def test_a_run_that_an_earlier_version_finished_has_nothing_left_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(EARLIER / "run", out)
    monkeypatch.setattr("sys.argv", ["harness", "run", str(EARLIER / "suite.yaml"), "--out", str(out)])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 0
    assert "Nothing to do" in capsys.readouterr().out
