"""An attack for defenses that are random or move the image: every view of their gradient, on what still stands.

1. The defense's answers to the clean images: rivals, and images that need no attack.
2. One climb along each view that the defense has, in the order of `views_of`, each from the image kept so far. Kept is
   what fresh draws of the defense misclassify most often, see `attacks.common.candidates`. An image of which all draws
   are misclassified leaves.
3. Further climbs along the view that gained each image the most, with as many draws per gradient as the cosine between
   its draws asks for, see `attacks.common.noisy_climb`: in turn from the image kept, with smaller steps, and from a
   random start, towards the next rival. An image stops after `PATIENCE` climbs that brought it nothing.
4. Where no view had a gradient: proposals judged by fresh draws, without a gradient (`attacks.common.proposals`).

Each image goes its own way through this: none depends on the others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.common.candidates import Candidates
from attacks.common.losses import rivals
from attacks.common.noisy_climb import MOST_DRAWS, Climb, climb, draws_needed
from attacks.common.norms import Norm, ball
from attacks.common.proposals import DRAWS, propose
from harness.attack import Adversarial, Attack, Cost
from harness.defense import Defense
from harness.gradients import Gradient, missing
from harness.quantity import Quantity
from harness.randomness import derive, fold, normal, uniform
from harness.target import Target
from harness.threat import Pixels

ORDER: tuple[Gradient, ...] = ("bpda", "tanh", "straight_through", "exact", "adjoint", "blind")
"""Of the views, the promising and the cheap ones first."""

FIRST, AGAIN = 0.3, 0.15
"""Lengths of the first step, in shares of eps: of a climb from afar, and from an image that a climb ended at."""

PATIENCE = 2
"""Climbs in a row that may bring an image nothing."""

NO_ATTACK = "misclassified without an attack"

_START = derive("adaptive", "random start")
_PROPOSALS = derive("adaptive", "proposals")


class Adaptive(Attack):
    """Momentum climbs along every view of a defense's gradient, judged by misclassification rates of fresh draws.

    The preset is meant for every defense; what differs between defenses is measured, see the module's head. Remarks on
    the batch tell what was tried and what each stage took away.

    Args:
        norm, eps: the budget, on the [0, 1] scale.
        steps: gradients of one climb.
        rounds: climbs of an image after each view has had one, at most.
        votes: draws that an image is judged by, see `attacks.common.candidates`; one, of a deterministic defense.
        proposals: tries of the stage without gradients.

    Raises:
        ValueError: a budget or a count that means nothing.

    Example:
        `{type: adaptive, norm: Linf, eps: 8/255}` in a suite.
    """

    version = 1

    def __init__(
        self, norm: Norm, eps: Quantity, steps: int = 40, rounds: int = 4, votes: int = 8, proposals: int = 100
    ) -> None:
        super().__init__()
        for name, count, least in (("steps", steps, 2), ("rounds", rounds, 0), ("votes", votes, 1)):
            if count < least:
                raise ValueError(f"{name} is {count}; it must be at least {least}")
        self.threat: Pixels = ball(norm, eps)
        self.steps, self.rounds, self.votes, self.proposals = steps, rounds, votes, proposals

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Adversarial:
        """The candidate of each image that fresh draws misclassify most often, with a remark on every stage."""
        search = _Search(self, target, x, y)
        for place in range(len(search.views)):
            search.try_view(place)
        for number in range(self.rounds):
            search.go_on(number)
        search.without_gradient()
        return Adversarial(search.kept.images, remarks=search.remarks())

    def views(self) -> frozenset[Gradient]:
        return frozenset({"exact"})

    def cost(self, num_classes: int) -> Cost:
        """Of an image that never falls, on a defense that has every view, whose gradients are as noisy as can be."""
        climbs = len(ORDER) + self.rounds
        gradients = self.steps * (len(ORDER) + MOST_DRAWS * self.rounds)
        looks = self.votes * (1 + 3 * climbs)
        return Cost(gradients + looks + DRAWS * (self.proposals + 1), gradients)

    def describe(self) -> str:
        return f"adaptive, {self.steps} steps a view, {self.rounds} more rounds"


def views_of(defense: Defense) -> tuple[Gradient, ...]:
    """The views in which a defense's gradients differ, in the order in which they are tried."""
    if type(defense).purify is Defense.purify:
        return ("exact",)
    return tuple(view for view in ORDER if missing(defense, view) is None)


