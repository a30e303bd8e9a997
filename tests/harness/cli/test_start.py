"""A command imports what it uses: libraries that take seconds to import do not come along unseen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SUITE = """\
suite: tiny
dataset: {name: digits, first: 1}
protocol: {votes: 1, gates: 'off'}
defenses:
  dc: {type: dc, weights: digits-ncsnpp, timesteps: 2}
attacks:
  linf: {type: pgd, norm: Linf, eps: 0.2, steps: 1}
"""

CODE = """
import sys
from harness import cli

try:
    cli.main(["run", *sys.argv[1:]])
except SystemExit as ended:
    assert not ended.code
print("imported:", *sorted({"sklearn", "scipy.stats", "scipy.special", "sympy", "matplotlib"} & set(sys.modules)))
"""


def test_a_run_imports_no_large_library_that_it_does_not_use(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(SUITE)
    arguments = [str(tmp_path / "suite.yaml"), "--device", "cpu", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported:"
