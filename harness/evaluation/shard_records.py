"""From what an attack made of a shard, and what the defense says of it, to a record for each image."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.datasets.batch import Images
from harness.evaluation.seeds import Seeds
from harness.evaluation.task import AttackResult, ShardTask
from harness.predict import Predictions
from harness.quantity import Quantity
from harness.results.record import Record, verdict_of
from harness.threat import L0, L1, L2, TOLERANCE, Flow, Linf

CHANGED = "answers on the same image differ, though the defense says that it is deterministic"
"""Record flag of an image that the attack left as it was, and the defense did not answer as before."""

SAME = 0.05
"""Share of the largest margin by which answers may differ; rounding, in another batch say, moves them by far less."""


def shard_records(
    task: ShardTask, result: AttackResult, predictions: Predictions | None, seconds: float
) -> list[Record]:
    """A record for each image of a shard.

    Args:
        predictions: on the adversarial images; None where there are none, or the defense fails on them.
        seconds: each image's share of the time that the shard took.
    """
    x, moves_pixels = task.images.x, task.attack.threat.evidence == Flow.evidence
    flow = result.parameters if moves_pixels else None
    linf, l2, l1 = (norm(Quantity(0)).size(x, result.x_adv).tolist() for norm in (Linf, L2, L1))
    flows = [None] * len(x) if flow is None else flow.abs().flatten(1).amax(1).tolist()
    counts = L0(Quantity(0)).size(x, result.x_adv).tolist()
    attack_seeds = task.seeds.search(task.images.index).tolist()
    changed = _changed(task, result, predictions).tolist()
    records = []
    for row, (index, label) in enumerate(zip(task.images.index.tolist(), task.images.y.tolist(), strict=True)):
        counted = _counted(task, result, predictions, row)
        votes = [] if counted is None else counted.votes[:, row].tolist()
        error = _error(task, result, predictions, row)
        violation = float(result.violation[row])
        records.append(
            Record(
                index=index,
                label=label,
                verdict=verdict_of(votes, label, error),
                clean_votes=task.clean.votes[:, row].tolist(),
                adv_votes=votes,
                clean_margins=task.clean.margins[:, row].tolist(),
                adv_margins=[] if counted is None else counted.margins[:, row].tolist(),
                linf=linf[row],
                l2=l2[row],
                l1=l1[row],
                flow=flows[row],
                violation=violation,
                forwards=int(result.passes[0, row]),
                backwards=int(result.passes[1, row]),
                seconds=seconds,
                seed=attack_seeds[row],
                flags=[
                    *result.flags,
                    *result.remarks.get(row, ()),
                    *(["violation"] if violation > TOLERANCE else []),
                    *([CHANGED] if changed[row] else []),
                ],
                error=error,
                l0=counts[row] if task.attack.threat.name == L0.name else None,
            )
        )
    return records


def failed_records(images: Images, seeds: Seeds, why: str) -> list[Record]:
    """The records of a shard whose clean images the defense does not even answer: every image is an error."""
    return [
        Record(
            index=index,
            label=label,
            verdict=verdict_of([], label, why),
            clean_votes=[],
            adv_votes=[],
            clean_margins=[],
            adv_margins=[],
            linf=0.0,
            l2=0.0,
            l1=0.0,
            flow=None,
            violation=0.0,
            forwards=0,
            backwards=0,
            seconds=0.0,
            seed=seed,
            error=why,
        )
        for index, label, seed in zip(
            images.index.tolist(), images.y.tolist(), seeds.search(images.index).tolist(), strict=True
        )
    ]


def _counted(task: ShardTask, result: AttackResult, predictions: Predictions | None, row: int) -> Predictions | None:
    """The predictions that count for an adversarial image, if it has any; it may be the clean one."""
    if not result.needed[row]:
        return predictions or task.clean
    return None if row in task.missing_sources else predictions


def _changed(task: ShardTask, result: AttackResult, predictions: Predictions | None) -> Tensor:
    """Which images got two answers, as the clean and as the adversarial image, though these are one: (N,) bool.

    A defense that says it is deterministic is random then, or looks at the other images of the batch, or at its past.
    """
    if predictions is None or task.defense.stochastic:
        return torch.zeros(len(task.images), dtype=torch.bool)
    same = (result.x_adv == task.images.x).flatten(1).all(1).cpu()
    before, after = task.clean.margins[0], predictions.margins[0]
    return same & ((after - before).abs() > SAME * before.abs().max())


def _error(task: ShardTask, result: AttackResult, predictions: Predictions | None, row: int) -> str | None:
    """Why this image has no verdict, or None. A crash of the attack counts for every image that it was to attack."""
    if not bool(task.clean.valid[row]):
        return "the defense gave NaN or infinite logits on the clean image"
    if result.needed[row] and (failure := task.missing_sources.get(row) or result.failure):
        return failure
    if row in result.nonfinite:
        return result.nonfinite[row]
    if predictions is not None and not bool(predictions.valid[row]):
        return "the defense gave NaN or infinite logits on the adversarial image"
    if not torch.isfinite(result.violation[row]):
        return "the attack returned an image that is not finite, or that is not what its parameters make"
    return None
