"""Several workers share one directory: they make the records of one process, whoever is killed, and nothing twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import harness
from harness.callback import Callback
from harness.errors import UserError
from harness.evaluation.crew import Part, _name
from harness.evaluation.run import Finished, run
from harness.reporting import summarise
from harness.results.claims import FOLDER, Claims
from harness.results.load import read_run
from harness.results.store import Store
from harness.suite import load_suite
from helpers.commands import Process, command
from helpers.engines import CPU, Notes, contents, finish, noted_processes, one_thread, perilous

SUITE = """\
suite: shared
dataset: {{name: digits, first: {first}}}
protocol: {{shard: 2, votes: 2, gates: off}}
defenses:
  plain: {{type: "./fakes.py:NearestMean"}}
  noisy: {{type: "./fakes.py:Noisy"}}
attacks:
  sound: {{type: "./perilous.py:Gated", eps: 0.9}}
  carried: {{type: transfer, norm: Linf, eps: 0.9, from: plain, attack: sound}}
"""


def suite_in(folder: Path, first: int = 12, gated: bool = False) -> Path:
    path = perilous(folder)
    path.write_text(SUITE.format(first=first))
    if not gated:
        (folder / "go").touch()
    return path


def work(suite: Path, out: Path, part: str, callback: Callback | None = None) -> Finished:
    with one_thread():
        return run(load_suite(suite), out, CPU, callback or Callback(), part=Part.of(part))


def started(suite: Path, out: Path, part: str) -> Process:
    """A worker in a process of its own."""
    words = ["run", str(suite), "--out", str(out), "--device", "cpu", "--worker", part]
    return command(*words, environment={"HARNESS_LEASE": "6"})


def left_behind(out: Path) -> list[str]:
    return sorted(path.name for path in (out / FOLDER).iterdir()) if (out / FOLDER).exists() else []


@pytest.mark.long
def test_three_workers_of_which_one_is_killed_make_the_records_of_one_process(tmp_path: Path) -> None:
    suite, out = suite_in(tmp_path, first=12, gated=True), tmp_path / "out"
    workers = [started(suite, out, f"{number}/3") for number in (1, 2, 3)]
    noted_processes(tmp_path / "Gated", 3)  # each has claimed a shard, and waits in its attack
    assert len(left_behind(out)) >= 6
    workers[1].send_signal(signal.SIGKILL)
    workers[1].wait()
    (tmp_path / "go").touch()
    ends = [worker.wait(timeout=300) for worker in workers]
    assert ends == [0, -signal.SIGKILL, 0], [worker.printed() for worker in workers]
    assert contents(suite, out) == made_by_one(suite, tmp_path / "whole")
    sessions = (Store(out).manifest() or {})["sessions"]
    assert sorted(session["worker"] for session in sessions) == ["1/3", "2/3", "3/3"]
    assert left_behind(out) == [] and not list(out.rglob("*.tmp"))
    reports = harness.verify(out, suite=suite, trust=True, device="cpu")
    assert {report.outcome for report in reports} == {"holds"}


def made_by_one(suite: Path, out: Path) -> dict[str, list[Any]]:
    finish(suite, out)
    return contents(suite, out)


@pytest.mark.slow
def test_workers_share_what_there_is_and_compute_nothing_twice(tmp_path: Path) -> None:
    suite, out = suite_in(tmp_path), tmp_path / "out"

    class Second(Notes):
        """Starts another worker in the middle of the first one's work."""

        def finished(self, run: Any, records: Any) -> None:
            super().finished(run, records)
            if len(self.order) == 5:
                done.append(work(suite, out, "2/2").computed)

    done: list[int] = []
    first = Second()
    mine = work(suite, out, "1/2", first).computed
    assert done == [19] and mine == 5, "the second took all that was left"
    assert contents(suite, out) == made_by_one(suite, tmp_path / "whole")
    assert work(suite, out, "1/1").computed == 0 and finish(suite, out).computed == 0


@pytest.mark.slow
def test_a_worker_leaves_to_others_what_they_compute_and_the_last_one_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_LEASE", "2")
    suite, out = suite_in(tmp_path, first=4), tmp_path / "out"
    found: list[Finished] = []

    class First(Notes):
        def finished(self, run: Any, records: Any) -> None:
            super().finished(run, records)
            if len(self.order) == 1:
                other = Claims(out, "worker 2/2")
                claims = [*(_claim_on("plain/carried", start) for start in (0, 2)), "worker-other"]
                assert all([other.take(name) for name in claims])
                found.append(work(suite, out, "3/3"))
                assert left_behind(out), "it was not the last one"
                other.end()

    assert work(suite, out, "1/3", First()).left == 0
    assert [(done.left, done.computed) for done in found] == [(2, 5)]
    assert contents(suite, out) == made_by_one(suite, tmp_path / "whole")
    assert left_behind(out) == []


