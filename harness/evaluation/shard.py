"""The unit of work: a few images of one pairing, attacked, then classified, then recorded."""

from __future__ import annotations

import time
from dataclasses import dataclass

from torch import Tensor

from harness.datasets.batch import Images
from harness.defense import Defense
from harness.evaluation.attack_shard import attack_shard
from harness.evaluation.seeds import Seeds
from harness.evaluation.shard_records import failed_records, shard_records
from harness.evaluation.task import AttackResult, ShardTask, reason
from harness.guard.contamination import Guard
from harness.predict import Predictions, predict_votes
from harness.results.record import Record

Shard = tuple[list[Record], dict[str, Tensor]]
"""A record for each image, and the tensors to keep: "images" (N, C, H, W), and "flow" (N, H, W, 2) of attacks that move
pixels, "parameters" (N, ...) of those that draw their images from such, or "counts" (N, 2, K) and "radii" (N,) of
certificates."""


def predict_clean(
    defense: Defense, images: Images, seeds: Seeds, votes: int, batch_size: int, guard: Guard | None = None
) -> Predictions:
    """The defense's predictions on clean images."""
    with (guard or Guard()).watching("answering", defense):
        return predict_votes(defense, images.x, images.y, seeds.clean(images.index), votes=votes, batch_size=batch_size)


@dataclass(frozen=True)
class Evaluated:
    """The images of a task after their attack.

    Attributes:
        predictions: on the adversarial images; None where there are none, or the defense fails on them.
        seconds: each image's share of the time that it took.
    """

    task: ShardTask
    result: AttackResult
    predictions: Predictions | None
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether the attack, or the defense on its images, failed on all images."""
        return self.result.failure is not None

    @property
    def out_of_memory(self) -> bool:
        """Whether that was for want of memory."""
        return self.result.out_of_memory

    def shard(self, which: slice) -> Shard:
        """The records and the tensors of some of the images, as if they had been evaluated alone."""
        result = self.result.part(which)
        tensors = {"images": result.x_adv, **result.certified}
        if result.parameters is not None:
            tensors[self.task.attack.threat.evidence] = result.parameters
        predictions = None if self.predictions is None else self.predictions.part(which)
        return shard_records(self.task.part(which), result, predictions, self.seconds), tensors


@dataclass(frozen=True)
class Unanswered:
    """Images that no attack is tried on, since the defense does not even answer the clean ones. why: for records."""

    images: Images
    seeds: Seeds
    why: str
    failed: bool = True
    out_of_memory: bool = False

    def shard(self, which: slice) -> Shard:
        """Errors for some of the images."""
        return failed_shard(self.images.take(which), self.seeds, self.why)


def evaluate(task: ShardTask) -> Evaluated:
    """Attacks images, and lets the defense classify what came of it. Nothing that fails raises.

    The seconds of an image are an equal share of those of its batch. What an earlier process has spent on the same
    attack counts too, as far as it is recorded; what is repeated from the journal, or was lost, does not.
    """
    began = time.perf_counter()
    result = attack_shard(task)
    predictions = _predict_adversarial(task, result)
    ahead = task.journal.ahead if task.journal else 0.0
    return Evaluated(task, result, predictions, (time.perf_counter() - began + ahead) / len(task.images))


def failed_shard(images: Images, seeds: Seeds, why: str) -> Shard:
    """A shard of which the defense does not even answer the clean images: each image is an error, and as it was."""
    return failed_records(images, seeds, why), {"images": images.x}


def _predict_adversarial(task: ShardTask, result: AttackResult) -> Predictions | None:
    """What the defense says of the adversarial images, under draws that no attack has seen.

    Returns:
        None if there are no such images, or if the defense fails on them, which the result then says.
    """
    if result.failure:
        return None
    try:
        seeds = task.seeds.verdict(task.images.index)
        with task.guard.watching("answering", task.defense):
            return predict_votes(
                task.defense, result.x_adv, task.images.y, seeds, votes=task.votes, batch_size=task.batch_size
            )
    except Exception as error:  # whatever a defense raises is an outcome of its own, never "robust"
        result.fail(error, f"the defense fails on the attacked images: {reason(error)}")
        return None