class _Search:
    """What is known of each image in one search.

    fell: the stage after which all draws of an image were misclassified, or None; gained: by view, how much the first
    climb along it raised the mean margin; draws: by view, per gradient; alive: some view had a gradient;
    idle: climbs without a gain since the last one. All (N,), or (V, N).
    """

    def __init__(self, attack: Adaptive, target: Target, x: Tensor, y: Tensor) -> None:
        self.attack, self.target, self.x, self.y = attack, target, x, y
        self.views = views_of(target.defense)
        self.kept = Candidates(target.with_view(gradient="exact", eot=1, tag=0), x, y, attack.votes)
        shape = len(self.views), len(x)
        self.gained = torch.full(shape, -torch.inf, device=x.device)
        self.draws = torch.ones(shape, dtype=torch.int64, device=x.device)
        self.alive = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.idle = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self._asked: dict[tuple[int, int], Target] = {}
        self.stages: list[str] = []
        self.fell: list[str | None] = [None] * len(x)
        self._done(NO_ATTACK)

    def try_view(self, place: int) -> None:
        """A climb along one view, with one draw per gradient; the first from a random start."""
        rows = self.kept.standing()
        if len(rows):
            start = self.kept.images[rows] if place else self._random(rows, 0)
            before = self.kept.score.take(rows).mean_margin
            ended = self._climb(place, 1, rows, start, FIRST, rival=None)
            score, _ = self.kept.challenge(ended.images, rows)
            self.alive[rows] |= ended.alive
            self.gained[place, rows] = torch.where(ended.alive, score.mean_margin - before, -torch.inf)
            self.draws[place, rows] = draws_needed(ended.cosine)
        self._done(self.views[place])

    def go_on(self, number: int) -> None:
        """A further climb of each image along the view that gained it most: on from the image kept, or from afar."""
        rows = self.kept.standing()
        rows = rows[self.alive[rows] & (self.idle[rows] < PATIENCE)]
        best = self.gained.argmax(0)
        for place in range(len(self.views)):
            for draws in range(1, MOST_DRAWS + 1):
                some = rows[(best[rows] == place) & (self.draws[place, rows] == draws)]
                if len(some):
                    self._go_on(number, place, draws, some)
        self._done("more climbs")

    def _go_on(self, number: int, place: int, draws: int, rows: Tensor) -> None:
        afar = number % 2 == 1
        start = self._random(rows, number) if afar else self.kept.images[rows]
        ended = self._climb(place, draws, rows, start, FIRST if afar else AGAIN, rival=1 if afar else None)
        _, kept = self.kept.challenge(ended.images, rows)
        self.idle[rows] = torch.where(kept, 0, self.idle[rows] + 1)
        self.draws[place, rows] = draws_needed(ended.cosine)

    def without_gradient(self) -> None:
        """Proposals for the images of which no view had a gradient."""
        rows = self.kept.standing()
        rows = rows[~self.alive[rows]]
        if len(rows) and self.attack.proposals:
            seeds = fold(self.target.seeds[rows], _PROPOSALS)
            images, x, y = self.kept.images[rows], self.x[rows], self.y[rows]
            found = propose(self.kept.judge, x, images, rows, y, self.attack.threat, self.attack.proposals, seeds)
            self.kept.challenge(found, rows)
            self._done("proposals without a gradient")

    def remarks(self) -> tuple[tuple[str, ...], ...]:
        """Of each image, the stage that it fell to, or all that it withstood."""
        withstood = f"withstood {', '.join(self.stages[1:])}"
        told = {None: withstood, NO_ATTACK: NO_ATTACK}
        return tuple((told.get(fell, f"fell to {fell}"),) for fell in self.fell)

    def _climb(self, place: int, draws: int, rows: Tensor, start: Tensor, size: float, rival: int | None) -> Climb:
        """rival: which of them to aim at, by strength at the image kept; all that are likely, if left out."""
        score, y, threat = self.kept.score.take(rows), self.y[rows], self.attack.threat
        allowed = torch.ones_like(score.logits, dtype=torch.bool)
        if rival is not None:
            ranked = rivals(score.logits, y)
            allowed = torch.zeros_like(allowed).scatter(1, ranked[:, [rival % ranked.shape[1]]], True)
        return climb(
            self._view(place, draws),
            self.x[rows],
            start,
            rows,
            y,
            score.logits / score.draws[:, None],
            allowed,
            threat,
            steps=self.attack.steps,
            size=size * float(threat.eps),
        )

    def _view(self, place: int, draws: int) -> Target:
        if (place, draws) not in self._asked:
            self._asked[place, draws] = self.target.with_view(
                gradient=self.views[place], eot=draws, tag=1 + place * MOST_DRAWS + draws
            )
        return self._asked[place, draws]

    def _random(self, rows: Tensor, number: int) -> Tensor:
        x, seeds = self.x[rows], fold(self.target.seeds[rows], _START, number)
        return self.attack.threat.random(x, uniform(fold(seeds, 0), x.shape[1:]), normal(fold(seeds, 1), x.shape[1:]))

    def _done(self, stage: str) -> None:
        """Notes which images fell to a stage."""
        if stage not in self.stages:
            self.stages.append(stage)
        standing = set(self.kept.standing().tolist())
        for row, fell in enumerate(self.fell):
            if fell is None and row not in standing:
                self.fell[row] = stage
