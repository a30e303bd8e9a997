"""An attack for defenses that are random or move the image: every view of their gradient, on what still stands.

1. The defense's answers to the clean images: those misclassified in every draw need no attack.
2. A short climb along each view that the defense has, in the order of `views_of` (`attacks.common.noisy_climb`). How
   noisy its gradients are is measured on the way.
3. Rounds that halve the views and double the climbs: those views go on at whose ends fresh draws found the largest
   bounded margin, from the image kept so far, with as many draws per gradient as their cosine asks for (successive
   halving: Jamieson and Talwalkar, 2016, algorithm 1, of each image by itself). On noisy gradients one long climb
   reaches further than many short ones; a few draws after a short climb do not tell the best view from the second.
4. Where no view had a gradient: proposals judged by fresh draws (`attacks.common.proposals`).

Kept is, of all that climbs ended at, what fresh draws of the defense misclassify most often, never what one draw made
look strong (`attacks.common.candidates`). An image of which all draws are misclassified leaves, see `CERTAIN`. Each
image goes its own way through this: none depends on the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from attacks.common.candidates import CLEAN, Candidates
from attacks.common.noisy_climb import AVERAGED, MOST_DRAWS, climb, draws_needed
from attacks.common.norms import Norm, ball
from attacks.common.proposals import DRAWS, propose
from harness.attack import Adversarial, Attack, Cost
from harness.config.caps import CAPS
from harness.defense import Defense
from harness.gradients import Gradient, missing
from harness.guard.doubt import in_doubt, least_cosine_averaging
from harness.quantity import Quantity
from harness.randomness import derive, fold, normal, uniform
from harness.search import Search, mean_share
from harness.target import Target
from harness.threat import Pixels

ORDER: tuple[Gradient, ...] = ("bpda", "tanh", "straight_through", "exact", "blind")
"""Of the views, the promising and the cheap ones first."""

NARROW = Search(timesteps=0.3, importance=True, purify_timesteps=0.3, rivals=4, look_every=20, common_noise=True)
"""What diffusion classifiers leave out while a climb asks them, and nowhere else: see `harness.search`."""

SIZE = 0.5
"""Length of a climb's first step, in shares of eps."""

CERTAIN = 3
"""An image leaves when so many times `votes` draws were made of it, and all of them were misclassified."""

DETERMINISTIC = in_doubt("adaptive: made for noisy defenses; on deterministic networks AutoAttack leaves less")
"""Measured on adversarially trained networks, see benchmarks/RESULTS.md."""

NO_ATTACK = "misclassified without an attack"
PROPOSALS = "proposals without a gradient"

_START = derive("adaptive", "random start")
_PROPOSALS = derive("adaptive", "proposals")


