"""The live display fits the terminal, whatever the number of pairings."""

from __future__ import annotations

import io
import re
from pathlib import Path

import torch
from rich.console import Console

from harness.progress import Display
from harness.run import run
from harness.suite import load


def test_the_live_table_shows_every_pairing_and_no_line_wraps(small_suite: Path, tmp_path: Path) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=80, height=30, force_terminal=True, color_system=None)
    run(load(small_suite), tmp_path / "out", torch.device("cpu"), Display(console))
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", shown.getvalue()).splitlines()
    for name in ("plain/weak", "plain/strong", "noisy/weak", "noisy/strong"):
        last = [line for line in lines if line.startswith(name)][-1]
        assert all(part in last for part in ("10/10", "clean", "robust", "images/s")), last


def test_a_low_terminal_shows_the_pairing_at_work(small_suite: Path, tmp_path: Path) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=80, height=3, force_terminal=True, color_system=None)
    run(load(small_suite), tmp_path / "out", torch.device("cpu"), Display(console))
    assert "noisy/strong" in shown.getvalue().splitlines()[-3]
