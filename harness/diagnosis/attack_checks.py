"""Whether stronger attacks succeed more often than weaker ones, as they must where gradients are not masked.

"White-box" is PGD on the margin, under the suite's view of the defense. Success is the share of the correctly
classified images that an attack makes the defense misclassify. A weaker attack's lead counts once it exceeds what a few
unlucky images explain.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from torch import Tensor

from harness.checks.finding import Measured, Skip, check
from harness.diagnosis.sources import ADAPTIVE, EOT, EVALUATING, INDICATORS, OBFUSCATED
from harness.diagnosis.subject import BLACK_BOX, NOISE, WHITE_BOX, Subject, built, entry_of
from harness.results.diagnosis import luck

TRIES = 10
"""Random images within the budget."""

TRANSFER = "transfer"
"""The check on a surrogate's adversarial images."""


@check("one step against many", OBFUSCATED, EVALUATING)
def one_step(subject: Subject) -> Measured:
    single = subject.pgd(steps=1, step_size=float(subject.settings.eps), random_start=False)
    return _against_white_box(subject, "one step", single, subject.pgd())


@check("unbounded attack", OBFUSCATED, EVALUATING, INDICATORS)
def unbounded(subject: Subject) -> Measured:
    """A budget that reaches every image must leave no image standing."""
    wrong = subject.pgd(eps=_everything(subject))
    left, count = int((~wrong).sum()), len(wrong)
    data = {"robust": left / count, "images": count}
    if left:
        return (
            "warned",
            f"robust accuracy {left / count:.1%} with a budget that reaches every image; it should be 0%",
            data,
        )
    return "passed", f"robust accuracy 0% on {count} images", data


@check("larger budgets", OBFUSCATED, EVALUATING)
def budgets(subject: Subject) -> Measured:
    """Success grows with eps, until it is complete."""
    eps = float(subject.settings.eps)
    runs = {factor * eps: subject.pgd(eps=None if factor == 1 else factor * eps) for factor in (0.5, 1, 2)}
    runs[_everything(subject)] = subject.pgd(eps=_everything(subject))
    status, message, data = _rising({f"eps {e:.3g}": wrong for e, wrong in runs.items()})
    first, *_, last = (float(wrong.float().mean()) for wrong in runs.values())
    if status == "passed" and last <= first < 1:
        status, message = "warned", f"{message}: larger budgets gain nothing"
    return status, message, {**data, "eps": list(runs)}


@check("more iterations", EVALUATING, ADAPTIVE, INDICATORS)
def iterations(subject: Subject) -> Measured:
    """Success does not fall with more steps, and has stopped rising."""
    steps = subject.settings.steps
    counts = sorted({max(1, steps // 2), steps, 2 * steps})
    status, message, data = _rising({f"{n} steps": subject.pgd(steps=n) for n in counts}, settled=True)
    return status, message, {**data, "steps": counts}


@check("more draws", EVALUATING, ADAPTIVE, EOT)
def draws(subject: Subject) -> Measured:
    """Success does not fall with more draws per gradient, and has stopped rising."""
    if not subject.defense.stochastic:
        raise Skip("the defense is deterministic: every draw is the same")
    counts = sorted({1, subject.eot, 2 * subject.eot})
    status, message, data = _rising({f"EOT {n}": subject.pgd(eot=n) for n in counts}, settled=True)
    return status, message, {**data, "eot": counts}


@check("random noise", OBFUSCATED)
def noise(subject: Subject) -> Measured:
    found = subject.attacked(NOISE, subject.settings.eps, tries=TRIES, eot=subject.eot)
    return _against_white_box(subject, f"the worst of {TRIES} random images", found, subject.pgd())


@check("black box", OBFUSCATED, EVALUATING)
def square(subject: Subject) -> Measured:
    """Square, which takes one draw of a stochastic defense for its answer; votes decide about what it finds."""
    queries = subject.settings.queries
    arguments: dict[str, Any] = {"square_queries": queries}
    if subject.defense.stochastic:
        arguments["eot"] = max(2, subject.eot)  # Square does not use it, but AutoAttack refuses to run with 1
    found = subject.attacked(BLACK_BOX, subject.settings.eps, **arguments)
    return _against_white_box(subject, f"Square with {queries} queries", found, subject.pgd())


@check(TRANSFER, OBFUSCATED, EVALUATING)
def transfer(subject: Subject) -> Measured:
    """A surrogate's adversarial examples."""
    if subject.surrogate is None:
        raise Skip("there is no surrogate: the suite has no other defense")
    name, surrogate = subject.surrogate
    settings = subject.settings
    eot = settings.eot if surrogate.stochastic else 1
    budget = (settings.norm, settings.eps)
    attack = built(entry_of(WHITE_BOX, *budget, steps=settings.steps, eot=eot, early_stop=False))
    found = subject.misclassified_as(subject.perturbed(attack, TRANSFER, surrogate), TRANSFER)
    return _against_white_box(subject, f"what PGD finds on '{name}'", found, subject.pgd())


def _against_white_box(subject: Subject, name: str, weaker: Tensor, white: Tensor) -> Measured:
    only, count = int((weaker & ~white).sum()), len(white)
    ahead = int(weaker.sum()) - int(white.sum())
    data = {"images": count, "weaker": _share(weaker), "white_box": _share(white), "only_weaker": only}
    steps = f"{subject.settings.steps} steps of PGD"
    both = f"{_share(weaker):.1%} by {name}, {_share(white):.1%} by {steps}"
    message = f"misclassified: {both}; {only} of {count} images only by the former"
    return ("warned" if ahead > luck(count) else "passed"), message, data


def _rising(runs: dict[str, Tensor], *, settled: bool = False) -> Measured:
    """Success by strength. settled: the strongest must not lead the one before it by much, either."""
    success = {name: _share(wrong) for name, wrong in runs.items()}
    count = len(next(iter(runs.values())))
    totals = [int(wrong.sum()) for wrong in runs.values()]
    message = "misclassified: " + ", ".join(f"{share:.1%} at {name}" for name, share in success.items())
    data = {"images": count, "success": success}
    if any(before - after > luck(count) for before, after in itertools.pairwise(totals)):
        return "warned", f"{message}: a stronger attack succeeds less often", data
    if settled and totals[-1] - totals[-2] > luck(count):
        return "warned", f"{message}: success still rises, so robustness is overestimated", data
    return "passed", message, data


def _share(wrong: Tensor) -> float:
    return float(wrong.float().mean())


def _everything(subject: Subject) -> float:
    """The radius that holds every image: 1 in Linf, sqrt(D) in L2, D in L1."""
    size = subject.images.x[0].numel()
    return {"Linf": 1.0, "L2": math.sqrt(size), "L1": float(size)}[subject.settings.norm]
