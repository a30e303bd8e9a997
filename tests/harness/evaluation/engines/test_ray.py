"""A Ray cluster gives the results of one process, and begins again what it has lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.errors import UserError
from harness.evaluation import run
from harness.evaluation.engines import ray as engine
from harness.evaluation.engines.choose import choose
from harness.evaluation.engines.ray import import_ray
from harness.evaluation.job import Job
from harness.evaluation.time_limits import TimeLimits
from harness.results.store import Store
from helpers.engines import Notes, alone, contents, ended, finish, handed_over, noted_processes, perilous
from helpers.modules import source

try:
    ray = import_ray()
except UserError:
    pytest.skip("needs the packages of the extra `ray`", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two workers on this machine, for all tests of this file."""
    before = signal.getsignal(signal.SIGTERM)
    ray.init(address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def two_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what a user gets: each costs the start of a process."""
    assert engine.TRIES == 4
    monkeypatch.setattr(engine, "TRIES", 2)


def test_a_cluster_makes_the_records_and_images_of_one_process(
    cluster: None, suite: Path, expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    notes = Notes()
    assert finish(suite, tmp_path / "out", choose("ray", "cpu"), notes).computed == 15
    assert contents(suite, tmp_path / "out") == expected and notes.notes == []
    (session,) = (Store(tmp_path / "out").manifest() or {})["sessions"]
    assert (session["engine"], session["workers"], session["worker_threads"]) == ("ray", ["cpu", "cpu"], 1)
    assert ray.is_initialized(), "a cluster that was there before stays"


def test_what_this_process_begins_a_cluster_continues_and_the_other_way_round(
    cluster: None, suite: Path, expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    engine = choose("ray", "cpu")
    assert engine and handed_over(suite, tmp_path / "out", engine) == expected


@pytest.mark.long
def test_ray_begins_a_killed_shard_again_and_a_pairing_that_kills_all_becomes_errors(
    cluster: None, tmp_path: Path, two_tries: None
) -> None:
    suite, notes = perilous(tmp_path, first=2), Notes()
    (failure,) = finish(suite, tmp_path / "out", choose("ray", "cpu"), notes).failures
    assert (failure.name, failure.errors, failure.images) == ("plain/killed", 2, 2)
    assert all("2 processes were lost over it: WorkerCrashedError" in why for why in failure.reasons)
    assert len(os.listdir(tmp_path / "Killed")) == 2 and len(os.listdir(tmp_path / "KilledOnce")) == 2
    found = contents(suite, tmp_path / "out")
    for name in ("plain/once", "plain/sound"):
        assert found[name][0] == alone(suite, name, tmp_path / "whole")


@pytest.mark.long
def test_a_task_that_hangs_in_native_code_ends_itself_and_costs_its_shard_and_no_more(
    cluster: None, tmp_path: Path, two_tries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Limits(TimeLimits):
        """A limit for the shard that hangs, which is over however fast the machine is, and none for others."""

        def computation(self, job: Job) -> float | None:
            return 2.0 if job.bounds == (4, 6) else None

    monkeypatch.setattr(run, "TimeLimits", Limits)
    suite = perilous(tmp_path, first=8, attacks=["hung"])
    (failure,) = finish(suite, tmp_path / "out", choose("ray", "cpu")).failures
    assert (failure.errors, failure.images) == (2, 8)
    (why,) = failure.reasons
    assert why.startswith("2 processes were lost over it (one that works longer than 2 s, its limit, ends itself)")
    hung = [int(name) for name in os.listdir(tmp_path / "Hung")] if (tmp_path / "Hung").exists() else []
    assert ended(hung, seconds=2)  # Ray tells of a process that ends, a moment before it is gone


def test_a_mistake_that_a_task_finds_ends_the_run(cluster: None, suite: Path, tmp_path: Path) -> None:
    text = suite.read_text().replace("digits-cnn}", 'digits-cnn}\n  odd: {type: "./fakes.py:Odd"}')
    (tmp_path / "fakes.py").write_text(source("fakes") + "\n\nclass Odd(NearestMean):\n    num_classes = 7\n")
    (tmp_path / "odd.yaml").write_text(text.replace("defense: [noisy, cnn]", "defense: [odd, noisy, cnn]"))
    with pytest.raises(UserError, match="defense 'odd' has 7 classes"):
        finish(tmp_path / "odd.yaml", tmp_path / "out", choose("ray", "cpu"))
    with pytest.raises(UserError, match="the Ray cluster has no GPU"):
        finish(suite, tmp_path / "gpu", choose("ray", "cuda"))


@pytest.mark.long
def test_a_cluster_that_a_run_started_ends_with_it_even_if_the_run_is_killed(tmp_path: Path) -> None:
    suite = perilous(tmp_path, first=24, pause=0.3)
    command = ["run", str(suite), "--only", "plain/sound", "--device", "cpu", "--out", str(tmp_path / "out")]
    driver = subprocess.Popen(
        [sys.executable, "-m", "harness", *command, "--engine", "ray", "--workers", "2"],
        env={**os.environ, "RAY_ADDRESS": "local"},
    )
    tasks = noted_processes(tmp_path / "Marked", 1)
    while not list((tmp_path / "out").rglob("*.parquet")):
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert ended(tasks, 60)
    kept = len(list((tmp_path / "out").rglob("*.parquet")))
    only = harness.load_suite(suite, only="plain/sound")
    assert harness.run(only, tmp_path / "out", device="cpu").computed == 12 - kept


def test_a_cluster_that_cannot_be_reached_is_a_mistake_with_a_remedy(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(**options: Any) -> None:
        raise ConnectionError(f"nobody answers at {options['address']}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", unreachable)
    with pytest.raises(
        UserError, match="the Ray cluster at there:1 cannot be reached: ConnectionError: nobody"
    ) as caught:
        finish(suite, tmp_path / "out", choose("ray", "cpu", address="there:1"))
    assert "RAY_AUTH_MODE=token" in (caught.value.remedy or "")
