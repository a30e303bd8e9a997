"""How noisy the gradients are that an attack meets on a stochastic defense, measured on a few images beforehand.

The attack itself is run up to its first gradient of each image, twice: from the same seeds, and so from the same point,
through its own view, with its own loss and number of draws, but under fresh draws of the defense. What is wanted is the
cosine of an image's two gradients, see `harness.guard.doubt`. An image counts if both gradients were taken at the same
point and neither is zero.

An attack is stopped as soon as it has a gradient of every image, asks for a second one, or has spent its allowance: at
most `SHARE` of the passes of its pairing, or as many as `FREE` network evaluations or `FEW` passes allow.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from harness.attack import UNKNOWN_CLASSES, Attack
from harness.checks.defense import FREE, SHARE, Use
from harness.datasets.batch import Images
from harness.defense import Defense
from harness.gradients import View
from harness.guard.doubt import cosine_of_means, cosine_of_single_draws
from harness.guard.nonfinite import Place
from harness.randomness import derive, fenced
from harness.search import Narrowing
from harness.target import Step, Target

MOST_IMAGES, FEWEST_IMAGES = 16, 2
"""Images measured at most, and at least."""

FEW = 36
"""Passes that the measurement may take in any run; a backward pass counts as `Defense.backward_cost` passes."""

LOOKS = 2
"""Forward passes of an image that are allowed for before its first gradient."""

SMALLEST = 0.05
"""A cosine below this cannot be told from zero by so few gradients: attacks that are content with less are not
measured."""

_FRESH = 1 << 40
"""Queries by which the second run's draws are ahead of the first's. No attack makes so many."""


@dataclass(frozen=True)
class GradientNoise:
    """What was measured. cosine: of two gradients, of one draw each, in [0, 1]; images: how many were measured."""

    cosine: float
    images: int


def gradient_noise(
    defense: Defense, attack: Attack, images: Images, seeds: Tensor, *, of: int, votes: int, batch_size: int = 256
) -> GradientNoise | None:
    """Measures the noise of the gradients that an attack meets; None where there is nothing to measure.

    That is so for a deterministic defense, for an attack that takes no gradient, that fails, or that averages so many
    gradients that it puts up with more noise than this can measure.

    Args:
        defense: on the images' device, in evaluation mode.
        attack: built for this call alone, since it may remember what it did.
        images: the run's first, on the defense's device; `MOST_IMAGES` at most are looked at.
        seeds: one per image, (N,) int64.
        of: the number of images of the run. votes: draws that judge each. The allowance follows from both.

    Returns:
        Of an attack made of several, what was measured for one that the noise suits, or else for the least demanding.
    """
    climbing = [part for part in attack.parts() if part.cost(UNKNOWN_CLASSES).backwards]
    if not defense.stochastic or any(not _measurable(part) for part in climbing):
        return None
    found = list[tuple[float, GradientNoise | None]]()
    for part in climbing:
        allowance = max(SHARE * Use.of(defense, [part], of, None, votes).passes, FREE / max(1.0, defense.cost()), FEW)
        noise = _measured(defense, part, images, seeds, allowance, batch_size)
        if noise and noise.cosine >= part.least_cosine():
            return noise
        found.append((part.least_cosine(), noise))
    return min(found, key=lambda each: each[0])[1] if all(noise for _, noise in found) and found else None


def _measurable(attack: Attack) -> bool:
    """Whether so few gradients show if they are too noisy for an attack."""
    return cosine_of_means(attack.least_cosine(), attack.eot) >= SMALLEST


def _measured(
    defense: Defense, attack: Attack, images: Images, seeds: Tensor, allowance: float, batch_size: int
) -> GradientNoise | None:
    """The noise of one attack's gradients. allowance: passes that both runs may take."""
    eot, per_draw = attack.eot, 1 + defense.backward_cost
    if FEWEST_IMAGES * 2 * (LOOKS + eot * per_draw) > allowance:
        eot = 1
    count = int(allowance / 2 / (LOOKS + eot * per_draw))
    count = min(max(FEWEST_IMAGES, count), MOST_IMAGES, len(images))
    images, seeds = images.take(slice(count)), seeds[:count]
    runs = []
    for fresh in (0, _FRESH):
        target = _UpToTheGradient(defense, images.x, seeds, gradient=attack.gradient, eot=eot, batch_size=batch_size)
        target.limit(fresh, allowance / 2)
        with suppress(Exception, _Enough), fenced(derive("gradient noise", *seeds.tolist())):
            attack.perturb(target, images.x.clone(), images.y.clone())  # should it fail, its records will say so
        runs.append(target.first)
    cosines = [_cosine(*(run[row] for run in runs)) for row in range(count) if all(row in run for run in runs)]
    known = [cosine for cosine in cosines if cosine is not None]
    return GradientNoise(sum(known) / len(known), len(known)) if known else None


