"""A population of PGD runs that exchange parts of their perturbations: for networks on which restarts stop helping.

On a piecewise linear network each run of PGD ends in a local optimum, and thousands of restarts end in thousands of
them, all with margins a little below zero. Their perturbations are right in different places: a child that takes some
regions of the image from one and the rest from another, and then climbs (gradient ascent on the margin), goes on where
both were stuck.

    population      P images in the budget, each climbed to from a random start, towards one of the true class's rivals
    child           m * a + (1 - m) * b + mutation, projected; a, b: parents, drawn with odds exp(margin / spread)
                    m: a random mask of a few regions; mutation: random pixels moved to a random end of the box [0, 1]
    climb           a few steps of PGD with momentum on the margin, whose lengths differ between generations
    survival        the P of parents and children with the largest margins; equal ones count once

Crossover followed by local search is a memetic algorithm (Moscato, 1989). `benchmarks/RESULTS.md` says how many of the
adversarial images that a complete solver proves to exist this attack finds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.common.gradient_attack import BestIterates, Objective
from attacks.common.losses import RowLoss, loss_of, rivals
from attacks.common.norms import Norm, ball
from attacks.common.schedules import SCHEDULES
from attacks.pgd import pgd_steps
from harness.attack import Adversarial, Attack, Cost
from harness.defense import Defense
from harness.gradients import Gradient
from harness.quantity import Quantity
from harness.randomness import derive, fold, normal, uniform
from harness.target import Target
from harness.threat import Pixels

_START, _CHILD = derive("crossover", "start"), derive("crossover", "child")

MOMENTUM = 0.9

FIRST_STEP, FIRST_STEPS = 1.0, 30
"""The length of the first climb's first step, in eps, and its number of steps."""

CHILD_STEP = 0.03, 0.3
"""Range of the length of a child's first step, in eps. A child is near an optimum, which long steps would leave."""

REGIONS = 3, 5, 7, 14
"""How many random values a mask has along each side, interpolated; each generation takes the next number."""

MUTATION = 0.1
"""Largest share of a child's pixels that mutate."""

STRANGERS = 0.25
"""Share of children whose second parent is a random point of the budget: a few regions of the first begin anew."""

EQUAL = 1e-6
"""Images of which no pixel differs by more than this count as the same member."""


