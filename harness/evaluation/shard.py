"""The unit of work: a few images of one pairing, attacked, then judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.attack import Adversarial, Attack
from harness.checks.gradient import obstacle
from harness.datasets.batch import Images
from harness.defense import Defense
from harness.errors import one_line
from harness.evaluation.seeds import Seeds
from harness.guard.contamination import Contamination, Guard
from harness.predict import Predictions, predict_votes
from harness.process.foreign_code import definition
from harness.quantity import Quantity
from harness.randomness import derive, fenced
from harness.results.record import Record, verdict_of
from harness.target import Target
from harness.threat import L1, L2, TOLERANCE, Linf

CHANGED = "answers on the same image differ, though the defense says that it is deterministic"
"""Record flag of an image that the attack left as it was, and the defense did not answer as before."""

SAME = 0.05
"""Share of the largest margin by which answers may differ; rounding, in another batch say, moves them by far less."""


@dataclass(frozen=True)
class Job:
    """A shard and all that deciding it takes.

    Args:
        clean: the defense's answers on the clean images.
        watch: told the attack's view of the defense before the attack starts, for progress displays.
        source_images: the adversarial images of the attack's `source`, (N, C, H, W), where it has one.
        barred: why the attack has nothing to start from, by row, for those of which the source is an error.
        guard: told when the attack, or the defense, is at work.
    """

    defense: Defense
    attack: Attack
    images: Images
    seeds: Seeds
    clean: Predictions
    votes: int
    batch_size: int
    watch: Callable[[Target], None]
    source_images: Tensor | None = None
    barred: dict[int, str] = field(default_factory=dict)
    guard: Guard = field(default_factory=Guard)


@dataclass
class Outcome:
    """What came of the attack, for every image of the shard, attacked or not. flow: (N, H, W, 2) or None.

    due: (N,) bool, the images that needed an attack; failure: why it, or the defense under it, failed on all of them;
    met: by row, where the attack of an image met a NaN or an infinity.
    """

    x_adv: Tensor
    violation: Tensor
    passes: Tensor
    due: Tensor
    flow: Tensor | None = None
    flags: tuple[str, ...] = ()
    failure: str | None = None
    met: dict[int, str] = field(default_factory=dict)


def answer(
    defense: Defense, images: Images, seeds: Seeds, votes: int, batch_size: int, guard: Guard | None = None
) -> Predictions:
    """The defense's answers on clean images."""
    with (guard or Guard()).watching("answering", defense):
        return predict_votes(defense, images.x, images.y, seeds.clean(images.index), votes=votes, batch_size=batch_size)


def work(job: Job) -> tuple[list[Record], dict[str, Tensor]]:
    """A record per image, and the tensors to keep: "images" and, where the attack moves pixels, "flow"."""
    began = time.perf_counter()
    outcome = _attack(job)
    _drop_violations(outcome, job.images.x)
    answers = _judge(job, outcome)
    seconds = (time.perf_counter() - began) / len(job.images)
    tensors = {"images": outcome.x_adv}
    if outcome.flow is not None:
        tensors["flow"] = outcome.flow
    return _records(job, outcome, answers, seconds), tensors


def unanswered(images: Images, seeds: Seeds, why: str) -> tuple[list[Record], dict[str, Tensor]]:
    """The same for a shard whose clean images the defense does not even answer: every image is an error."""
    rows = zip(images.index.tolist(), images.y.tolist(), seeds.search(images.index).tolist(), strict=True)
    return [_unanswered(index, label, seed, why) for index, label, seed in rows], {"images": images.x}


