"""The time left that a run shows turns out right: simulated runs, with a clock that is moved by hand."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from harness.callback import SILENT
from harness.cli.run_progress import words
from harness.evaluation.context import RunContext
from harness.evaluation.durations import Durations
from harness.evaluation.examined import Examined
from harness.evaluation.job import Job
from harness.evaluation.outlook import Outlook
from harness.evaluation.pending import load_images, pending_work
from harness.evaluation.progress import Progress
from harness.evaluation.queue import Queue
from harness.randomness import derive, row_seeds, uniform
from harness.results.store import Store
from harness.suite import load_suite

SUITE = """
suite: outlook
dataset: {name: digits, split: train, first: 1280}
protocol: {shard: 32}
defenses:
  weak: {type: undefended, weights: digits-cnn}
  strong: {type: at, weights: digits-at-linf}
  slow: {type: at, weights: digits-at-l2}
attacks:
  short: {type: pgd, norm: Linf, eps: 0.2, steps: 20}
  long: {type: pgd, norm: L2, eps: 1, steps: 100, restarts: 5}
"""

EXAMINED = {"weak": Examined(), "strong": Examined(), "slow": Examined(evaluations=(20, 24))}

SURVIVE = {"weak": 0.0, "strong": 0.6, "slow": 0.3}
"""The share of images that no attack misclassifies; the others fall after a few percent of what the attack declares."""

SPEED = {"weak": 1e-3, "strong": 2e-3, "slow": 5e-4}
"""Seconds for a network evaluation of an image."""

TICK = 5.0


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    folder = tmp_path_factory.mktemp("outlook")
    (folder / "suite.yaml").write_text(SUITE)
    plan = load_suite(folder / "suite.yaml")
    dataset, images = load_images(plan)
    cell_runs = pending_work(plan, Store(folder / "out"), images, print)
    return RunContext(plan, cell_runs, dataset, images, torch.device("cpu"), SILENT)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def true_seconds(context: RunContext) -> dict[str, list[float]]:
    """What each image of each pairing takes."""
    found = {}
    for run in context.cell_runs:
        defense, index = run.cell.defense.name, torch.arange(len(context.images))
        survives, early = uniform(row_seeds(derive(run.name), index), (2,)).unbind(1)
        share = torch.where(survives < SURVIVE[defense], 1.0, 0.01 + 0.05 * early)
        cost, (forward, backward) = run.attack.cost(10), EXAMINED[defense].evaluations
        evaluations = forward * cost.forwards + backward * cost.backwards
        found[run.name] = (SPEED[defense] * evaluations * share).tolist()
    return found


def simulated(context: RunContext, workers: int, *, tells: bool) -> Iterator[tuple[float, float | None]]:
    """At every tick and event, the time and what is said to be left; at the end, the time alone.

    Args:
        tells: whether jobs at work say how far they are.
    """
    runs = [replace(run, shards=dict.fromkeys(run.shards)) for run in context.cell_runs]
    context = replace(context, cell_runs=runs)
    clock, seconds = Clock(), true_seconds(context)
    queue = Queue(context, runs, EXAMINED, longest_first=workers > 1)
    outlook = Outlook(runs, queue.durations, workers, clock)
    by_name = {run.name: run for run in runs}
    at_work: list[tuple[float, int, float, Job]] = []
    taken = 0
    while True:
        while len(at_work) < workers and (job := queue.take()):
            outlook.took(job)
            taken += 1
            heapq.heappush(at_work, (clock.now + sum(seconds[job.pairing][slice(*job.bounds)]), taken, clock.now, job))
        if not at_work:
            yield clock.now, None
            return
        end, _, _, job = at_work[0]
        while clock.now + TICK < end:
            clock.now += TICK
            if tells:
                for stop, _, begin, other in at_work:
                    outlook.progressed(other, Progress(1, (clock.now - begin) / (stop - begin)))
            yield clock.now, outlook.left()
        heapq.heappop(at_work)
        clock.now = end
        mean = sum(seconds[job.pairing][slice(*job.bounds)]) / job.images
        for bounds in job.wanted:
            by_name[job.pairing].shards[bounds] = []
            queue.done(job.pairing, [mean] * (bounds[1] - bounds[0]))
        outlook.over(job)
        yield clock.now, outlook.left()


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("workers", [1, 4])
def test_the_time_left_is_right_within_a_factor_of_one_and_a_half_after_a_twentieth_of_the_run(
    context: RunContext, workers: int, tells: bool
) -> None:
    *said, (end, _) = simulated(context, workers, tells=tells)
    judged = [(left, end - now) for now, left in said if 0.05 * end <= now <= 0.98 * end]
    assert end > 600 and len(judged) > 100
    factors = [max(left or 0, 1e-9) / true for left, true in judged]
    assert min(factors) > 1 / 1.5 and max(factors) < 1.5, (min(factors), max(factors))


def test_by_what_attacks_declare_alone_it_would_be_wrong(context: RunContext) -> None:
    """The same estimate without the order that tries each pairing first: it knows only the first one."""
    durations = Durations(context, EXAMINED)
    seconds = true_seconds(context)
    durations.add("weak/short", seconds["weak/short"][:32])
    true = sum(map(sum, seconds.values()))
    guess = sum(len(context.images) * durations.per_image(run.name) for run in context.cell_runs)
    assert not 1 / 1.5 < guess / true < 1.5


def jobs_of(context: RunContext) -> tuple[Queue, Outlook, Clock]:
    clock = Clock()
    queue = Queue(context, context.cell_runs, EXAMINED, longest_first=False)
    return queue, Outlook(context.cell_runs, queue.durations, 2, clock), clock


def test_before_anything_is_known_no_time_is_said_and_an_attack_at_work_is_a_first_measurement(
    context: RunContext,
) -> None:
    queue, outlook, clock = jobs_of(context)
    job = queue.take()
    assert job is not None
    outlook.took(job)
    clock.now = 30
    assert outlook.left() is None and outlook.unmeasured() == 6
    outlook.progressed(job, Progress(100, 0.25))
    assert outlook.at_work() == [(job, 0.25)]
    assert queue.durations.per_image(job.pairing) == pytest.approx(30 / 0.25 / job.images)
    assert outlook.left() is not None and outlook.speed(job.pairing) is None and outlook.unmeasured() == 6
    queue.done(job.pairing, [10.0, 30.0])
    assert outlook.speed(job.pairing) == pytest.approx(1 / 20) and outlook.unmeasured() == 5


def test_jobs_that_an_engine_has_taken_ahead_begin_when_a_worker_is_free(context: RunContext) -> None:
    queue, outlook, clock = jobs_of(context)
    jobs = [queue.take() for _ in range(3)]
    for job in jobs:
        assert job is not None
        outlook.took(job)
    assert [job for job, _ in outlook.at_work()] == jobs[:2]
    clock.now = 5
    assert jobs[0] is not None
    outlook.over(jobs[0])
    assert [job for job, _ in outlook.at_work()] == jobs[1:]


def test_the_speed_is_that_of_this_session_and_not_of_an_earlier_machine(context: RunContext) -> None:
    durations = Durations(context, EXAMINED)
    durations._earlier["weak/short"] = (10, 1000.0)
    assert durations.per_image("weak/short") == 100 and durations.measured("weak/short") is None
    durations.add("weak/short", [2.0, 4.0])
    assert durations.per_image("weak/short") == durations.measured("weak/short") == 3


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3599, "1 h 00 min"), (36000, "10 h 00 min")]
)
def test_times_are_said_in_hours_and_minutes(seconds: float, said: str) -> None:
    assert words(seconds) == said
