"""The batches in which a job is attacked: all of its shards together, or fewer where that fails."""

from __future__ import annotations

from collections.abc import Callable

import torch

from harness.evaluation.job import Job
from harness.evaluation.shard import Evaluated, Shard, Unanswered
from harness.evaluation.together import Batch, batches
from harness.results.store import ShardRange

Evaluate = Callable[[Batch, int], Evaluated | Unanswered]
"""From shards that are attacked together, and how many images the defense is given at a time, to what came of it."""


class Fitting:
    """Attacks the shards of jobs, each as one batch if it can be.

    Where memory runs out, the batch is halved, down to one shard, and then the images that the defense is given at a
    time are, down to one. What fits is remembered for the pairing, as long as the process lives, and enters no key.
    Where anything else fails, each shard is attacked alone, so that one bad image costs no more than its own shard.

    Args:
        batch_size: the largest number of images that a defense is given at a time.
        note: is given remarks for the user.
    """

    def __init__(self, batch_size: int, note: Callable[[str], None]) -> None:
        self._batch_size, self._note = batch_size, note
        self._fits: dict[str, int] = {}

    def shards(self, job: Job, evaluate: Evaluate) -> dict[ShardRange, Shard]:
        """The shards that a job wants."""
        found: dict[ShardRange, Shard] = {}
        waiting: list[Batch] = [job.shards]
        while waiting:
            batch = waiting.pop(0)
            wanted = [bounds for bounds in batch if bounds in job.wanted]
            smaller = batches(batch, self._fits.get(job.pairing, job.images))
            if not wanted:
                continue
            if len(smaller) > 1:
                waiting = smaller + waiting
            elif len(batch) == 1:
                found[batch[0]] = self._alone(job, batch[0], evaluate)
            elif not (done := evaluate(batch, self._size(job))).failed:
                first = batch[0][0]
                found |= {bounds: done.shard(slice(bounds[0] - first, bounds[1] - first)) for bounds in wanted}
            elif done.out_of_memory:
                waiting.insert(0, batch)
                self._halve(job, batch[-1][1] - batch[0][0])
            else:
                found |= {bounds: self._alone(job, bounds, evaluate) for bounds in wanted}
        return found

    def _alone(self, job: Job, bounds: ShardRange, evaluate: Evaluate) -> Shard:
        while True:
            size = self._size(job)
            done = evaluate((bounds,), size)
            if not done.out_of_memory or size == 1:
                return done.shard(slice(0, bounds[1] - bounds[0]))
            self._halve(job, size)

    def _size(self, job: Job) -> int:
        """How many images the defense is given at a time: more than the attack has, where it is asked several times."""
        return min(self._batch_size, self._fits.get(job.pairing, self._batch_size))

    def _halve(self, job: Job, images: int) -> None:
        self._fits[job.pairing] = images // 2
        self._note(f"{job.pairing}: out of memory with {images} images at a time; going on with {images // 2}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
