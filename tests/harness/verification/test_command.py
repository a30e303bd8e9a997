"""`harness verify` as a command: its status, and what it shows when it is stopped."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from harness.process.signals import Stopped
from harness.verification import run as verification_run
from harness.verification.replay import ReplayedPredictions, replay_votes
from helpers.verified import call, edit_manifest, finish, forge, pushed

pytestmark = pytest.mark.slow


def test_the_status_tells_what_came_of_it(small_suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = finish(small_suite)
    options = [str(out), "--suite", str(small_suite), "--trust"]
    assert call(*options) == 0
    assert "plain/weak" in capsys.readouterr().out
    assert call(str(out), "--no-replay") == 0 and "budgets hold" in capsys.readouterr().out
    assert call(str(out), "--only", "plain/weak", "--trust") == 3
    shown = " ".join(capsys.readouterr().out.split())
    assert "plain/strong" not in shown and "noisy/weak" not in shown
    assert call(*options, "--only", "plain/weak", "--only", "noisy") == 0
    both = capsys.readouterr().out
    assert all(name in both for name in ("plain/weak", "noisy/weak", "noisy/strong")) and "plain/strong" not in both
    assert "not replayed: './fakes.py:NearestMean'" in shown and "--suite" in shown
    forge(out, pushed)
    assert call(*options) == 1 and "plain/weak: image 1: out of budget" in capsys.readouterr().out
    assert call(str(out), "--only", "plain/week") == 2 and "'plain/weak'" in capsys.readouterr().err
    assert call(str(small_suite.parent / "nowhere")) == 2


@pytest.mark.parametrize("lost", ["resolved", "dataset", "protocol", "cells"])
def test_a_manifest_that_lacks_something_is_refused(small_suite: Path, lost: str) -> None:
    out = finish(small_suite)
    edit_manifest(out, lambda m: m.pop(lost))
    assert call(str(out)) == 2


def test_stopping_shows_how_far_it_came(
    small_suite: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, asked = finish(small_suite), []

    def stop(*arguments: Any, **options: Any) -> ReplayedPredictions:
        asked.append(arguments)
        if len(asked) > 4:
            raise Stopped(signal.SIGINT)
        return replay_votes(*arguments, **options)

    monkeypatch.setattr(verification_run, "replay_votes", stop)
    assert call(str(out), "--suite", str(small_suite), "--trust") == 130
    assert "8/10" in capsys.readouterr().out