class Crossover(Attack):
    """PGD from many starts, whose best iterates are recombined and climb again.

    It is made for cheap deterministic defenses that can be differentiated: an image that withstands takes tens of
    thousands of passes. An image leaves as soon as the defense misclassifies it.

    Args:
        norm, eps: the budget, on the [0, 1] scale.
        population: iterates kept of each image.
        generations: rounds of crossover after the first climb.
        steps: gradient steps of a child.
        gradient: the view of the defense, see `harness.attack.Attack`.

    Raises:
        ValueError: a budget or a count is invalid.

    Example:
        >>> Crossover("Linf", Quantity("0.3"), generations=2).describe()
        'crossover, 2 generations of 60, 20 steps'
    """

    # It does not say that it is `independent`: each image has a whole population, and a shard is a large batch already.
    method = "crossover"
    caps: ClassVar[Mapping[str, int]] = {"population": 4, "generations": 2, "steps": 2}

    def __init__(
        self,
        norm: Norm,
        eps: Quantity,
        population: int = 60,
        generations: int = 60,
        steps: int = 20,
        gradient: Gradient = "exact",
    ) -> None:
        super().__init__(gradient=gradient)
        if population < 2 or generations < 1 or steps < 1:
            counts = f"{population}, {generations} and {steps}"
            raise ValueError(f"population must be at least 2, generations and steps at least 1, not {counts}")
        self.threat: Pixels = ball(norm, eps)
        self.population, self.generations, self.steps = population, generations, steps

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor | Adversarial:
        """The member of largest margin in the population of each image."""
        everyone = torch.arange(len(x), device=x.device)
        best, clean = BestIterates.of(x, y), target(x, everyone)
        best.update(x, everyone, clean)
        people = self._first(target, x, y, rivals(clean, y))
        for generation in range(1, self.generations + 1):
            _update(best, people)
            people = people.without(best.misclassified)
            if not len(people.rows):
                break
            sizes = _sizes(_child_step(generation) * float(self.threat.eps), self.steps)
            children = people.children(self.threat, fold(people.seeds, _CHILD, generation), generation)
            people = people.survivors(self._climb(target, children, loss_of("margin", people.y), sizes))
        _update(best, people)
        remarks = best.remarks()
        return Adversarial(best.images, remarks=remarks) if any(remarks) else best.images

    def _first(self, target: Target, x: Tensor, y: Tensor, aims: Tensor) -> Population:
        """Random starts after their climbs, each towards a rival of its own. aims: the rivals of y, (N, K - 1)."""
        rows = torch.arange(len(x), device=x.device).repeat_interleave(self.population)
        member = torch.arange(self.population, device=x.device).repeat(len(x))
        seeds, shape = fold(target.seeds[rows], _START, member), x.shape[1:]
        start = self.threat.random(x[rows], uniform(fold(seeds, 0), shape), normal(fold(seeds, 1), shape))
        nothing = torch.full_like(rows, -torch.inf, dtype=x.dtype)
        people = Population(self.population, rows, x[rows], y[rows], seeds, start, nothing, nothing > 0, nothing > 0)
        loss = loss_of("margin-targeted", people.y, aims[rows, member % aims.shape[1]])
        return self._climb(target, people, loss, _sizes(FIRST_STEP * float(self.threat.eps), FIRST_STEPS))

    def _climb(self, target: Target, people: Population, loss: RowLoss, sizes: list[float]) -> Population:
        """The best iterates of PGD from each member of a population, all members in one batch."""
        members = torch.arange(len(people.rows), device=people.rows.device)
        best = BestIterates.of(people.x, people.y)
        objective = Objective(
            target.with_view(gradient=self.gradient, eot=1, rows=people.rows), loss, 0.0, self.gradient == "blind"
        )
        pgd_steps(best, people.x, people.images, members, objective, self.threat, sizes, MOMENTUM, stops=False)
        return replace(
            people, images=best.images, margins=best.margins, misclassified=best.misclassified, alive=best.alive
        )

    def cost(self, num_classes: int) -> Cost:
        """The cost of an image that is never misclassified."""
        gradients = self.population * (FIRST_STEPS + self.generations * self.steps)
        looks = gradients if self.gradient == "blind" else 0
        return Cost(1 + gradients + looks + self.population * (1 + self.generations), gradients)

    def unsuitable(self, defense: Defense) -> str | None:
        if defense.stochastic:
            return "it compares images by single draws, which say little about a stochastic defense"
        return super().unsuitable(defense)

    def describe(self) -> str:
        return f"{super().describe()}, {self.generations} generations of {self.population}, {self.steps} steps"