def _claim_on(pairing: str, start: int) -> str:
    return _name(SimpleNamespace(name=pairing), (start, start + 2))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_worker_that_lost_its_claim_does_not_store_what_it_computed(tmp_path: Path) -> None:
    suite, out = suite_in(tmp_path, first=4), tmp_path / "out"

    class Robbed(Notes):
        """Another worker takes over a shard, and is gone before it has stored it."""

        def began(self, run: Any) -> None:
            if run.name == "noisy/sound":
                taken = out / FOLDER / f"{_claim_on('noisy/sound', 0)}.2"
                taken.touch()
                os.utime(taken, (1.0, 1.0))

    notes = Robbed()
    assert work(suite, out, "1/1", notes).computed == 8
    lost = "noisy/sound, images 0 to 1: another worker took it over, and this one's result is not stored"
    assert notes.notes == [lost] and notes.order.count("noisy/sound") == 2
    assert contents(suite, out) == made_by_one(suite, tmp_path / "whole")


@pytest.mark.slow
def test_a_shard_over_which_workers_are_lost_again_and_again_becomes_an_error(tmp_path: Path) -> None:
    suite, out = suite_in(tmp_path, first=4), tmp_path / "out"
    (out / FOLDER).mkdir(parents=True)
    path = out / FOLDER / f"{_claim_on('plain/sound', 0)}.4"
    path.touch()
    os.utime(path, (1.0, 1.0))
    failure, *carried = work(suite, out, "1/1").failures
    assert (failure.name, failure.errors, failure.images) == ("plain/sound", 2, 4)
    assert list(failure.reasons) == ["4 workers were lost over it"]
    assert [(other.name, other.errors) for other in carried] == [("plain/carried", 2), ("noisy/carried", 2)]
    assert work(suite, out, "1/1").failures == [], "the next run tries it again"


@pytest.mark.slow
def test_what_failed_is_tried_again_by_one_of_the_workers_and_once(tmp_path: Path) -> None:
    suite, out = suite_in(tmp_path, first=4), tmp_path / "out"
    suite.write_text(suite.read_text().replace("  carried", '  crash: {type: "./fakes.py:Crash"}\n  carried'))
    counts = []

    class Second(Notes):
        def finished(self, run: Any, records: Any) -> None:
            super().finished(run, records)
            if run.name == "noisy/crash" and len(counts) == 0:
                counts.append(work(suite, out, "2/2").computed)

    assert work(suite, out, "1/2", Second()).computed + counts[0] == 12
    assert len(work(suite, out, "1/2").failures) == 2
    assert Store(out).manifest() is not None
    assert summarise(read_run(out)) is not None


@pytest.mark.slow
def test_a_run_that_is_alone_and_workers_exclude_each_other(tmp_path: Path) -> None:
    suite, out = suite_in(tmp_path, first=4), tmp_path / "out"
    refused: list[str] = []

    class Both(Notes):
        def finished(self, cell_run: Any, records: Any) -> None:
            if not refused:
                with pytest.raises(UserError) as refusal:
                    finish(suite, out)
                refused.append(str(refusal.value))

    work(suite, out, "1/2", Both())
    assert "workers are writing" in refused[0] and "worker 1/2" in refused[0] and "--worker" in refused[0]
    with Store(out).locked(), pytest.raises(UserError, match="another process is writing"):
        work(suite, out, "1/2")
    elsewhere = Claims(out, "worker 5/8")
    assert elsewhere.take("worker-elsewhere")
    with pytest.raises(UserError, match="as worker 5/8"), Store(out).locked():
        pass
    elsewhere.end()
    assert finish(suite, out).computed == 0


@pytest.mark.parametrize("text", ["", "3", "0/8", "9/8", "a/b", "1/0", "-1/2"])
def test_a_worker_that_there_is_not_is_a_mistake(text: str) -> None:
    with pytest.raises(UserError, match="worker"):
        Part.of(text)


def test_workers_begin_at_places_that_are_evenly_apart() -> None:
    assert [Part(number, 4).start for number in (1, 2, 3, 4)] == [0, 0.25, 0.5, 0.75]
