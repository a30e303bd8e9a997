"""A shell that asks what can follow gets commands, options and names, without waiting for torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.cli.completion import SHELLS

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow


def asked(line: str, folder: Path = ROOT) -> list[str]:
    """What bash is told when the tabulator is pressed at the end of a line."""
    code = "import sys\nfrom harness.cli import main\ntry: main([])\n"
    code += "finally: assert 'torch' not in sys.modules"
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_HARNESS_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | words, cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert not done.returncode, done.stderr
    return done.stdout.split()


@pytest.mark.long
def test_commands_options_and_names_are_completed(small_suite: Path) -> None:
    assert {"run", "report", "show"} <= set(asked("harness "))
    assert asked("harness run --eng") == ["--engine"]
    assert asked("harness report --format la") == ["latex"]
    assert asked("harness list attacks pgd") == ["pgd", "pgd80_eot10"]
    assert asked(f"harness run {small_suite} --only noisy/") == ["noisy/weak", "noisy/strong"]
    assert asked("harness run nowhere.yaml --only x") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_one_that_the_shell_can_read(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["completion", shell])
    script = capsys.readouterr().out
    assert "_HARNESS_COMPLETE" in script and f"complete_{shell}" in script
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
