"""`make bench` runs every script without arguments: what needs some says so, and the other scripts still run."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(
    ("script", "needed"),
    [
        ("autoattack_time", "WEIGHTS and GOLDEN"),
        ("peers", "WEIGHTS and GOLDEN"),
        ("stock_autoattack", "SUITE and RESULTS"),
    ],
)
def test_a_script_that_needs_files_of_the_users_names_them_and_fails_nothing(
    script: str, needed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = BENCHMARKS / f"{script}.py"
    monkeypatch.setattr(sys, "argv", [str(path)])
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    runpy.run_path(str(path), run_name="__main__")
    assert f"Not run: it needs {needed}" in capsys.readouterr().out
