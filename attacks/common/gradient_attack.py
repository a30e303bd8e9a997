"""What attacks that climb a loss share: restarts, images that leave once fooled, the strongest iterate of each.

An attack says how one restart climbs (`run_restart`), and how its restarts differ (`restart_plan`). A restart begins
at a random point of the budget, or at the image, and asks the target for a loss, its gradient and the logits at one
iterate after another. Returned is the iterate of largest margin max_{j != y} z_j - z_y among all that were evaluated.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.common.losses import (
    EVERY_CLASS,
    FEWEST_CLASSES,
    LOSSES,
    MALT,
    TARGETED,
    LossName,
    RowLoss,
    clearly_fooled,
    loss_of,
    margin,
    rivals,
)
from attacks.common.targets import gradients_to_order, nearest_first
from harness.attack import Adversarial, Attack, Cost
from harness.defense import Defense
from harness.gradients import Gradient
from harness.guard.doubt import in_doubt
from harness.randomness import derive, fold, normal, uniform
from harness.target import Step, Target
from harness.threat import Pixels

_START = derive("pgd", "random start")


@dataclass(frozen=True)
class Restart:
    """One start and what is climbed from there: the loss, less `energy` times the defense's energy (paper Eq. 10).

    rival: of a targeted loss, which rival it aims at: 0 is the strongest on the clean image.
    """

    start: int = 0
    rival: int = 0
    energy: float = 0.0


class GradientAttack(Attack):
    """Base of gradient attacks within a pixel budget.

    On a deterministic defense an image leaves the batch as soon as the real defense misclassifies it. On a stochastic
    one no image does, since one lucky draw proves nothing; the best iterate is then the one of largest margin of the
    mean logits over the `eot` draws.

    With `gradient: blind` the defense's real answer costs one more forward pass per step while images may stop early.

    Args:
        threat: the budget.
        loss: what is maximised, see `attacks.common.losses`.
        restarts: rounds with starts of their own; later ones attack only the images still standing.
        random_start: start at a random point of the ball instead of at the image.
        early_stop: let images leave the batch once fooled (deterministic defenses only).
        gradient, eot: the view of the defense, see `harness.attack.Attack`.

    Raises:
        ValueError: a count or a combination that means nothing.
    """

    threat: Pixels

    def __init__(
        self,
        threat: Pixels,
        *,
        steps: int,
        loss: LossName,
        restarts: int,
        random_start: bool,
        early_stop: bool,
        gradient: Gradient,
        eot: int,
    ) -> None:
        super().__init__(gradient=gradient, eot=eot)
        if steps < 1 or restarts < 1:
            raise ValueError(f"steps and restarts must be at least 1, not {steps} and {restarts}")
        if restarts > 1 and not random_start and loss not in TARGETED:
            raise ValueError(f"{restarts} restarts from one point would all be the same; set random_start: true")
        if loss not in (*LOSSES, *TARGETED):
            raise ValueError(f"loss is '{loss}'; valid losses: {', '.join((*LOSSES, *TARGETED))}")
        self.threat, self.steps, self.loss, self.restarts = threat, steps, loss, restarts
        self.random_start, self.early_stop = random_start, early_stop

    @abstractmethod
    def run_restart(
        self, best: BestIterates, x: Tensor, start: Tensor, rows: Tensor, objective: Objective, stops: bool
    ) -> None:
        """One round of `steps` gradients and one last look. Tells `best` of every iterate that it asks about.

        Args:
            x: clean images, (N, C, H, W).
            start: (M, C, H, W), within the budget of the images `rows` (M,).
            stops: images leave once `best` has them fooled.
        """

    def restart_plan(self) -> Iterator[Restart]:
        """What is climbed, in order."""
        return (Restart(restart, restart) for restart in range(self.restarts))

    def objective(self, defense: Defense, x: Tensor, y: Tensor, aim: Tensor | None) -> RowLoss:
        """What is maximised, less the energy of a round: `loss`, of images x (N, C, H, W) with labels y (N,).

        Args:
            aim: of a targeted loss, the target classes (N,).
        """
        return loss_of(self.loss, y, aim)

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor | Adversarial:
        """The strongest iterate of each image.

        A flag tells of images that withstood with a gradient of zero throughout: they were not attacked at all.
        """
        stops = self.early_stop and not target.defense.stochastic
        aims = self._aims(target, x, y)
        best = BestIterates.of(x, y)
        for tried in self.restart_plan():
            rows = (~best.fooled).nonzero().squeeze(1) if stops else torch.arange(len(x), device=x.device)
            if not len(rows):
                break
            aim = None if aims is None else aims[:, tried.rival % aims.shape[1]]
            start = self._start(x[rows], fold(target.seeds[rows], _START, tried.start))
            loss = self.objective(target.defense, x, y, aim)
            real, every = stops and self.gradient == "blind", self.loss in EVERY_CLASS
            objective = Objective(target, loss, tried.energy, real, every)
            self.run_restart(best, x, start, rows, objective, stops)
        flags = best.remarks()
        return Adversarial(best.images, flags=flags) if flags else best.images

    def cost(self, num_classes: int) -> Cost:
        """Of an image that is never fooled; on a deterministic defense one that is fooled costs less."""
        forwards = self.eot if self.loss in TARGETED else 0
        backwards = self.eot * gradients_to_order(num_classes) if self.loss in MALT else 0
        forwards += backwards
        for tried in self.restart_plan():
            gradients = self.eot * self.steps * (2 if tried.energy else 1)
            checks = self.steps if self.gradient == "blind" and self.early_stop else 0
            forwards, backwards = forwards + gradients + self.eot + checks, backwards + gradients
        return Cost(forwards, backwards)

    def unsuitable(self, defense: Defense) -> str | None:
        known, needed = defense.num_classes, FEWEST_CLASSES.get(self.loss, 2)
        if known is not None and known < needed:
            return f"the {self.loss} loss needs at least {needed} classes, not {known}; use loss: margin"
        return super().unsuitable(defense)

    def describe(self) -> str:
        restarts = f", {self.restarts} restarts" if self.restarts > 1 else ""
        return f"{super().describe()}, {self.steps} steps{restarts}, {self.loss} loss"

    def _aims(self, target: Target, x: Tensor, y: Tensor) -> Tensor | None:
        """Of a targeted loss, the classes that it aims at in order, (N, K - 1)."""
        if self.loss in MALT:
            return nearest_first(target, x, y, self.threat)
        return rivals(target(x, torch.arange(len(x), device=x.device)), y) if self.loss in TARGETED else None

    def _start(self, x: Tensor, seeds: Tensor) -> Tensor:
        if not self.random_start:
            return x
        return self.threat.random(x, uniform(fold(seeds, 0), x.shape[1:]), normal(fold(seeds, 1), x.shape[1:]))


@dataclass(frozen=True)
class Objective:
    """What a round asks of the target.

    Args:
        loss: (logits (B, K), rows (B,)) -> (B,).
        energy: weight of the defense's energy, which is subtracted from the loss.
        real: logits are the defense's own, whatever view the gradient is of.
        every_class: the loss has a derivative in every logit, see `Target.step`.
    """

    target: Target
    loss: RowLoss
    energy: float
    real: bool
    every_class: bool = False

    def step(self, images: Tensor, rows: Tensor) -> Step:
        step = self.target.step(images, rows, self.loss, energy=self.energy, every_class=self.every_class)
        return replace(step, logits=self.target.defense_logits(images, rows)) if self.real else step

    def logits(self, images: Tensor, rows: Tensor) -> Tensor:
        return (self.target.defense_logits if self.real else self.target)(images, rows)


@dataclass
class BestIterates:
    """The strongest iterate seen of each image, and what is known about it. y: labels (N,).

    images: (N, C, H, W); margins: (N,), -inf before the first iterate; fooled: (N,), the margin is clearly positive;
    asked, alive: (N,), a gradient was seen, and one that was not zero.
    """

    y: Tensor
    images: Tensor
    margins: Tensor
    fooled: Tensor
    asked: Tensor
    alive: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> BestIterates:
        no = torch.zeros_like(y, dtype=torch.bool)
        lowest = torch.full_like(y, -torch.inf, dtype=x.dtype)
        return cls(y, x.clone(), lowest, *(no.clone() for _ in range(3)))

    def learn(self, images: Tensor, rows: Tensor, step: Step) -> None:
        """images: (M, C, H, W), iterates of the images `rows` (M,), with what the target said of them."""
        self.asked[rows] = True
        self.alive[rows] |= step.grad.flatten(1).any(1)
        self.update(images, rows, step.logits)

    def update(self, images: Tensor, rows: Tensor, logits: Tensor) -> None:
        """The same with nothing but logits, (M, K)."""
        margins = margin(logits, self.y[rows])
        better = margins >= self.margins[rows]  # of equals the later: it has climbed further in the attack's own view
        rows, margins = rows[better], margins[better]
        self.images[rows], self.margins[rows] = images[better], margins.to(self.margins)
        self.fooled[rows] |= clearly_fooled(logits[better], self.y[rows])

    def remarks(self) -> tuple[str, ...]:
        """Of images that withstood because there was nothing to climb. One that was fooled may rest on a flat top."""
        dead = int((self.asked & ~self.alive & (self.margins <= 0)).sum())
        return (in_doubt(f"the gradient was zero throughout on {dead} of {len(self.y)} images"),) if dead else ()


def column(values: Tensor, like: Tensor) -> Tensor:
    """(N,) -> (N, 1, 1, 1), as many dimensions as `like` has."""
    return values.view(-1, *[1] * (like.dim() - 1))