def _unanswered(index: int, label: int, seed: int, why: str) -> Record:
    return Record(
        index=index,
        label=label,
        verdict="error",
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


def _attack(job: Job) -> Outcome:
    """Attacks the images worth it: those that the defense gets right, or all if one draw of it proves nothing."""
    x, index = job.images.x, job.images.index
    worth = job.clean.valid & (job.defense.stochastic | (job.clean.votes[0] == job.images.y.cpu()))
    rows = torch.tensor([row for row in worth.nonzero().flatten().tolist() if row not in job.barred]).to(index)
    nothing = torch.zeros(len(x), device=x.device)
    outcome = Outcome(x.clone(), nothing, torch.zeros(2, len(x), dtype=torch.int64), worth)
    if not len(rows):
        return outcome
    target = Target(
        job.defense,
        x[rows],
        job.seeds.search(index[rows]),
        gradient=job.attack.gradient,
        eot=job.attack.eot,
        batch_size=job.batch_size,
        source_images=None if job.source_images is None else job.source_images[rows],
    )
    job.watch(target)
    try:
        _fill(outcome, rows, _perturb(job, target, job.images.take(rows)), job)
    except Exception as error:  # whatever an attack or a defense raises is an outcome of its own, never "robust"
        outcome.failure = _reason(error, job, x[rows])
    outcome.passes[:, rows.cpu()] = torch.stack([target.forwards, target.backwards]).cpu()
    outcome.met = {row: reason for row, reason in zip(rows.tolist(), target.met.reasons(), strict=True) if reason}
    return outcome


def _perturb(job: Job, target: Target, images: Images) -> Adversarial:
    seed = derive(job.seeds.suite, job.seeds.defense, job.seeds.attack, int(job.images.index[0]))
    culprit = "the attack, or the defense under it,"
    with _budget_kept(job.attack), job.guard.watching(culprit, job.defense, others=True), fenced(seed):
        found = Adversarial.of(job.attack.perturb(target, images.x.clone(), images.y.clone()))
    if found.images.shape != images.x.shape:
        raise ValueError(f"the attack returned shape {tuple(found.images.shape)} for {tuple(images.x.shape)}")
    return found


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


def _fill(outcome: Outcome, rows: Tensor, found: Adversarial, job: Job) -> None:
    images = found.images.detach().to(outcome.x_adv)
    outcome.x_adv[rows] = images
    outcome.violation[rows] = job.attack.threat.violation(job.images.x[rows], images, found.flow)
    outcome.flags = found.flags
    if found.flow is not None:
        outcome.flow = found.flow.new_zeros(len(outcome.x_adv), *found.flow.shape[1:])
        outcome.flow[rows] = found.flow.detach()


def _drop_violations(outcome: Outcome, x: Tensor) -> None:
    """An image outside its budget is no result: the clean image takes its place."""
    broken = outcome.violation > TOLERANCE
    outcome.x_adv[broken] = x[broken]
    if outcome.flow is not None:
        outcome.flow[broken] = 0


def reason(error: Exception) -> str:
    """Why something failed, in one line, and what to do where it is memory that lacks."""
    if isinstance(error, Contamination):
        return error.message
    lacking = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
    return one_line(error) + (". Try a smaller `batch_size` in `protocol`" if lacking else "")


def _reason(error: Exception, job: Job, x: Tensor) -> str:
    """The same for an attack, which may have found no gradient."""
    found = None
    if "grad" in str(error) and not isinstance(error, Contamination):
        with suppress(Exception):  # only the remedy is looked for; the failure itself is told in any case
            found = obstacle(job.defense, x[:2], job.attack.gradient)
    if found is None:
        return reason(error)
    return f"{one_line(error, definition(getattr(job.defense, found.part)))}. {found.message}"


def _judge(job: Job, outcome: Outcome) -> Predictions | None:
    """What the defense says of the adversarial images, or None if there are none or it fails on them."""
    images = job.images
    if outcome.failure:
        return None
    try:
        seeds = job.seeds.verdict(images.index)
        with job.guard.watching("answering", job.defense):
            return predict_votes(
                job.defense, outcome.x_adv, images.y, seeds, votes=job.votes, batch_size=job.batch_size
            )
    except Exception as error:  # as above
        outcome.failure = f"the defense fails on the attacked images: {reason(error)}"
        return None


def _records(job: Job, outcome: Outcome, answers: Predictions | None, seconds: float) -> list[Record]:
    x, flow = job.images.x, outcome.flow
    linf, l2, l1 = (norm(Quantity(0)).size(x, outcome.x_adv).tolist() for norm in (Linf, L2, L1))
    flows = [None] * len(x) if flow is None else flow.abs().flatten(1).amax(1).tolist()
    attack_seeds = job.seeds.search(job.images.index).tolist()
    changed = _changed(job, outcome, answers).tolist()
    records = []
    for row, (index, label) in enumerate(zip(job.images.index.tolist(), job.images.y.tolist(), strict=True)):
        heard = _heard(job, outcome, answers, row)
        votes = [] if heard is None else heard.votes[:, row].tolist()
        error = _error(job, outcome, answers, row)
        violation = float(outcome.violation[row])
        records.append(
            Record(
                index=index,
                label=label,
                verdict=verdict_of(votes, label, error),
                clean_votes=job.clean.votes[:, row].tolist(),
                adv_votes=votes,
                clean_margins=job.clean.margins[:, row].tolist(),
                adv_margins=[] if heard is None else heard.margins[:, row].tolist(),
                linf=linf[row],
                l2=l2[row],
                l1=l1[row],
                flow=flows[row],
                violation=violation,
                forwards=int(outcome.passes[0, row]),
                backwards=int(outcome.passes[1, row]),
                seconds=seconds,
                seed=attack_seeds[row],
                flags=[
                    *outcome.flags,
                    *(["violation"] if violation > TOLERANCE else []),
                    *([CHANGED] if changed[row] else []),
                ],
                error=error,
            )
        )
    return records


def _heard(job: Job, outcome: Outcome, answers: Predictions | None, row: int) -> Predictions | None:
    """What the defense said of an adversarial image, if there is one. An image that needs none is the clean one."""
    if not outcome.due[row]:
        return answers or job.clean
    return None if row in job.barred else answers


def _changed(job: Job, outcome: Outcome, answers: Predictions | None) -> Tensor:
    """Which images got two answers, once as the clean and once as the adversarial image, that are one: (N,) bool.

    A defense that says it is deterministic is random then, or looks at the other images of the batch, or at its past.
    """
    if answers is None or job.defense.stochastic:
        return torch.zeros(len(job.images), dtype=torch.bool)
    same = (outcome.x_adv == job.images.x).flatten(1).all(1).cpu()
    before, after = job.clean.margins[0], answers.margins[0]
    return same & ((after - before).abs() > SAME * before.abs().max())


def _error(job: Job, outcome: Outcome, answers: Predictions | None, row: int) -> str | None:
    """Why this image has no verdict, or None. A crash of the attack counts for every image that it was to attack."""
    if not bool(job.clean.valid[row]):
        return "the defense gave NaN or infinite logits on the clean image"
    if outcome.due[row] and (failure := job.barred.get(row) or outcome.failure):
        return failure
    if row in outcome.met:
        return outcome.met[row]
    if answers is not None and not bool(answers.valid[row]):
        return "the defense gave NaN or infinite logits on the adversarial image"
    if not torch.isfinite(outcome.violation[row]):
        return "the attack returned an image that is not finite, or that is not what its flow makes"
    return None