@dataclass(frozen=True)
class Population:
    """The members of several images, `size` of each, image by image: M = size * (number of images).

    Attributes:
        rows: which image of the batch each member belongs to, (M,).
        x, y: that image, (M, C, H, W), and its label, (M,).
        seeds: one seed per member, (M,).
        images: the members themselves, (M, C, H, W), in the budget of x.
        margins: positive where the member is misclassified, (M,).
        misclassified: whether it is so by more than rounding, (M,) bool.
        alive: whether a gradient that was not zero was seen, (M,) bool.
    """

    size: int
    rows: Tensor
    x: Tensor
    y: Tensor
    seeds: Tensor
    images: Tensor
    margins: Tensor
    misclassified: Tensor
    alive: Tensor

    def without(self, misclassified: Tensor) -> Population:
        """The populations of the images that are not `misclassified`, (N,) bool."""
        kept = ~misclassified[self.rows]
        return Population(self.size, *(getattr(self, name)[kept] for name in _PER_MEMBER))

    def children(self, threat: Pixels, seeds: Tensor, generation: int) -> Population:
        """A child for every member, before its climb; see the module's head."""
        first, second = (self.images[self._parents(fold(seeds, parent))] for parent in (0, 1))
        shape = self.images.shape[1:]
        stranger = threat.random(self.x, uniform(fold(seeds, 6), shape), normal(fold(seeds, 7), shape))
        _, channels, height, width = self.images.shape
        grid = REGIONS[generation % len(REGIONS)]
        field = F.interpolate(uniform(fold(seeds, 2), (1, grid, grid)), (height, width), mode="bilinear")
        anew = uniform(fold(seeds, 8), (1, 1, 1)) < STRANGERS
        second = torch.where(anew, stranger, second)
        taken = torch.where(anew, uniform(fold(seeds, 9), (1, 1, 1)) / 2, 0.5)
        child = torch.where(field < taken, second, first)
        share = MUTATION * uniform(fold(seeds, 3), (1, 1, 1))
        mutant = uniform(fold(seeds, 4), (channels, height, width)) < share
        end = (uniform(fold(seeds, 5), (channels, height, width)) < 0.5).to(child)
        return replace(self, images=threat.project(self.x, torch.where(mutant, end, child)))

    def _parents(self, seeds: Tensor) -> Tensor:
        """A parent for every member, drawn with odds exp(margin / spread) by Gumbel's maximum: (M,)."""
        margins = self.margins.view(-1, self.size)
        spread = margins.std(1, keepdim=True).clamp(min=torch.finfo(margins.dtype).tiny)
        noise = -(-uniform(seeds, (self.size,)).clamp(min=1e-12).log()).log()
        family = torch.arange(len(margins), device=margins.device).repeat_interleave(self.size)
        return family * self.size + (((margins - margins.amax(1, keepdim=True)) / spread)[family] + noise).argmax(1)

    def survivors(self, children: Population) -> Population:
        """The best of each image's members and their children. Equal members count once."""
        family = torch.arange(len(self.rows) // self.size, device=self.rows.device)[:, None]
        own = torch.arange(self.size, device=self.rows.device) + self.size * family
        index = torch.cat([own, own + len(self.rows)], 1)
        images = torch.cat([self.images, children.images])
        margins = torch.cat([self.margins, children.margins])
        misclassified = torch.cat([self.misclassified, children.misclassified])
        index = index.gather(1, margins[index].argsort(dim=1, descending=True, stable=True))
        moved = (images[index[:, 1:]] - images[index[:, :-1]]).abs().flatten(2).amax(2) > EQUAL
        again = torch.cat([torch.zeros_like(moved[:, :1]), ~moved], 1)
        kept = index.gather(1, again.int().argsort(dim=1, stable=True))[:, : self.size].flatten()
        alive = self.alive | children.alive
        return replace(self, images=images[kept], margins=margins[kept], misclassified=misclassified[kept], alive=alive)


_PER_MEMBER = tuple(field.name for field in fields(Population) if field.name != "size")


def _update(best: BestIterates, people: Population) -> None:
    """Records the best member of each image, and whether any member saw a gradient that was not zero."""
    if not len(people.rows):
        return
    margins, at = people.margins.view(-1, people.size).max(1)
    chosen = at + people.size * torch.arange(len(at), device=at.device)
    rows = people.rows[chosen]
    best.keep(people.images[chosen], rows, margins)
    best.misclassified[rows] |= people.misclassified.view(-1, people.size).any(1)
    best.queried[rows] = True
    best.alive[rows] |= people.alive.view(-1, people.size).any(1)


def _sizes(first: float, steps: int) -> list[float]:
    """Lengths of the steps of a climb, which fall from `first` to nearly 0 along a cosine."""
    return [first * SCHEDULES["cosine"](step / steps) for step in range(steps)]


def _child_step(generation: int) -> float:
    """The length of a child's first step, in eps: evenly spread over the logarithms of `CHILD_STEP`'s range, with
    neighbouring generations far apart (golden ratio).
    """
    low, high = CHILD_STEP
    return low * (high / low) ** (generation * (math.sqrt(5) - 1) / 2 % 1)
