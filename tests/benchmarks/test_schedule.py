"""The queue keeps simulated workers busy to the end, if shards are small enough for their number."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.dry_run.cost import CellCost
from harness.evaluation.examined import Examined
from harness.evaluation.job import Job
from harness.suite import load_suite
from harness.suite.plan import Plan

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "schedule.py"
SUITE = """
suite: order
dataset: {name: digits, first: 64}
defenses:
  jem: {type: jem, weights: digits-jem}
  dc: {type: dc, weights: digits-ncsnpp, timesteps: 10}
attacks:
  short: {type: pgd, norm: Linf, eps: 0.2, steps: 5}
  long: {type: pgd, norm: Linf, eps: 0.2, steps: 50}
"""


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("schedule_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "suite.yaml").write_text(SUITE)
    return load_suite(tmp_path / "suite.yaml")


def suite_of(bench: ModuleType, plan: Plan, shard: int) -> Any:
    """Four pairings of 64 images, of which the last takes as long as all others. Shards start in that order."""
    evaluations = {"jem": Examined(evaluations=(1, 2)), "dc": Examined(evaluations=(50, 100))}
    costs = []
    for cell in plan.cells:
        name, passes = cell.defense.name, cell.attack.build().cost(10)
        forward, backward = evaluations[name].evaluations
        total = 1e5 * (forward * passes.forwards + backward * passes.backwards)
        costs.append(CellCost(name, cell.attack.name, "", "", 64, passes.forwards, passes.backwards, total))
    return bench.simulated(plan, costs, evaluations, shard)


class Jobs:
    """A queue of jobs in a fixed order."""

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs, self.taken_in = jobs, 0

    def take(self) -> Job | None:
        return self.jobs.pop(0) if self.jobs else None

    def done(self, job: Job, seconds: list[float]) -> None:
        self.taken_in += 1


@pytest.mark.parametrize(
    ("seconds", "workers", "expected"),
    [([4, 3, 2, 1], 2, 5), ([1, 2, 3, 4], 2, 6), ([5, 1, 1, 1], 3, 5), ([2, 2, 2], 1, 6), ([7], 9, 7)],
)
def test_a_simulated_job_begins_when_a_worker_is_free(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, seconds: list[float], workers: int, expected: float
) -> None:
    monkeypatch.setattr(bench, "BUILDING", 0)
    queue = Jobs([Job(f"d/{place}", ((0, 1),)) for place in range(len(seconds))])
    stored: list[Job] = []
    found = bench.simulate(queue, lambda job: [seconds[int(job.pairing[2:])]], stored.append, workers)
    assert (found.seconds, found.busy, found.jobs) == (expected, sum(seconds), len(seconds))
    assert found.idle == pytest.approx(1 - sum(seconds) / (workers * expected))
    assert len(stored) == queue.taken_in == len(seconds)


def test_a_worker_builds_each_defense_once(bench: ModuleType) -> None:
    queue = Jobs([Job(f"{name}/{place}", ((0, 1),)) for place, name in enumerate("abba")])
    assert bench.simulate(queue, lambda job: [1.0], lambda job: None, 1).seconds == 2 * bench.BUILDING + 4


@pytest.mark.parametrize("ahead", [1, 2])
def test_with_the_longest_first_and_small_shards_less_than_a_tenth_of_the_time_is_idle(
    bench: ModuleType, plan: Plan, ahead: int
) -> None:
    found = suite_of(bench, plan, shard=1).on(16, ahead)
    assert found.jobs == 4 * 64 and 0 <= found.idle < 0.1


def test_the_order_and_the_size_of_shards_matter(bench: ModuleType, plan: Plan) -> None:
    best = suite_of(bench, plan, shard=1).on(16)
    as_listed = suite_of(bench, plan, shard=1).on(16, longest_first=False)
    large = suite_of(bench, plan, shard=16).on(16)
    assert best.busy == pytest.approx(as_listed.busy) == pytest.approx(large.busy)
    assert best.idle < 0.05 < as_listed.idle
    assert large.idle > 0.5, "the dearest pairing has a quarter as many shards as there are workers"
