"""An attack for defenses that are random or move the image: every view of their gradient, on what still stands.

1. The defense's answers to the clean images: those misclassified in every draw need no attack.
2. A short climb from a random start along each view that the defense has, in the order of `views_of`. How noisy its
   gradients are is measured on the way, see `attacks.common.noisy_climb`.
3. Climbs along the view that led an image furthest, from the image kept so far, each twice as long as the one before,
   with as many draws per gradient as their cosine asks for: on noisy gradients one long climb reaches further than
   many short ones. After a climb that brought an image nothing, its next best view is taken; where there is no other,
   another random start. An image stops after `PATIENCE` such climbs in a row.
4. Where no view had a gradient: proposals judged by fresh draws (`attacks.common.proposals`).

Kept is, of all that climbs ended at, what fresh draws of the defense misclassify most often, never what one draw made
look strong (`attacks.common.candidates`). An image of which all draws are misclassified leaves. Each image goes its own
way through this: none depends on the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from attacks.common.candidates import Candidates, Score
from attacks.common.noisy_climb import AVERAGED, MOST_DRAWS, climb, draws_needed
from attacks.common.norms import Norm, ball
from attacks.common.proposals import DRAWS, propose
from harness.attack import Adversarial, Attack, Cost
from harness.config.caps import CAPS
from harness.defense import Defense
from harness.gradients import Gradient, missing
from harness.guard.doubt import least_cosine_averaging
from harness.quantity import Quantity
from harness.randomness import derive, fold, normal, uniform
from harness.search import Search
from harness.target import Target
from harness.threat import Pixels

ORDER: tuple[Gradient, ...] = ("bpda", "tanh", "straight_through", "exact", "blind")
"""Of the views, the promising and the cheap ones first."""

NARROW = Search(
    timesteps=0.3, importance=True, purify_timesteps=0.5, rivals=4, look_every=20, common_noise=True, precision="bf16"
)
"""What diffusion classifiers leave out while a climb asks them, and nowhere else: see `harness.search`."""

AFAR, NEAR = 0.5, 0.25
"""Lengths of the first step, in shares of eps: of a climb from a random start, and from the image kept."""

SHORT = 3
"""A climb that only compares views is shorter by this factor."""

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
        steps: gradients of the climbs that compare views, if there are not several: then they are shorter by `SHORT`.
        rounds: climbs of an image after the views were compared, at most. The first takes twice `steps` gradients, and
            each further one twice as many as the one before; n draws per gradient count as n.
        votes: draws that an image is judged by, see `attacks.common.candidates`; one, of a deterministic defense.
        proposals: tries of the stage without gradients.
        narrow: climb on some of a diffusion classifier's timesteps, drawn anew at each step, on its likely classes,
            and in half precision: see `NARROW`.

    Raises:
        ValueError: a budget or a count that means nothing.

    Example:
        `{type: adaptive, norm: Linf, eps: 8/255}` in a suite.
    """

    version = 2
    caps: ClassVar[Mapping[str, int]] = {**CAPS, "votes": 2, "proposals": 2}

    def __init__(
        self,
        norm: Norm,
        eps: Quantity,
        steps: int = 80,
        rounds: int = 2,
        votes: int = 6,
        proposals: int = 100,
        narrow: bool = True,
    ) -> None:
        super().__init__()
        for name, count, least in (
            ("steps", steps, 2),
            ("rounds", rounds, 0),
            ("votes", votes, 1),
            ("proposals", proposals, 0),
        ):
            if count < least:
                raise ValueError(f"{name} is {count}; it must be at least {least}")
        self.threat: Pixels = ball(norm, eps)
        self.steps, self.rounds, self.votes, self.proposals, self.narrow = steps, rounds, votes, proposals, narrow

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Adversarial:
        """The candidate of each image that fresh draws misclassify most often, with a remark on every stage."""
        search = _Search(self, target, x, y)
        for place in range(len(search.views)):
            search.compare(place)
        for number in range(self.rounds):
            search.go_on(number)
        search.without_gradient()
        return Adversarial(search.kept.images, remarks=search.remarks())

    def views(self) -> frozenset[Gradient]:
        return frozenset({"exact"})

    def least_cosine(self) -> float:
        """Climbs take as many draws as the noise asks for, up to `MOST_DRAWS`."""
        return least_cosine_averaging(MOST_DRAWS * AVERAGED)

    def cost(self, num_classes: int) -> Cost:
        """Of an image that never falls, on a defense that has every view and leaves nothing out in a search."""
        climbs = len(ORDER) + self.rounds
        gradients = max(self.steps, len(ORDER) * self.short) + self.gradients
        looks = self.votes * (1 + 4 * climbs)
        return Cost(gradients + looks + DRAWS * (self.proposals + 1), gradients)

    @property
    def short(self) -> int:
        """Steps of a climb that only compares views."""
        return max(2, self.steps // SHORT)

    @property
    def gradients(self) -> int:
        """Gradients of all climbs after the views were compared."""
        return sum(self.length(number) for number in range(self.rounds))

    def length(self, number: int) -> int:
        """Steps of the climb `number` after the views were compared."""
        return self.steps * 2 ** (1 + number)

    def describe(self) -> str:
        return f"adaptive, climbs of up to {self.length(self.rounds - 1)} steps"


def views_of(defense: Defense) -> tuple[Gradient, ...]:
    """The views in which a defense's gradients differ, in the order in which they are tried.

    Left out is `adjoint`, which approximates the exact gradient at its cost.
    """
    if type(defense).purify is Defense.purify:
        return ("exact",)
    return tuple(view for view in ORDER if missing(defense, view) is None)


class _Search:
    """What is known of each image in one search.

    By view, (V, N): level, the mean bounded margin that the first climb along it reached; draws, per gradient; alive,
    it had a gradient that was not zero. Of each image, (N,): idle, climbs in a row that brought nothing; fell, the
    stage after which all draws were misclassified, or None; left, gradients that it may still have.
    """

    def __init__(self, attack: Adaptive, target: Target, x: Tensor, y: Tensor) -> None:
        self.attack, self.target, self.x, self.y = attack, target, x, y
        self.views = views_of(target.defense)
        self.kept = Candidates(target.with_view(gradient="exact", eot=1, tag=0), x, y, attack.votes)
        shape = len(self.views), len(x)
        self.level = torch.full(shape, -torch.inf, device=x.device)
        self.draws = torch.ones(shape, dtype=torch.int64, device=x.device)
        self.alive = torch.zeros(shape, dtype=torch.bool, device=x.device)
        self.idle = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.left = torch.full_like(self.idle, attack.gradients)
        self._asked: dict[tuple[int, int], Target] = {}
        self.stages: list[str] = []
        self.fell: list[str | None] = [None] * len(x)
        self._done(NO_ATTACK)

    def compare(self, place: int) -> None:
        """A climb along one view, with one draw per gradient; a short one, unless there is no other view."""
        rows = self.kept.standing()
        if len(rows):
            steps = self.attack.steps if len(self.views) == 1 else self.attack.short
            score = self._climb(place, 1, rows, self._random(rows, 0), AFAR, steps)[0]
            self.level[place, rows] = score.level.where(self.alive[place, rows], -torch.inf)
        self._done(self.views[place])

    def go_on(self, number: int) -> None:
        """A climb of each image that may still gain by one."""
        rows, steps = self.kept.standing(), self.attack.length(number)
        rows = rows[self.alive.any(0)[rows] & (self.idle[rows] < PATIENCE) & (self.left[rows] >= steps)]
        turns = self.idle % self.alive.sum(0).clamp(min=1)
        places = self.level.argsort(dim=0, descending=True, stable=True).gather(0, turns[None])[0]
        for place, draws in product(range(len(self.views)), range(1, MOST_DRAWS + 1)):
            affordable = torch.minimum(self.draws[place, rows], self.left[rows] // steps)
            some = rows[(places[rows] == place) & (affordable == draws)]
            again = (self.idle[some] > 0) & (self.alive.sum(0)[some] == 1)
            for afar in (False, True):
                if len(chosen := some[again == afar]):
                    self._go_on(number, place, draws, chosen, afar=afar)
        self._done("longer climbs")

    def _go_on(self, number: int, place: int, draws: int, rows: Tensor, *, afar: bool) -> None:
        start = self._random(rows, 1 + number) if afar else self.kept.images[rows]
        _, kept = self._climb(place, draws, rows, start, AFAR if afar else NEAR, self.attack.length(number))
        self.idle[rows] = torch.where(kept, 0, self.idle[rows] + 1)
        self.left[rows] -= draws * self.attack.length(number)

    def without_gradient(self) -> None:
        """Proposals for the images of which no view had a gradient."""
        rows = self.kept.standing()
        rows = rows[~self.alive.any(0)[rows]]
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

    def _climb(
        self, place: int, draws: int, rows: Tensor, start: Tensor, size: float, steps: int
    ) -> tuple[Score, Tensor]:
        """Where a climb ended against the images kept: its score, and which took their place, see `Candidates`."""
        threat, view = self.attack.threat, self._view(place, draws)
        x, y, scale, length = self.x[rows], self.y[rows], self.kept.scale[rows], size * float(threat.eps)
        ended = climb(view, x, start, rows, y, scale, threat, steps=steps, size=length)
        self.alive[place, rows] |= ended.alive
        self.draws[place, rows] = draws_needed(ended.cosine)
        return self.kept.challenge(ended.images, rows)

    def _view(self, place: int, draws: int) -> Target:
        if (place, draws) not in self._asked:
            tag, search = 1 + place * MOST_DRAWS + draws, NARROW if self.attack.narrow else None
            self._asked[place, draws] = self.target.with_view(
                gradient=self.views[place], eot=draws, tag=tag, search=search, labels=self.y
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
