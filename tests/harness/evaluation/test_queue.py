"""Shards are handed out once each: in the order of the suite, or those first that are expected to take longest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attacks.pgd import PGD
from harness.callback import SILENT
from harness.evaluation.context import RunContext
from harness.evaluation.durations import Durations
from harness.evaluation.examined import Examined
from harness.evaluation.pending import load_images, pending_work
from harness.evaluation.queue import Queue
from harness.evaluation.returned import Unlike, refuse_unlike
from harness.evaluation.shard import Shard, failed_shard
from harness.results.store import ShardRange, Store
from harness.suite import load_suite

SUITE = """
suite: order
dataset: {name: digits, first: 8}
protocol: {shard: 4}
defenses:
  small: {type: undefended, weights: digits-cnn}
  large: {type: at, weights: digits-at-linf}
attacks:
  carried: {type: transfer, norm: Linf, eps: 0.2, from: large, attack: short}
  short: {type: pgd, norm: Linf, eps: 0.2, steps: 3}
  long: {type: pgd, norm: Linf, eps: 0.2, steps: 30}
pairings:
  - {defense: small, attack: [carried, short, long]}
  - {defense: large, attack: short}
"""

EXAMINED = {"small": Examined(evaluations=(1, 1)), "large": Examined(evaluations=(100, 100))}


JOINED = {name: replace(found, together=8) for name, found in EXAMINED.items()}


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    (tmp_path / "suite.yaml").write_text(SUITE)
    plan = load_suite(tmp_path / "suite.yaml")
    dataset, images = load_images(plan)
    cell_runs = pending_work(plan, Store(tmp_path / "out"), images, print)
    return RunContext(plan, cell_runs, dataset, images, torch.device("cpu"), SILENT)


def shard_of(context: RunContext, pairing: str, bounds: ShardRange) -> Shard:
    """A shard of errors, which is stored."""
    run = next(run for run in context.cell_runs if run.name == pairing)
    shard = failed_shard(context.images.take(slice(*bounds)), run.seeds, "planted")
    run.stored.write(*bounds, *shard)
    run.shards[bounds] = shard[0]
    return shard


def drained(queue: Queue, context: RunContext) -> list[str]:
    """The pairings of all jobs, each done before the next is taken."""
    order = []
    while job := queue.take():
        order.append(job.pairing)
        shard_of(context, job.pairing, job.bounds)
    return order


def test_one_process_keeps_the_order_of_the_suite(context: RunContext) -> None:
    queue = Queue(context, context.cell_runs, EXAMINED, longest_first=False)
    expected = ["small/short", "small/long", "large/short", "small/carried"]
    assert drained(queue, context) == [*expected, *expected], "one of each first"


def test_the_longest_shards_come_first_as_their_parts_declare(context: RunContext) -> None:
    queue = Queue(context, context.cell_runs, EXAMINED, longest_first=True)
    expected = ["large/short", "small/long", "small/short", "small/carried"]
    assert drained(queue, context) == [*expected, *expected], "one of each first"


def test_a_measurement_outweighs_what_was_declared(context: RunContext) -> None:
    queue = Queue(context, context.cell_runs, EXAMINED, longest_first=True)
    first = queue.take()
    assert first and first.pairing == "large/short"
    queue.done(first.pairing, [0.001] * 4)
    queue.done("small/short", [5.0] * 4)
    second = queue.take()
    assert second and second.pairing == "small/long", "ten times as many steps as what took longest"


def test_durations_rest_on_the_nearest_measurement(context: RunContext) -> None:
    durations = Durations(context, EXAMINED)
    durations.add("small/short", [2.0, 4.0, 0.0])
    assert durations.per_image("small/short") == 3.0
    declared = {run.name: run.attack.cost(10) for run in context.cell_runs}
    passes = {name: cost.forwards + 2 + cost.backwards for name, cost in declared.items()}
    assert durations.per_image("small/long") == pytest.approx(3 * passes["small/long"] / passes["small/short"])
    assert durations.per_image("large/short") == pytest.approx(3 * 100)
    durations.add("large/short", [7.0])
    assert durations.per_image("small/long") == pytest.approx(3 * passes["small/long"] / passes["small/short"])


def test_an_attack_on_the_images_of_another_waits_for_those(context: RunContext) -> None:
    only = [run for run in context.cell_runs if run.name in ("small/carried", "large/short")]
    queue = Queue(replace(context, cell_runs=only), only, EXAMINED, longest_first=False)
    first, second = queue.take(), queue.take()
    assert first and second and (first.pairing, second.pairing) == ("large/short", "large/short")
    assert queue.take() is None
    shard_of(context, second.pairing, second.bounds)
    third = queue.take()
    assert third and (third.pairing, third.bounds) == ("small/carried", second.bounds)
    assert third.source_images is not None and len(third.missing_sources) == 4
    assert queue.take() is None
    shard_of(context, first.pairing, first.bounds)
    fourth = queue.take()
    assert fourth and fourth.bounds == first.bounds and queue.take() is None


def all_jobs(queue: Queue, context: RunContext) -> dict[str, list[tuple[Any, Any]]]:
    """By pairing, the shards of each job, and those of them that are wanted."""
    jobs: dict[str, list[tuple[Any, Any]]] = {}
    while job := queue.take():
        jobs.setdefault(job.pairing, []).append((job.shards, job.wanted))
        for bounds in job.wanted:
            shard_of(context, job.pairing, bounds)
    return jobs


BOTH = ((0, 4), (4, 8))


def test_shards_of_a_cheap_defense_come_together(context: RunContext) -> None:
    jobs = all_jobs(Queue(context, context.cell_runs, JOINED, longest_first=False), context)
    assert jobs == {run.name: [(BOTH, BOTH)] for run in context.cell_runs}


def test_an_attack_that_depends_on_the_batch_gets_a_shard_at_a_time(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(PGD, "independent")
    jobs = all_jobs(Queue(context, context.cell_runs, JOINED, longest_first=True), context)
    assert jobs["small/long"] == [(((0, 4),), ((0, 4),)), (((4, 8),), ((4, 8),))]
    assert jobs["small/carried"] == [(BOTH, BOTH)], (
        "which waits for both shards of the attack that it takes images from"
    )


@pytest.mark.parametrize("failed", [False, True])
def test_a_batch_that_is_half_done_is_attacked_as_a_whole_unless_the_other_half_failed(
    context: RunContext, failed: bool
) -> None:
    (run,) = [run for run in context.cell_runs if run.name == "small/short"]
    shard_of(context, run.name, (0, 4))
    run = replace(run, again=frozenset({(4, 8)} if failed else ()))
    jobs = all_jobs(Queue(replace(context, cell_runs=[run]), [run], JOINED, longest_first=False), context)
    assert jobs == {run.name: [(((4, 8),) if failed else BOTH, ((4, 8),))]}


def test_a_job_that_is_put_back_comes_again_shard_by_shard(context: RunContext) -> None:
    queue = Queue(context, context.cell_runs, JOINED, longest_first=True)
    first = queue.take()
    assert first and first.shards == BOTH
    queue.put_back(first)
    assert all_jobs(queue, context)[first.pairing] == [(((0, 4),), ((0, 4),)), (((4, 8),), ((4, 8),))]


def test_a_pairing_that_is_given_up_is_handed_out_no_more(context: RunContext) -> None:
    queue = Queue(context, context.cell_runs, EXAMINED, longest_first=False)
    first = queue.take()
    assert first and queue.give_up(first.pairing) == [(4, 8)]
    assert first.pairing not in drained(queue, context)


def test_clean_predictions_come_along_from_any_attack_on_the_same_defense(context: RunContext) -> None:
    queue = Queue(context, context.cell_runs, EXAMINED, longest_first=False)
    first = queue.take()
    assert first and first.pairing == "small/short" and not first.clean
    records = [
        replace(record, clean_votes=[3], clean_margins=[0.5], error=None)
        for record in shard_of(context, first.pairing, first.bounds)[0]
    ]
    context.cell_runs[0].shards[first.bounds] = records
    jobs = []
    while job := queue.take():
        jobs.append(job)
        shard_of(context, job.pairing, job.bounds)
    known = [job for job in jobs if job.clean]
    assert {(job.pairing, job.bounds) for job in known} == {("small/long", (0, 4)), ("small/carried", (0, 4))}
    assert all(job.clean[0, 4].votes.tolist() == [[3] * 4] for job in known)
    assert all(job.clean[0, 4].margins.tolist() == [[0.5] * 4] for job in known)


@pytest.mark.parametrize("fault", ["index", "seed", "verdict", "linf", "shape"])
def test_a_shard_that_is_not_the_one_asked_for_is_not_stored(context: RunContext, fault: str) -> None:
    run, bounds = context.cell_runs[0], (0, 4)
    images = context.images.take(slice(0, 4))
    records, tensors = failed_shard(images, run.seeds, "planted")
    refuse_unlike(run, bounds, images, (records, tensors))
    changes = {"index": {"index": 7}, "seed": {"seed": 1}, "verdict": {"verdict": "robust"}, "linf": {"linf": 0.1}}
    spoiled = [replace(record, **changes.get(fault, {})) for record in records]
    tensors = {"images": tensors["images"][:3]} if fault == "shape" else tensors
    with pytest.raises(Unlike):
        refuse_unlike(run, bounds, images, (spoiled, tensors))
