"""What a certificate counts: draws of the smoothed defense that can be repeated, under as much noise as it says."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.stats import binom, norm
from torch import Tensor

from harness.certification.certificate import Certificate
from harness.certification.smoothed import SmoothedDefense
from harness.checks.finding import Finding, Outcome, check
from harness.quantity import Quantity
from harness.randomness import derive, fenced, row_seeds
from harness.target import Target

SIGMA = Quantity("0.25")

UNLIKELY = 1e-6
"""Counts that are less probable than this, given the exact probability of a class, are not of this defense."""


class HalfSpace(SmoothedDefense):
    """A smoothed linear classifier of two classes: P(class 1) = Phi((w x - b) / (sigma |w|)) is known.

    Args:
        weight: w, (C H W,); offset: b.
    """

    num_classes = 2
    weight: Tensor

    def __init__(self, weight: Tensor, offset: float) -> None:
        super().__init__(SIGMA)
        self.register_buffer("weight", weight)
        self.offset = offset

    def classify(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.weight - self.offset
        return torch.stack([-score, score], 1)

    def probability(self, x: Tensor) -> Tensor:
        """Of class 1, (N,) float64, on the CPU."""
        score = (x.flatten(1) @ self.weight - self.offset).double() / (float(SIGMA) * self.weight.double().norm())
        return torch.from_numpy(norm.cdf(score.cpu().numpy()))


@dataclass(frozen=True)
class Trial:
    """A certificate tried on a smoothed linear classifier. x: images, (N, C, H, W)."""

    certificate: Certificate
    defense: HalfSpace
    x: Tensor

    @cached_property
    def counts(self) -> Tensor:
        return self.count(slice(None))

    def count(self, some: slice) -> Tensor:
        """The counts of some of the images, under the seeds of those."""
        seeds = row_seeds(derive("check"), torch.arange(len(self.x), device=self.x.device))
        with fenced(derive("check")):
            return self.certificate.counts(Target(self.defense, self.x[some], seeds[some]), self.x[some].clone())


@check("runs")
def runs(trial: Trial) -> Outcome:
    wanted = (len(trial.x), 2, 2)
    if tuple(trial.counts.shape) != wanted or trial.counts.is_floating_point():
        found = f"{tuple(trial.counts.shape)} of {trial.counts.dtype}"
        return "failed", f"counts returns {found} for {len(trial.x)} images of two classes, not {wanted} of int64"
    return "passed", f"{trial.certificate.n0:,} and {trial.certificate.n:,} draws of {len(trial.x)} images"


@check("as many draws as it says")
def draws(trial: Trial) -> Outcome:
    certificate, totals = trial.certificate, trial.counts.sum(2)
    for part, (name, most) in enumerate({"n0": certificate.n0, "n": certificate.n}.items()):
        low, high = int(totals[:, part].min()), int(totals[:, part].max())
        if low < 0 or (low, high) != (most, most):
            return "failed", f"an image has {low} to {high} draws, and {name} is {most}"
    return "passed", "n0 and n draws of every image"


@check("as much noise as it says")
def noise(trial: Trial) -> Outcome:
    """Less noise gives the likelier class too many draws, and radii that are too large."""
    k, p = trial.counts.sum(1)[:, 1].cpu().numpy(), trial.defense.probability(trial.x).numpy()
    total = trial.certificate.n0 + trial.certificate.n
    chance = 2 * min(binom.cdf(k, total, p).min(), binom.sf(k - 1, total, p).min()) * len(k)
    if chance < UNLIKELY:
        return "failed", (
            f"the classes of a linear classifier are counted otherwise than noise of sigma {SIGMA} gives them "
            f"(probability {chance:.1g}): add defense.sigma times standard normal noise to x"
        )
    return "passed", "a linear classifier's classes are as frequent as sigma implies"


@check("reproducible, image by image")
def reproducible(trial: Trial) -> Outcome:
    if not torch.equal(trial.count(slice(None)), trial.counts):
        return "failed", "the same seeds give other counts; draw from target.seeds"
    if not torch.equal(trial.count(slice(1, None)), trial.counts[1:]):
        return "failed", "an image's counts depend on the others in the batch; derive each draw from the image's seed"
    return "passed", "the same seeds give the same counts, whatever else is in the batch"


def check_certificate(certificate: Certificate, x: Tensor, y: Tensor) -> list[Finding]:
    """Whether a certificate keeps its contract, tried on a linear classifier; stops where it does not run at all.

    Args:
        x: images, (N, C, H, W) float32 in [0, 1]; y: their labels, (N,) int64, two classes or more.
    """
    first, second = (x[y == label].mean(0).flatten() for label in y.unique()[:2])
    weight = second - first
    trial = Trial(certificate, HalfSpace(weight, float(weight @ (first + second) / 2)).to(x.device).eval(), x)
    found = runs(trial)
    if found.status == "failed":
        return [found]
    return [found, *(ask(trial) for ask in (draws, noise, reproducible))]
