"""A report is made without torch, whose import takes longer than most reports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from harness.results.record import Record

BLOCKED = """
import sys
sys.modules["torch"] = None  # its import fails
from harness import cli
cli.main(["report", sys.argv[1], "--format", sys.argv[2]])
"""


@pytest.mark.parametrize("format", ["table", "csv", "json", "md", "latex"])
def test_tables_are_made_without_torch(maker: Any, column: Callable[..., list[Record]], format: str) -> None:
    maker.cell("d", "a", column("rrww"), least_cosine=0.9, gradient_noise={"cosine": 0.2, "images": 4})
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(maker.finish()), format], capture_output=True, text=True, timeout=120
    )
    assert (
        (done.returncode == 0 and "50.0?" in done.stdout) or '"accuracy": 0.5' in done.stdout or ",0.5," in done.stdout
    )
