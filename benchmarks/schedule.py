"""A simulated schedule of the paper's tables on 8, 64 and 512 GPUs: how long it takes, and how long GPUs have no work.

    python benchmarks/schedule.py                    in a minute
    python benchmarks/schedule.py --shard 32 4 1     with shards of these sizes

Shards have the size that the suite says, and if more than a tenth of the time is idle then, also the largest that makes
it less, halved from there.

The jobs come from the queue of the harness itself, which learns the cost of each pairing from the shards that are done,
as in a run; workers and clock are simulated. An image costs what its attack and its defense declare, over the network
evaluations per second that `benchmarks/RESULTS.md` has of the defense. That is an upper bound, which half of the images
take; the others fall, and take a share of it between 0.01 and 1 whose logarithm is uniform. A worker takes a minute to
build a defense when it meets it first, and that minute counts as idle. What no schedule beats is all work divided by
the GPUs, or the longest image.

Hours are those of GPUs of which each is 300 times as fast as the two CPU cores on which those speeds were measured; the
idle share hardly depends on that number.
"""

from __future__ import annotations

import argparse
import heapq
import math
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from harness.callback import SILENT
from harness.datasets.batch import Images
from harness.datasets.dataset import Dataset
from harness.dry_run import placeholders
from harness.dry_run.cost import CellCost, estimate
from harness.dry_run.meta_checkpoints import all_on_meta
from harness.evaluation.context import RunContext
from harness.evaluation.examined import Examined
from harness.evaluation.job import Job
from harness.evaluation.pending import CellRun
from harness.evaluation.queue import Queue
from harness.evaluation.seeds import Seeds
from harness.results.store import CellStore, shard_ranges
from harness.suite import load_suite
from harness.suite.build import build_defense
from harness.suite.cell_key import Identity
from harness.suite.plan import Plan

SUITES = Path(__file__).parents[1] / "suites"
TABLES = ("table1_sota", "table2_unseen", "table3_adaptive")
SPEED = {
    "robustbench": 3.05,
    "pat": 7.7,
    "diffpure": 4.8,
    "sbgc": 9.5,
    "hybvit": 102,
    "jem": 28,
    "dc": 9.6,
    "rdc": 9.45,
}
"""Network evaluations per second on two CPU cores, by the type of the defense."""

FASTER = 300
"""Times that a GPU is as fast as two CPU cores."""

BUILDING = 60.0
"""Seconds for building a defense in a worker."""

MOST_IDLE = 0.1
"""The share of the GPUs' time without work beyond which smaller shards are tried."""

WITHSTAND, LEAST = 0.5, 0.01
"""The share of images that take the whole search, and the smallest share of it that another image takes."""


@dataclass(frozen=True)
class Schedule:
    """What came of a simulation.

    Args:
        seconds: from the beginning until the last job is done.
        busy: the seconds that the workers computed, all together.
        workers: their number.
        jobs: how many they computed.
    """

    seconds: float
    busy: float
    workers: int
    jobs: int

    @property
    def idle(self) -> float:
        """The share of the workers' time in which they computed nothing."""
        return 1 - self.busy / (self.seconds * self.workers)


def simulate(
    queue: Queue, seconds: Callable[[Job], list[float]], done: Callable[[Job], None], workers: int, ahead: int = 1
) -> Schedule:
    """Has simulated workers compute the jobs of a queue, each on whichever worker is free first.

    Args:
        queue: of the run.
        seconds: how long each image of a job takes.
        done: stores a job.
        workers: their number.
        ahead: jobs that are taken for each worker before one is free, the one in progress included.
    """
    free, taken = [(0.0, worker) for worker in range(workers)], deque[Job]()
    running: list[tuple[float, int, int, Job]] = []
    built: list[set[str]] = [set() for _ in range(workers)]
    now = busy = 0.0
    jobs = 0
    while True:
        while len(taken) + len(running) < ahead * workers and (job := queue.take()):
            taken.append(job)
        while taken and free:
            job, (_, worker) = taken.popleft(), heapq.heappop(free)
            defense = job.pairing.partition("/")[0]
            spent = sum(seconds(job))
            building = 0.0 if defense in built[worker] else BUILDING
            built[worker].add(defense)
            busy, jobs = busy + spent, jobs + 1
            heapq.heappush(running, (now + building + spent, jobs, worker, job))
        if not running:
            return Schedule(now, busy, workers, jobs)
        now, _, worker, job = heapq.heappop(running)
        done(job)
        queue.done(job.pairing, seconds(job))
        heapq.heappush(free, (now, worker))


