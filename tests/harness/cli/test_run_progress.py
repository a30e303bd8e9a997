"""The live display fits the terminal, whatever the number of pairings."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from harness.cli import run_progress
from harness.cli.run_progress import Display, Tally
from harness.evaluation.run import run
from harness.results.record import Record, Verdict
from harness.suite import load_suite


def test_the_live_table_shows_every_pairing_and_no_line_wraps(small_suite: Path, tmp_path: Path) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=80, height=30, force_terminal=True, color_system=None)
    run(load_suite(small_suite), tmp_path / "out", torch.device("cpu"), Display(console))
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue()).replace("\r", "\n").splitlines()
    for name in ("plain/weak", "plain/strong", "noisy/weak", "noisy/strong"):
        last = [line for line in lines if line.startswith(name)][-1]
        assert all(part in last for part in ("10/10", "clean", "robust", "images/s")), last


def test_a_low_terminal_shows_the_pairing_at_work(small_suite: Path, tmp_path: Path) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=80, height=3, force_terminal=True, color_system=None)
    run(load_suite(small_suite), tmp_path / "out", torch.device("cpu"), Display(console))
    assert "noisy/strong" in shown.getvalue().splitlines()[-3]


def test_where_there_is_no_terminal_a_line_comes_within_a_shard_and_at_its_end(
    small_suite: Path, tmp_path: Path
) -> None:
    """Attacks of 0.3 seconds on each of three shards, and a line at least each 0.05 seconds."""
    small_suite.write_text(small_suite.read_text().replace("eps: 0.9", "eps: 0.9, pause: 0.3"))
    shown = io.StringIO()
    display = Display(Console(file=shown, width=200), silence=0.05)
    run(load_suite(small_suite, only="plain/strong"), tmp_path / "out", torch.device("cpu"), display)
    lines = shown.getvalue().splitlines()
    assert lines.pop(0) == "Building and examining 1 defense: plain"
    assert len(lines) > 3 and all(line.startswith("plain/strong: ") for line in lines)
    assert lines[0].startswith("plain/strong: 0/10 images, unknown time left")
    assert "10/10 images, clean" in lines[-1]


def test_a_run_that_prints_a_line_for_each_shard_prints_no_others(small_suite: Path, tmp_path: Path) -> None:
    shown = io.StringIO()
    run(load_suite(small_suite), tmp_path / "out", torch.device("cpu"), Display(Console(file=shown, width=200)))
    assert len(shown.getvalue().splitlines()) == 1 + 4 * 3


@pytest.mark.parametrize(("cores", "long", "said"), [(4, 0.0, 1), (1, 0.0, 0), (4, 1e6, 0)])
def test_a_long_run_of_one_process_with_several_cores_is_told_of_workers_once(
    cores: int, long: float, said: int, small_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_progress, "LONG", long)
    shown = io.StringIO()
    display = Display(Console(file=shown, width=200), cores=cores)
    run(load_suite(small_suite), tmp_path / "out", torch.device("cpu"), display)
    assert shown.getvalue().count("With --workers 4 the same command") == said


def record(verdict: Verdict, *, clean: list[int], adv: list[int]) -> Record:
    nothing: list[float] = []
    return Record(0, 1, verdict, clean, adv, nothing, nothing, 0, 0, 0, None, 0, 0, 0, 0, 0)


ROBUST, FOOLED = record("robust", clean=[1], adv=[1]), record("fooled", clean=[1], adv=[0])
STOCHASTIC = record("robust", clean=[0, 1, 1, 1], adv=[1, 0, 0, 2])
ERROR, SILENT = record("error", clean=[1], adv=[1]), record("error", clean=[], adv=[])


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([], ""),
        ([ROBUST, FOOLED], "clean 100.0%, robust 50.0%"),
        ([STOCHASTIC, STOCHASTIC], "clean 75.0%, robust 25.0%"),
        ([STOCHASTIC, FOOLED], "clean 87.5%, robust 12.5%"),
        ([ROBUST, FOOLED, FOOLED, ERROR], "clean 100.0%, robust 25.0%–50.0%, 1 error"),
        ([FOOLED, SILENT], "clean 100.0%, robust 0.0%–50.0%, 1 error"),
        ([ERROR, ERROR], "clean 100.0%, failed: 2 errors"),
        ([SILENT], "failed: 1 error"),
    ],
)
def test_errors_count_as_neither_and_leave_an_interval_or_no_number(records: list[Record], told: str) -> None:
    assert str(Tally().add(records)) == told
    assert str(Tally().add(records[:1]).add(records[1:])) == told


def test_a_shard_is_counted_once_however_often_the_display_looks() -> None:
    shards: dict[tuple[int, int], list[Record] | None] = {(0, 2): [ROBUST, FOOLED], (2, 3): None}
    tally = Tally()
    assert str(tally.update(shards)) == str(tally.update(shards)) == "clean 100.0%, robust 50.0%"
    shards[2, 3] = [FOOLED]
    assert (tally.update(shards).images, str(tally)) == (3, "clean 100.0%, robust 33.3%")
