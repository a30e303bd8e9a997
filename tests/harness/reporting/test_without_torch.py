"""A report is made without torch, whose import takes longer than most reports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

from harness.results.record import Record

BLOCKED = """
import sys
sys.modules["torch"] = None  # its import fails
from harness import cli
for format in sys.argv[2:]:
    try:
        cli.main(["report", sys.argv[1], "--format", format])
    except SystemExit as end:
        assert not end.code
    print("END")
"""


def test_tables_are_made_without_torch(maker: Any, column: Callable[..., list[Record]]) -> None:
    maker.cell("d", "a", column("rrww"), least_cosine=0.9, gradient_noise={"cosine": 0.2, "images": 4})
    expected = {"table": "50.0?", "csv": ",0.5,", "json": '"accuracy": 0.5', "md": "50.0?", "latex": "50.0?"}
    command = [sys.executable, "-c", BLOCKED, str(maker.finish()), *expected]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for (format, number), shown in zip(expected.items(), done.stdout.split("END\n")[:-1], strict=True):
        assert number in shown, format