@dataclass(frozen=True)
class Simulated:
    """A suite that is not run: its pairings, and how long each image of each takes, (images,)."""

    context: RunContext
    examined: dict[str, Examined]
    seconds: dict[str, np.ndarray]

    def on(self, workers: int, ahead: int = 1, *, longest_first: bool = True) -> Schedule:
        """Its schedule on so many workers. It can be made once."""
        runs = {run.name: run for run in self.context.cell_runs}

        def done(job: Job) -> None:
            for bounds in job.wanted:
                runs[job.pairing].shards[bounds] = []

        def seconds(job: Job) -> list[float]:
            return self.seconds[job.pairing][slice(*job.bounds)].tolist()

        queue = Queue(self.context, self.context.cell_runs, self.examined, longest_first=longest_first)
        return simulate(queue, seconds, done, workers, ahead)

    @property
    def longest(self) -> float:
        """The seconds of the image that takes longest."""
        return max(float(values.max()) for values in self.seconds.values())


def simulated(plan: Plan, costs: Sequence[CellCost], examined: dict[str, Examined], shard: int) -> Simulated:
    """A suite with shards of a size, and a draw of how long its images take. costs: of its pairings, in order."""
    images = costs[0].images
    generator, nothing = np.random.default_rng(0), Identity("", {})
    runs, seconds = [], {}
    for cell, cost in zip(plan.cells, costs, strict=True):
        stored, seeds = CellStore(Path(tempfile.gettempdir()) / "unused" / f"{len(runs)}", ""), Seeds(0, "", "")
        bounds = dict.fromkeys(shard_ranges(images, shard))
        run = CellRun(cell, cell.attack.build(), (nothing, nothing), seeds, stored, bounds)
        fallen = generator.random(images) >= WITHSTAND
        share = np.where(fallen, np.exp(generator.uniform(math.log(LEAST), 0, images)), 1.0)
        runs.append(run)
        seconds[run.name] = share * cost.per_image / (SPEED[cell.defense.type] * FASTER)
    none = Images(torch.arange(images), torch.zeros(images, 3, 1, 1), torch.zeros(images, dtype=torch.int64))
    dataset = Dataset("none", "test", none.x, none.y, [], 10)
    return Simulated(RunContext(plan, runs, dataset, none, torch.device("cpu"), SILENT), examined, seconds)


def sizes(largest: int) -> list[int]:
    """Sizes of shards to try: the largest, its half, and so on.

    Example:
        >>> sizes(20)
        [20, 10, 5, 2, 1]
    """
    return [largest >> times for times in range(largest.bit_length())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", nargs="+", default=TABLES, help="names of files in suites/")
    parser.add_argument("--gpus", nargs="+", type=int, default=[8, 64, 512])
    parser.add_argument("--shard", nargs="+", type=int, help="images per shard; see above for the default")
    parser.add_argument("--ahead", type=int, default=2, help="jobs taken per worker, as the engine ray does")
    options = parser.parse_args()
    print("| suite | GPUs | images per shard | jobs | hours | no schedule beats | idle, % |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in options.suites:
        with placeholders.placeholder_cache():
            plan = all_on_meta(load_suite(SUITES / f"{name}.yaml"))
            costs, components = estimate(plan), {cell.defense.name: cell.defense for cell in plan.cells}
            examined = {key: Examined.of(part, build_defense(part), "", [], {}) for key, part in components.items()}
        for gpus in options.gpus:
            tried = options.shard or sizes(plan.suite.protocol.shard)
            for shard in tried:
                suite = simulated(plan, costs, examined, shard)
                found = suite.on(gpus, options.ahead)
                enough = found.idle <= MOST_IDLE
                if enough or options.shard or shard in (tried[0], tried[-1]):
                    least = max(found.busy / gpus, suite.longest) / 3600
                    times = f"{found.seconds / 3600:,.1f} | {least:,.1f} | {100 * found.idle:.1f}"
                    print(f"| `{name}` | {gpus} | {shard} | {found.jobs:,} | {times} |", flush=True)
                if enough and not options.shard:
                    break


if __name__ == "__main__":
    main()
