"""The attack on a task's images. Whatever an attack or a defense raises is an outcome of its own, never "robust"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy

import torch
from torch import Tensor

from harness.attack import Adversarial, Attack
from harness.checks.gradient import obstacle
from harness.datasets.batch import Images
from harness.errors import one_line
from harness.evaluation.task import AttackResult, ShardTask, reason
from harness.guard.contamination import Contamination
from harness.process.foreign_code import definition
from harness.randomness import derive, fenced
from harness.target import Target


def attack_shard(task: ShardTask) -> AttackResult:
    """Attacks the images that the defense classifies right, or all if one draw of it proves nothing."""
    x, index = task.images.x, task.images.index
    needed = task.clean.valid & (task.defense.stochastic | (task.clean.votes[0] == task.images.y.cpu()))
    rows = [row for row in needed.nonzero().flatten().tolist() if row not in task.missing_sources]
    nothing = torch.zeros(len(x), device=x.device)
    attacked = torch.zeros_like(needed)
    attacked[rows] = True
    result = AttackResult(x.clone(), nothing, torch.zeros(2, len(x), dtype=torch.int64), needed, attacked)
    if rows:
        _attack_rows(task, torch.tensor(rows).to(index), result)
    result.discard_violations(x)
    return result


def _attack_rows(task: ShardTask, rows: Tensor, result: AttackResult) -> None:
    """Attacks some images, and writes what came of it into the result. rows: (M,) int64, M at least 1."""
    images = task.images.take(rows)
    target = Target(
        task.defense,
        images.x,
        task.seeds.search(images.index),
        gradient=task.attack.gradient,
        eot=task.attack.eot,
        batch_size=task.batch_size,
        source_images=None if task.source_images is None else task.source_images[rows],
        journal=task.journal,
    )
    task.watch(target)
    try:
        adversarial = _perturb(task, target, images)
        moved = adversarial.images.detach().to(images.x)
        result.put(rows, adversarial, task.attack.threat.violation(images.x, moved, adversarial.parameters))
    except Exception as error:
        result.fail(error, _reason(error, task, images.x))
    result.passes[:, rows.cpu()] = torch.stack([target.forwards, target.backwards]).cpu()
    reasons = zip(rows.tolist(), target.met.reasons(), strict=True)
    result.nonfinite = {row: why for row, why in reasons if why}


def _perturb(task: ShardTask, target: Target, images: Images) -> Adversarial:
    seed = derive(task.seeds.suite, task.seeds.defense, task.seeds.attack, int(images.index[0]))
    culprit = "the attack, or the defense under it,"
    with _budget_kept(task.attack), task.guard.watching(culprit, task.defense, others=True), fenced(seed):
        adversarial = Adversarial.of(task.attack.perturb(target, images.x.clone(), images.y.clone()))
    if adversarial.images.shape != images.x.shape:
        raise ValueError(f"the attack returned shape {tuple(adversarial.images.shape)} for {tuple(images.x.shape)}")
    return adversarial


@contextmanager
def _budget_kept(attack: Attack) -> Iterator[None]:
    """An attack's images are held against the budget that it had before it ran."""
    before = deepcopy(attack.threat)
    try:
        yield
        if attack.threat != before:
            raise Contamination(f"the attack changed its own budget from {before} to {attack.threat}")
    finally:
        attack.threat = before


def _reason(error: Exception, task: ShardTask, x: Tensor) -> str:
    """Why an attack failed; where it may have found no gradient, with the part of the defense that has none."""
    missing = None
    if "grad" in str(error) and not isinstance(error, Contamination):
        with suppress(Exception):  # only the remedy is looked for; the failure itself is reported in any case
            missing = obstacle(task.defense, x[:2], task.attack.gradient)
    if missing is None:
        return reason(error)
    return f"{one_line(error, definition(getattr(task.defense, missing.part)))}. {missing.message}"