class Adaptive(Attack):
    """Momentum climbs along every view of a defense's gradient, judged by misclassification rates of fresh draws.

    The preset is meant for every defense; what differs between defenses is measured, see the module's head. The remark
    on an image tells along which view its adversarial image was found, whether or not that one misleads every draw.
    On a deterministic defense AutoAttack is the stronger one, and the number is marked as in doubt.

    Args:
        norm, eps: the budget, on the [0, 1] scale.
        steps: gradients of a climb of the first round; those of each further round take twice as many.
        rounds: how many rounds there are, at most.
        votes: half the fresh draws of each image that a climb of the first two rounds ended at; three times as many
            decide in the third round, four times as many in the fourth, and so on. One, of a deterministic defense.
        proposals: tries of the stage without gradients.
        narrow: climb on some of a diffusion classifier's timesteps, drawn anew at each step, and on its likely
            classes: see `NARROW`.

    Raises:
        ValueError: a budget or a count that means nothing.

    Example:
        `{type: adaptive, norm: Linf, eps: 8/255}` in a suite.
    """

    version = 4
    independent = True
    caps: ClassVar[Mapping[str, int]] = {**CAPS, "votes": 2, "proposals": 2}

    def __init__(
        self,
        norm: Norm,
        eps: Quantity,
        steps: int = 16,
        rounds: int = 4,
        votes: int = 4,
        proposals: int = 100,
        narrow: bool = True,
    ) -> None:
        super().__init__()
        for name, count, least in (
            ("steps", steps, 2),
            ("rounds", rounds, 1),
            ("votes", votes, 1),
            ("proposals", proposals, 0),
        ):
            if count < least:
                raise ValueError(f"{name} is {count}; it must be at least {least}")
        self.threat: Pixels = ball(norm, eps)
        self.steps, self.rounds, self.votes, self.proposals, self.narrow = steps, rounds, votes, proposals, narrow

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Adversarial:
        """The candidate of each image that fresh draws misclassify most often, with a remark on where it was found."""
        search = _Search(self, target, x, y)
        for number in range(self.rounds):
            search.round(number)
        search.without_gradient()
        flags = () if target.defense.stochastic else (DETERMINISTIC,)
        return Adversarial(search.kept.images, flags=flags, remarks=search.remarks())

    def views(self) -> frozenset[Gradient]:
        return frozenset({"exact"})

    def least_cosine(self) -> float:
        """Climbs take as many draws as the noise asks for, up to `MOST_DRAWS`."""
        return least_cosine_averaging(MOST_DRAWS * AVERAGED)

    def cost(self, num_classes: int) -> Cost:
        """Of an image that never falls, on a defense that has every view and leaves nothing out in a search."""
        gradients, looks = self._climbs(len(ORDER))
        return Cost(gradients + looks + DRAWS * self.proposals, gradients)

    def cost_on(self, defense: Defense, num_classes: int) -> Cost:
        """Along the defense's own views, without what its searches leave out; of one that has a gradient."""
        gradients, looks = self._climbs(len(views_of(defense)))
        share = mean_share(defense, NARROW, gradients) if self.narrow else 1.0
        return Cost(share * gradients + looks, share * gradients)

    def _climbs(self, views: int) -> tuple[int, int]:
        """Gradients, and fresh draws, of an image that never falls, on a defense with so many views."""
        climbs = [contenders(views, number) for number in range(self.rounds)]
        gradients = sum(count * self.length(number) for number, count in enumerate(climbs))
        looks = CERTAIN * self.votes + 2 * self.judged(self.rounds - 1)
        return gradients, looks + sum(self.judged(number) * (count + 1) for number, count in enumerate(climbs))

    def length(self, number: int) -> int:
        """Gradients of each climb of a round."""
        return int(self.steps * 2**number)

    def judged(self, number: int) -> int:
        """Fresh draws in a round, of each image."""
        return self.votes * max(2, 1 + number)

    def describe(self) -> str:
        if self.rounds == 1:
            return f"adaptive, 1 round of {self.steps} steps"
        return f"adaptive, {self.rounds} rounds of {self.steps} to {self.length(self.rounds - 1)} steps"


def contenders(views: int, number: int) -> int:
    """Of so many views, those that climb in a round: all, half of them, a quarter, ..., at last one."""
    return max(1, math.ceil(views / 2**number))


def views_of(defense: Defense) -> tuple[Gradient, ...]:
    """The views in which a defense's gradients differ, in the order in which they are tried.

    Left out is `adjoint`, which approximates the exact gradient at its cost, and `exact` where the purification takes a
    sign, whose derivative is zero: what is left of that gradient, `bpda` has.
    """
    if not defense.defines("purify"):
        return ("exact",)
    signs = defense.sign_surrogates()
    return tuple(view for view in ORDER if missing(defense, view) is None and not (signs and view == "exact"))


