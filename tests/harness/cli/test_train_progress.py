"""The display of a training, on a terminal and without one."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from harness.cli import train_progress
from harness.cli.train_progress import Display
from harness.training import train


def test_progress_without_a_terminal_is_plain_lines(recipe: Path) -> None:
    screen = io.StringIO()
    train(recipe, callback=Display(Console(file=screen)), runs=recipe.parent)
    lines = screen.getvalue().splitlines()
    assert any("step 14/14" in line for line in lines)
    assert any("clean accuracy" in line and "500 test images" in line for line in lines)
    assert "\x1b" not in screen.getvalue()


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.25, "loss 2.0000, 4.0 steps/s, 25 s left"), (80.0, "80.0 s a step, 2 h 13 min left")]
)
def test_a_slow_training_tells_seconds_a_step_and_hours(
    seconds: float, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, screen = [0.0], io.StringIO()
    monkeypatch.setattr(train_progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(train_progress, "LINE_EVERY", 0.0)
    display = Display(Console(file=screen, width=200))
    with display.training("tiny", 0, 102):
        for step in (1, 2):
            now[0] += seconds
            display.stepped(step, 2.0)
    assert screen.getvalue().splitlines()[-1].endswith(shown)


def test_a_terminal_gets_a_bar(recipe: Path) -> None:
    screen = io.StringIO()
    train(recipe, callback=Display(Console(file=screen, force_terminal=True)), runs=recipe.parent)
    assert "14/14" in screen.getvalue()
