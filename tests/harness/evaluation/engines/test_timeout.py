"""A process that hangs is noticed, ended and replaced; what it hung on becomes errors, and the rest goes on.

No limit of time here is one that a busy machine could exceed: a job is overdue once it has noted down that it hangs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.attack import Cost
from harness.errors import UserError
from harness.evaluation import run, time_limits
from harness.evaluation.engines import processes
from harness.evaluation.engines.choose import choose
from harness.evaluation.engines.processes import Processes
from harness.evaluation.job import Job
from harness.evaluation.time_limits import TimeLimits
from harness.results.record import Record
from helpers.engines import Notes, alone, contents, finish, lives, perilous

HANGS = "plain/hung, images 4 to 5"


class Overdue(TimeLimits):
    """No time for a job whose process hangs, and no limit for others. marks: the folder with the names of processes."""

    marks: Path

    def computation(self, job: Job) -> float | None:
        hanging = self.marks.exists() and any(lives(int(name)) for name in os.listdir(self.marks))
        return 0.0 if job.pairing == "plain/hung" and job.bounds == (4, 6) and hanging else None


@pytest.fixture
def limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Overdue, "marks", tmp_path / "Hung", raising=False)
    monkeypatch.setattr(run, "TimeLimits", Overdue)
    monkeypatch.setattr(processes, "TRIES", 2)


@pytest.mark.long
def test_a_process_that_hangs_in_native_code_costs_its_shard_and_no_more(tmp_path: Path, limits: None) -> None:
    suite, notes = perilous(tmp_path, first=8, attacks=["hung", "sound"]), Notes()
    done = finish(suite, tmp_path / "out", Processes(["cpu", "cpu"], threads=1), notes)
    (failure,) = done.failures
    assert (failure.name, failure.errors, failure.images) == ("plain/hung", 2, 8)
    (why,) = failure.reasons
    assert why.startswith("2 processes were lost over it: not done after 0 s, its limit; it was in perturb (")
    assert f"{tmp_path}/perilous.py:" in why, "the error says where it hung"
    assert [note.partition(";")[0] for note in notes.notes if note.startswith(HANGS)] == [
        f"{HANGS}: not done after 0 s, its limit",
        f"{HANGS}: 2 processes were lost over it: not done after 0 s, its limit",
    ]
    hung = [int(name) for name in os.listdir(tmp_path / "Hung")]
    assert len(hung) == 2 and not any(map(lives, hung))
    found = contents(suite, tmp_path / "out")
    assert found["plain/sound"][0] == alone(suite, "plain/sound", tmp_path / "whole")
    assert [record["verdict"] == "error" for record in found["plain/hung"][0]] == [False] * 4 + [True] * 2 + [False] * 2


@pytest.mark.long
def test_a_timeout_ends_what_always_hangs_and_the_same_command_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_limits, "ALLOWANCE", 0.0)
    monkeypatch.setattr(processes, "TRIES", 1)
    suite = perilous(tmp_path, first=6, attacks=["hung"])

    class Hanging(TimeLimits):
        """The real limit of the shard that hangs, which is over however fast the machine is."""

        def computation(self, job: Job) -> float | None:
            return super().computation(job) if job.bounds == (4, 6) else None

    monkeypatch.setattr(run, "TimeLimits", lambda context, timeout: Hanging(context, 0.1))
    for shards in (3, 1):
        done = finish(suite, tmp_path / "out", Processes(["cpu"], threads=1))
        assert done.computed == shards
        assert [(failure.errors, failure.images) for failure in done.failures] == [(2, 6)]


@dataclass
class Pairing:
    """A pairing whose attack needs ten passes at most."""

    name: str
    records: Sequence[Record] = ()

    @property
    def cell(self) -> SimpleNamespace:
        return SimpleNamespace(defense=SimpleNamespace(name="d"))

    @property
    def attack(self) -> SimpleNamespace:
        return SimpleNamespace(cost=lambda classes: Cost(forwards=10, backwards=0))


def limits_of(seconds: float | None) -> TimeLimits:
    """Of a run with ten images in shards of four."""
    context = SimpleNamespace(
        cell_runs=[Pairing("d/a"), Pairing("d/b")],
        images=range(10),
        protocol=SimpleNamespace(shard=4, votes=1),
        dataset=SimpleNamespace(num_classes=10),
    )
    return TimeLimits(context, seconds)  # type: ignore[arg-type]


def test_a_timeout_holds_for_the_images_of_a_job_together() -> None:
    job = Job("d/a", ((4, 6), (6, 7)))
    assert limits_of(2.0).computation(job) == time_limits.ALLOWANCE + 6
    assert limits_of(2.0).examination(["d/a", "d/b"]) == time_limits.ALLOWANCE + 16
    assert limits_of(math.inf).computation(job) is None and limits_of(math.inf).examination(["d/a"]) is None
    assert limits_of(None).examination(["d/a"]) is None


def test_a_run_with_a_timeout_has_a_process_that_can_be_ended() -> None:
    engine = choose("local", "cpu", timeout=60)
    assert isinstance(engine, Processes) and engine.describe()["workers"] == ["cpu"]
    assert choose("local", "cpu", timeout=math.inf) is None
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(UserError, match="an image cannot have"):
            choose("local", "cpu", timeout=wrong)


def test_without_a_timeout_an_image_may_take_twenty_times_what_it_can_be_expected_to_take_at_most() -> None:
    job, limits = Job("d/a", ((4, 6), (6, 7))), limits_of(None)
    assert limits.computation(job) is None, "nothing is known before an image of the pairing is done"
    fell_early = made(0, forwards=2, backwards=0, seconds=1.0)  # with a vote on each side: 4 evaluations in a second
    limits.add("d/a", [fell_early, fell_early, made(1, verdict="error", error="failed", seconds=1000.0)])
    assert limits.computation(job) == time_limits.ALLOWANCE + 3 * 20 * (10 + 2) / 4
    assert limits.computation(Job("d/b", ((0, 4),))) is None
    limits.add("d/b", [made(0, forwards=100, backwards=0, seconds=5.0)])  # more passes than the attack declares
    assert limits.computation(Job("d/b", ((0, 4),))) == time_limits.ALLOWANCE + 4 * 20 * 5


def made(index: int, **facts: Any) -> Record:
    values: dict[str, Any] = {"verdict": "fooled", "flow": None, "violation": 0.0, "seed": 7, **facts}
    values |= dict.fromkeys(("linf", "l2", "l1"), 0.5) | {"clean_margins": [0.5], "adv_margins": [0.25]}
    return Record(index, 3, clean_votes=[1], adv_votes=[1], **{"forwards": 2, "backwards": 0, **values})
