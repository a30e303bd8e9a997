"""What an attack returns: images within its budget, found in a way that can be repeated, and worth the name."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from harness.attack import Adversarial, Attack
from harness.checks.finding import Finding, Outcome, check
from harness.defense import Defense
from harness.predict import margin, query
from harness.randomness import derive, fenced, row_seeds
from harness.target import Target
from harness.threat import TOLERANCE

ROUNDED = 1e-3
"""Difference of two pixels up to which they may be the same number rounded in two ways."""


class NearestMean(Defense):
    """Something to attack, which needs no weights: logits fall with the distance to each class's mean image.

    z_k = -||x - m_k||^2 / D + ||x||^2 / D, linear in x.

    Args:
        x: images, (N, C, H, W); y: their labels, (N,) int64, each class at least once.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.num_classes = int(y.max()) + 1
        means = torch.stack([x[y == k].mean(0) for k in range(self.num_classes)]).flatten(1)
        self.register_buffer("weight", 2 * means / means.shape[1])
        self.register_buffer("bias", -means.square().mean(1))

    def classify(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias

    def margins(self, x: Tensor, y: Tensor) -> Tensor:
        """How far an image is from being misclassified, (N,); inf for one that is."""
        lead = margin(self.classify(x), y)
        return torch.where(lead > 0, lead, torch.inf)


class Trial:
    """An attack tried on a defense. x: images, (N, C, H, W); y: labels, (N,)."""

    def __init__(self, attack: Attack, defense: Defense, x: Tensor, y: Tensor, seed: int = 0) -> None:
        self.attack, self.defense, self.x, self.y = attack, defense, x, y
        self.seeds = row_seeds(derive(seed, "check"), torch.arange(len(x), device=x.device))
        self.given = x.clone()

    @cached_property
    def first(self) -> tuple[Adversarial, Target]:
        return self.attempt(self.given)

    def attempt(self, x: Tensor, count: int | None = None) -> tuple[Adversarial, Target]:
        """Attacks all images, or the first few. x: copies of them."""
        some, seeds = self.x[:count], self.seeds[:count]
        target = Target(self.defense, some, seeds, gradient=self.attack.gradient, eot=self.attack.eot)
        with fenced(derive("check")):
            found = self.attack.perturb(target, x, self.y[:count].clone())
        return Adversarial.of(found), target

    def right(self, x: Tensor) -> int:
        with torch.no_grad():
            return int((query(self.defense, x, self.seeds).argmax(1) == self.y).sum())


@check("runs")
def runs(trial: Trial) -> Outcome:
    found, _ = trial.first
    if not isinstance(found.images, Tensor) or found.images.shape != trial.x.shape:
        shape = tuple(found.images.shape) if isinstance(found.images, Tensor) else type(found.images).__name__
        return "failed", f"perturb returns {shape} for images of shape {tuple(trial.x.shape)}"
    return "passed", f"{len(trial.x)} images within {trial.attack.threat}, under {trial.attack.gradient} gradients"


@check("within the budget")
def budget(trial: Trial) -> Outcome:
    found, _ = trial.first
    if not torch.isfinite(found.images).all():
        return "failed", "perturb returns NaN or infinite pixels"
    threat = trial.attack.threat
    excess = threat.violation(trial.x, found.images.detach(), found.parameters)
    outside = int((excess > TOLERANCE).sum())
    if outside:
        worst = float(excess.max())
        return (
            "failed",
            f"{outside} of {len(trial.x)} images leave {threat} or [0, 1], by up to {worst:.3g}; project them",
        )
    return (
        "passed",
        f"uses up to {float(threat.size(trial.x, found.images.detach(), found.parameters).max()):.3g} of {threat.eps}",
    )


@check("images left alone")
def images_kept(trial: Trial) -> Outcome:
    _ = trial.first
    if not torch.equal(trial.given, trial.x):
        return "failed", "perturb changes x in place; work on a copy"
    return "passed", "x is not changed in place"


@check("reproducible")
def reproducible(trial: Trial) -> Outcome:
    again, _ = trial.attempt(trial.x.clone())
    difference = float((again.images - trial.first[0].images).abs().max())
    if difference > TOLERANCE:
        return "failed", (
            f"the same seeds give images that differ by up to {difference:.3g}; draw from target.seeds or from torch's "
            f"global generator"
        )
    return "passed", "the same seeds give the same images"


@check("independent")
def independent(trial: Trial) -> Outcome:
    """Of an attack that says so: an image becomes the same whatever others are attacked with it."""
    half = len(trial.x) // 2
    apart, _ = trial.attempt(trial.x[:half].clone(), half)
    difference = float((apart.images - trial.first[0].images[:half]).abs().max())
    if difference > ROUNDED:
        return "failed", (
            f"with other images beside them, images differ by up to {difference:.3g}; draw from target.seeds, or "
            "remove `independent`"
        )
    return "passed", "images become the same whatever others are attacked with them"


@check("honest cost")
def cost(trial: Trial) -> Outcome:
    _, target = trial.first
    bound = trial.attack.cost(trial.defense.num_classes or 2)
    for name, spent, most in (
        ("forwards", target.forwards, bound.forwards),
        ("backwards", target.backwards, bound.backwards),
    ):
        if int(spent.max()) > most:
            return "failed", f"it spent {int(spent.max())} {name} on an image; cost() says at most {most:g}"
    return "passed", f"at most {bound.forwards:g} forwards and {bound.backwards:g} backwards an image"


@check("effect")
def effect(trial: Trial) -> Outcome:
    before, after = trial.right(trial.x), trial.right(trial.first[0].images.detach())
    share = f"{before} of {len(trial.x)} images classified right before, {after} after"
    if after >= before:
        return "warned", f"{share}, by a plain linear classifier"
    return "passed", share


def check_attack(attack: Attack, defense: Defense, x: Tensor, y: Tensor) -> list[Finding]:
    """Whether an attack keeps its contract, tried on `defense`; stops where it does not run at all.

    Args:
        x: images, (N, C, H, W) float32 in [0, 1]; y: their labels, (N,) int64.
    """
    trial = Trial(attack, defense, x, y)
    unsuitable = attack.unsuitable(defense)
    if unsuitable:
        return [Finding("runs", "warned", f"not tried on a plain classifier: {unsuitable}")]
    first = runs(trial)
    if first.status == "failed":
        return [first]
    also = [independent] if attack.is_independent() and len(x) > 1 else []
    return [first, *(ask(trial) for ask in (budget, images_kept, reproducible, *also, cost, effect))]