class _Search:
    """What is known of each image in one search.

    By view, (V, N): level, the mean bounded margin at the end of the latest climb along it; draws, per gradient; alive,
    it had a gradient that was not zero. Of images, by their places: needless, every draw was misclassified without an
    attack; proposed, they met proposals.
    """

    def __init__(self, attack: Adaptive, target: Target, x: Tensor, y: Tensor) -> None:
        self.attack, self.target, self.x, self.y = attack, target, x, y
        self.views = views_of(target.defense)
        self.kept = Candidates(target.with_view(gradient="exact", eot=1, tag=0), x, y, CERTAIN * attack.votes)
        shape = len(self.views), len(x)
        self.level = torch.zeros(shape, device=x.device)
        self.draws = torch.ones(shape, dtype=torch.int64, device=x.device)
        self.alive = torch.ones(shape, dtype=torch.bool, device=x.device)
        self._asked: dict[tuple[int, int], Target] = {}
        self.needless = set(range(len(x))) - set(self.kept.standing().tolist())
        self.proposed: set[int] = set()

    def round(self, number: int) -> None:
        """A climb of each image that still stands, along each of its best views."""
        level = self.level.where(self.alive, -torch.inf)
        rank = level.argsort(dim=0, descending=True, stable=True).argsort(dim=0)
        chosen = self.alive & (rank < contenders(len(self.views), number))
        standing = self.kept.standing()
        if number:  # the first challengers meet the clean images, which were just drawn
            self.kept.renew(standing[chosen.any(0)[standing]], self.attack.judged(number))
        for place in range(len(self.views)):
            standing = self.kept.standing()
            rows = standing[chosen[place, standing]]
            draws = self.draws[place, rows]
            for count in range(1, MOST_DRAWS + 1):
                if len(some := rows[draws == count]):
                    self._climb(number, place, count, some)

    def without_gradient(self) -> None:
        """Proposals for the images of which no view had a gradient."""
        rows = self.kept.standing()
        rows = rows[~self.alive.any(0)[rows]]
        if len(rows) and self.attack.proposals:
            self.proposed.update(rows.tolist())
            seeds = fold(self.target.seeds[rows], _PROPOSALS)
            images, x, y = self.kept.images[rows], self.x[rows], self.y[rows]
            draws = self.attack.judged(self.attack.rounds - 1)
            self.kept.renew(rows, draws)
            found = propose(self.kept.judge, x, images, rows, y, self.attack.threat, self.attack.proposals, seeds)
            self.kept.challenge(found, rows, draws, len(self.views))

    def remarks(self) -> tuple[tuple[str, ...], ...]:
        """Of each image, the search that found the one kept, or all that found none better than the clean image."""
        return tuple((self._remark(row, source),) for row, source in enumerate(self.kept.source.tolist()))

    def _remark(self, row: int, source: int) -> str:
        if row in self.needless:
            return NO_ATTACK
        if source == CLEAN:
            return f"nothing found along {', '.join(self.views)}{f' or by {PROPOSALS}' if row in self.proposed else ''}"
        return f"found along {self.views[source]}" if source < len(self.views) else f"found by {PROPOSALS}"

    def _climb(self, number: int, place: int, draws: int, rows: Tensor) -> None:
        """Climbs along a view, whose ends challenge the images kept. More draws per gradient are paid in steps."""
        threat, view, steps = self.attack.threat, self._view(place, draws), max(2, self.attack.length(number) // draws)
        start = self._random(rows) if number == 0 else self.kept.images[rows]
        x, y, scale, size = self.x[rows], self.y[rows], self.kept.scale[rows], SIZE * float(threat.eps)
        ended = climb(view, x, start, rows, y, scale, threat, steps=steps, size=size)
        self.level[place, rows] = self.kept.challenge(ended.images, rows, self.attack.judged(number), place).level
        self.alive[place, rows] = ended.alive
        self.draws[place, rows] = draws_needed(ended.cosine)

    def _view(self, place: int, draws: int) -> Target:
        if (place, draws) not in self._asked:
            tag, search = 1 + place * MOST_DRAWS + draws, NARROW if self.attack.narrow else None
            self._asked[place, draws] = self.target.with_view(
                gradient=self.views[place], eot=draws, tag=tag, search=search, labels=self.y
            )
        return self._asked[place, draws]

    def _random(self, rows: Tensor) -> Tensor:
        x, seeds = self.x[rows], fold(self.target.seeds[rows], _START)
        return self.attack.threat.random(x, uniform(fold(seeds, 0), x.shape[1:]), normal(fold(seeds, 1), x.shape[1:]))
