"""Worker processes give the results of one process, and no fault of one of them costs more than its own pairing."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import harness
from harness.errors import UserError
from harness.evaluation.engines import processes
from harness.evaluation.engines.processes import Processes
from harness.results.store import Store
from helpers.commands import command
from helpers.engines import Notes, alone, contents, ended, finish, handed_over, noted_processes, one_thread, perilous
from helpers.modules import source

pytestmark = pytest.mark.slow


def test_two_workers_make_the_records_and_images_of_one_process(
    suite: Path, expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    notes = Notes()
    assert finish(suite, tmp_path / "out", Processes(["cpu", "cpu"], threads=1), notes).computed == 15
    assert contents(suite, tmp_path / "out") == expected
    assert notes.notes == []
    (session,) = (Store(tmp_path / "out").manifest() or {})["sessions"]
    assert (session["engine"], session["workers"], session["worker_threads"]) == ("local", ["cpu", "cpu"], 1)


def test_what_this_process_begins_a_worker_continues_and_the_other_way_round(
    suite: Path, expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    assert handed_over(suite, tmp_path / "out", Processes(["cpu"], threads=1)) == expected


@pytest.mark.long
def test_a_killed_worker_is_replaced_and_a_pairing_that_kills_all_becomes_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert processes.TRIES == 4
    monkeypatch.setattr(processes, "TRIES", 2)
    suite, notes = perilous(tmp_path), Notes()
    (failure,) = finish(suite, tmp_path / "out", Processes(["cpu"], threads=1), notes).failures
    assert (failure.name, failure.errors, failure.images) == ("plain/killed", 6, 6)
    assert all("2 processes were lost over it: its process ended with status 3" in why for why in failure.reasons)
    assert all("the last it printed: the last thing that was heard" in why for why in failure.reasons)
    assert len(os.listdir(tmp_path / "Killed")) == 4, "two shards were tried twice, and the third not at all"
    killed = [note for note in notes.notes if note.startswith("plain/once")]
    assert [note.startswith("plain/once, images 0 to 1: its process was killed (SIGKILL)") for note in killed] == [True]
    assert any("the pairing is given up, and the others go on" in note for note in notes.notes)
    found = contents(suite, tmp_path / "out")
    # The one that is killed, the one that begins its shard again, and if "killed" comes before the rest, as it seems to
    # take longer, the one that replaces the process that dies of it.
    assert len(os.listdir(tmp_path / "KilledOnce")) in (2, 3)
    for name in ("plain/once", "plain/sound"):
        assert found[name][0] == alone(suite, name, tmp_path / "whole")


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_end_of_the_driver_ends_its_workers_and_loses_nothing(tmp_path: Path, number: signal.Signals) -> None:
    suite = perilous(tmp_path, first=24, pause=0.3)
    count = 2 if number == signal.SIGKILL else 1
    words = ["run", str(suite), "--only", "plain/sound", "--workers", str(count), "--device", "cpu"]
    driver = command(*words, "--out", str(tmp_path / "out"))
    workers = noted_processes(tmp_path / "Marked", count)
    driver.send_signal(number)
    assert driver.wait() == (-number if number == signal.SIGKILL else 128 + number)
    shown = " ".join(driver.printed().split())
    assert ("the same command continues from there" in shown) == (number == signal.SIGINT)
    assert len(workers) == count and ended(workers)
    kept = len(list((tmp_path / "out").rglob("*.parquet")))
    only = harness.load_suite(suite, only="plain/sound")
    with one_thread():
        assert harness.run(only, tmp_path / "out", device="cpu").computed == 12 - kept
        harness.run(only, tmp_path / "whole", device="cpu")
    frames = [harness.load_results(tmp_path / name).frame.drop(columns="seconds") for name in ("out", "whole")]
    assert frames[0].equals(frames[1])


def test_a_model_that_no_module_holds_is_evaluated_in_a_worker(tmp_path: Path) -> None:
    weights = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    results = [
        harness.evaluate(
            lambda x: x.flatten(1) @ weights, "pgd", data="digits", size=6, eps="1/255", device="cpu", workers=workers
        ).frame.drop(columns="seconds")
        for workers in (None, 1)
    ]
    assert results[0].equals(results[1])


def test_a_model_that_cannot_be_sent_is_refused() -> None:
    class Locked(torch.nn.Linear):
        def __deepcopy__(self, memo: Any) -> Locked:
            return self

        def __reduce__(self) -> Any:
            raise TypeError("it is locked")

    model = torch.nn.Sequential(torch.nn.Flatten(), Locked(64, 10))
    with pytest.raises(UserError, match="the run cannot be sent to other processes: TypeError: it is locked"):
        harness.evaluate(model, "pgd", data="digits", size=2, eps="1/255", device="cpu", workers=1)


def test_a_mistake_that_a_worker_finds_ends_the_run(suite: Path, tmp_path: Path) -> None:
    text = suite.read_text().replace("digits-cnn}", 'digits-cnn}\n  odd: {type: "./fakes.py:Odd"}')
    (tmp_path / "fakes.py").write_text(source("fakes") + "\n\nclass Odd(NearestMean):\n    num_classes = 7\n")
    (tmp_path / "odd.yaml").write_text(text.replace("defense: [noisy, cnn]", "defense: [odd, noisy, cnn]"))
    with pytest.raises(UserError, match="defense 'odd' has 7 classes"):
        finish(tmp_path / "odd.yaml", tmp_path / "out", Processes(["cpu"], threads=1))
    assert not list((tmp_path / "out").rglob("*.parquet"))