@dataclass(frozen=True)
class _Gradient:
    """The first gradient of an image, (C, H, W): of how many draws it is the mean, and at which image (C, H, W)."""

    at: Tensor
    grad: Tensor
    draws: int


def _cosine(one: _Gradient, other: _Gradient) -> float | None:
    """The cosine of two single draws, from two means of as many; None where they cannot be compared."""
    a, b = one.grad.double().flatten(), other.grad.double().flatten()
    sizes = float(a.norm() * b.norm())
    if one.draws != other.draws or not sizes or not torch.equal(one.at, other.at):
        return None
    return cosine_of_single_draws(float(a @ b) / sizes, one.draws)


class _Enough(BaseException):
    """Ends an attack that has shown what it was run for. No attack catches it as a failure of its own."""


class _UpToTheGradient(Target):
    """A target that keeps the first gradient of each image, and then ends the attack.

    Attributes:
        first: by the image's place among those attacked.
    """

    def limit(self, fresh: int, allowance: float) -> None:
        """Begins. fresh: queries by which draws are ahead; allowance: passes after which the attack is ended."""
        self.first: dict[int, _Gradient] = {}
        self._queries += fresh
        self._left = [allowance]  # in a list, so that all views share it
        self._whole_step = False

    def step(
        self,
        x: Tensor,
        rows: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        energy: float = 0.0,
        every_class: bool = False,
    ) -> Step:
        self._whole_step = True
        try:
            step = super().step(x, rows, loss, energy=energy, every_class=every_class)
        finally:
            self._whole_step = False
        self._keep(rows, x.detach(), self.eot, step.grad)
        return step

    def _evaluate(
        self,
        view: View,
        x: Tensor,
        rows: Tensor | None,
        draws: int,
        place: Place = "logits",
        narrowing: Narrowing | None = None,
    ) -> Tensor:
        rows = self.nearest(x) if rows is None else rows
        differentiable = x.requires_grad and torch.is_grad_enabled()
        self._left[0] -= len(x) * draws * (1 + self.defense.backward_cost * differentiable)
        if self._left[0] < 0:
            raise _Enough
        if differentiable and not self._whole_step:  # an attack that differentiates the logits itself
            at, x = x.detach().clone(), x.view_as(x)
            x.register_hook(partial(self._keep, rows, at, draws))
        return super()._evaluate(view, x, rows, draws, place, narrowing)

    def _keep(self, rows: Tensor, at: Tensor, draws: int, grad: Tensor) -> None:
        """Keeps the gradients (M, C, H, W) of images `rows` (M,) that had none, at these points (M, C, H, W)."""
        counted = self._counted[rows].tolist()
        new = [place for place, row in enumerate(counted) if row not in self.first]
        for place in new:
            self.first.setdefault(counted[place], _Gradient(at[place], grad[place].detach().clone(), draws))
        if not new or len(self.first) == len(self._queries):
            raise _Enough
