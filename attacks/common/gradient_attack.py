"""What gradient attacks share: restarts, images that leave once misclassified, the strongest iterate of each image.

An attack defines how one restart climbs, that is, follows the gradient of a loss (`run_restart`), and how its restarts
differ (`restart_plan`). A restart begins at a random point of the budget, or at the image, and queries the target for
the loss, its gradient and the logits at one iterate after another. The attack returns the iterate of largest margin
max_{j != y} z_j - z_y among all that were evaluated.
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
    clearly_misclassified,
    loss_of,
    margin,
    rivals,
)
from attacks.common.targets import gradients_to_order, nearest_first
from harness.attack import Adversarial, Attack, Cost
from harness.defense import Defense
from harness.gradients import Gradient
from harness.guard.doubt import in_doubt
from harness.process import waits
from harness.randomness import derive, fold, normal, uniform
from harness.target import Step, Target
from harness.threat import Pixels

NO_GRADIENT = in_doubt("the gradient was zero throughout")
"""The remark on an image that withstood because of that."""

_START = derive("pgd", "random start")


@dataclass(frozen=True)
class Restart:
    """One start, and what is maximised from there: the loss, less `energy` times the defense's energy (paper Eq. 10).

    Attributes:
        start: the number of the start, from which its random point follows.
        rival: the rival that a targeted loss aims at; 0 is the strongest on the clean image.
        energy: the weight of the energy.
    """

    start: int = 0
    rival: int = 0
    energy: float = 0.0


class GradientAttack(Attack):
    """Base of gradient attacks within a pixel budget.

    On a deterministic defense an image leaves the batch as soon as the whole defense misclassifies it. On a stochastic
    one no image leaves, since one lucky draw proves nothing; the best iterate is then the one of largest margin of the
    mean logits over the `eot` draws.

    With `gradient: blind` the logits of the whole defense cost one more forward pass per step while images may leave.

    Args:
        threat: the budget.
        loss: what is maximised, see `attacks.common.losses`.
        restarts: independent starts; later ones attack only images that are not yet misclassified, where
            `early_stop` applies.
        random_start: start at a random point of the ball instead of at the image.
        early_stop: let images leave the batch once they are misclassified (deterministic defenses only).
        gradient, eot: the view of the defense, see `harness.attack.Attack`.

    Raises:
        ValueError: a count or a combination of arguments is invalid.
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
        """Takes `steps` gradient steps, evaluates the last iterate too, and hands every iterate to `best`.

        Args:
            x: clean images, (N, C, H, W).
            start: (M, C, H, W), within the budget of the images `rows` (M,).
            objective: gives loss, gradient and logits at an iterate.
            stops: whether images leave once they are misclassified.
        """

    def restart_plan(self) -> Iterator[Restart]:
        """The restarts, in order."""
        return (Restart(restart, restart) for restart in range(self.restarts))

    def objective(self, defense: Defense, x: Tensor, y: Tensor, aim: Tensor | None) -> RowLoss:
        """What is maximised, apart from the energy: `loss`, for images x (N, C, H, W) with labels y (N,).

        Args:
            aim: the target classes (N,) of a targeted loss.
        """
        return loss_of(self.loss, y, aim)

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor | Adversarial:
        """The strongest iterate of each image.

        An image that withstood with a gradient of zero at every step was not attacked at all: its remark says so.
        """
        stops = self.early_stop and not target.defense.stochastic
        aims = self._aims(target, x, y)
        best = BestIterates.of(x, y)
        for tried in self.restart_plan():
            rows = waits.rows(~best.misclassified) if stops else torch.arange(len(x), device=x.device)
            if not len(rows):
                break
            aim = None if aims is None else aims[:, tried.rival % aims.shape[1]]
            start = self._start(x[rows], fold(target.seeds[rows], _START, tried.start))
            loss = self.objective(target.defense, x, y, aim)
            real, every = stops and self.looks_elsewhere(), self.loss in EVERY_CLASS
            objective = self.objective_at(target, Objective(target, loss, tried.energy, real, every), y)
            self.run_restart(best, x, start, rows, objective, stops)
        remarks = best.remarks()
        return Adversarial(best.images, remarks=remarks) if any(remarks) else best.images

    def cost(self, num_classes: int) -> Cost:
        """The cost of an image that is never misclassified. On a deterministic defense, one that is costs less."""
        forwards = self.eot if self.loss in TARGETED else 0
        backwards = self.eot * gradients_to_order(num_classes) if self.loss in MALT else 0
        forwards += backwards
        for tried in self.restart_plan():
            gradients = self.eot * self.steps * (2 if tried.energy else 1)
            checks = self.steps if self.looks_elsewhere() and self.early_stop else 0
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

    def looks_elsewhere(self) -> bool:
        """Whether the view that is differentiated has other logits than the defense, which must then be asked too."""
        return self.gradient == "blind"

    def objective_at(self, target: Target, plain: Objective, y: Tensor) -> Objective:
        """How a restart gets losses and gradients: `plain`, unless overridden. y: labels of the target's images."""
        return plain

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
    """Gives a restart the loss, its gradient and the logits at its iterates, by queries to the target.

    Args:
        loss: (logits (B, K), rows (B,)) -> (B,).
        energy: weight of the defense's energy, which is subtracted from the loss.
        real: logits are those of the whole defense, whichever view the gradient is taken through.
        every_class: the loss has a derivative in every logit, see `Target.step`.
    """

    target: Target
    loss: RowLoss
    energy: float
    real: bool
    every_class: bool = False

    def step(self, images: Tensor, rows: Tensor) -> Step:
        """Loss, gradient and logits at images (M, C, H, W) that belong to `rows` (M,)."""
        step = self.target.step(images, rows, self.loss, energy=self.energy, every_class=self.every_class)
        return replace(step, logits=self.target.defense_logits(images, rows)) if self.real else step

    def logits(self, images: Tensor, rows: Tensor) -> Tensor:
        """Logits (M, K) alone."""
        return (self.target.defense_logits if self.real else self.target)(images, rows)


@dataclass
class BestIterates:
    """The strongest iterate of each image so far, and what is known about it.

    Attributes:
        y: labels, (N,).
        images: the iterates, (N, C, H, W).
        margins: their margins, (N,), -inf before the first iterate.
        misclassified: whether any margin was positive by more than rounding, (N,) bool.
        queried: whether a gradient was computed, (N,) bool.
        alive: whether one of them was not zero, (N,) bool.
    """

    y: Tensor
    images: Tensor
    margins: Tensor
    misclassified: Tensor
    queried: Tensor
    alive: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> BestIterates:
        no = torch.zeros_like(y, dtype=torch.bool)
        lowest = torch.full_like(y, -torch.inf, dtype=x.dtype)
        return cls(y, x.clone(), lowest, *(no.clone() for _ in range(3)))

    def learn(self, images: Tensor, rows: Tensor, step: Step) -> None:
        """Records iterates and their gradients. images: (M, C, H, W), which belong to the images `rows` (M,)."""
        self.queried[rows] = True
        self.alive[rows] |= step.grad.flatten(1).any(1)
        self.update(images, rows, step.logits)

    def update(self, images: Tensor, rows: Tensor, logits: Tensor) -> None:
        """Records iterates of which only the logits, (M, K), are known."""
        better = self.keep(images, rows, margin(logits, self.y[rows]))
        self.misclassified[rows] |= better & clearly_misclassified(logits, self.y[rows])

    def keep(self, images: Tensor, rows: Tensor, margins: Tensor) -> Tensor:
        """Keeps those of the images (M, C, H, W) whose margins (M,) are the largest so far.

        Args:
            rows: the images that they are iterates of, (M,), each at most once.

        Returns:
            Which were kept, (M,) bool.
        """
        before = self.margins[rows]
        better = margins >= before  # the later of equals: it has climbed further in the attack's view
        self.images[rows] = images.where(column(better, images), self.images[rows])
        self.margins[rows] = margins.to(before).where(better, before)
        return better

    def remarks(self) -> tuple[tuple[str, ...], ...]:
        """Of each image, that it withstood because every gradient was zero, or nothing.

        Misclassified images do not count: their gradient may be zero at a maximum.
        """
        dead = waits.on_host(self.queried & ~self.alive & (self.margins <= 0)).tolist()
        return tuple((NO_GRADIENT,) if each else () for each in dead)


def column(values: Tensor, like: Tensor) -> Tensor:
    """(N,) -> (N, 1, 1, 1), as many dimensions as `like` has."""
    return values.view(-1, *[1] * (like.dim() - 1))
