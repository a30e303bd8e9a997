"""Auto-PGD (Croce & Hein, 2020, Algorithm 1): gradient ascent that halves its steps where they no longer help.

    z       = P(x_k + eta_k d(g_k))                                     d: sign for Linf, g / ||g||_2 for L2
    x_{k+1} = P(x_k + a (z - x_k) + (1 - a) (x_k - x_{k-1}))            a = 0.75, and 1 in the first step

eta_0 = 2 eps. At the checkpoints w_0 = 0, w_1 = 0.22, w_{j+1} = w_j + max(w_j - w_{j-1} - 0.03, 0.06), in shares of the
steps, eta is halved and the image goes back to where its loss was largest, if since the last checkpoint

    1. fewer than 75% of the steps raised the loss, or
    2. neither eta nor the largest loss have changed.

P is the published projection: for L2 it shrinks to the ball before it clips to [0, 1]. The library's own APGD, which
`autoattack` runs, never stops early, and compares the loss of the very first step with 0 instead of with the loss at
the start. This one works with every loss of `attacks.common.losses`, and with a defense's energy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks.common.gradient_attack import BestIterates, GradientAttack, Objective, column
from attacks.common.losses import LossName
from attacks.common.norms import Norm, ball
from harness.gradients import Gradient
from harness.guard.doubt import least_cosine_judging
from harness.process import waits
from harness.quantity import Quantity
from harness.target import Step
from harness.threat import L1, L2, Pixels

FIRST, SHRINK, SHORTEST = 0.22, 0.03, 0.06
"""Lengths of the spans between checkpoints, in shares of the steps."""

RAISED, MOMENTUM = 0.75, 0.75
"""The share of steps in condition 1, and a."""


class APGD(GradientAttack):
    """Auto-PGD, which has no step size to tune. The defaults are what the reference code of the paper calls AutoAttack.

    Args:
        norm, eps: the budget, on the [0, 1] scale; Linf or L2.
        steps: gradient steps of one restart.
        loss, restarts, random_start, early_stop, gradient, eot: as for `PGD`.

    Raises:
        ValueError: a budget, a count or a combination of arguments is invalid.
    """

    independent = True
    method = "apgd"

    def __init__(
        self,
        norm: Norm,
        eps: Quantity,
        steps: int = 100,
        loss: LossName = "dlr",
        restarts: int = 1,
        random_start: bool = True,
        gradient: Gradient = "exact",
        eot: int = 1,
        early_stop: bool = True,
    ) -> None:
        threat = ball(norm, eps)
        if isinstance(threat, L1):
            raise ValueError("norm is 'L1', for which APGD is another algorithm; use autoattack or pgd")
        super().__init__(
            threat,
            steps=steps,
            loss=loss,
            restarts=restarts,
            random_start=random_start,
            early_stop=early_stop,
            gradient=gradient,
            eot=eot,
        )

    def least_cosine(self) -> float:
        return least_cosine_judging(self.eot)

    def run_restart(
        self, best: BestIterates, x: Tensor, start: Tensor, rows: Tensor, objective: Objective, stops: bool
    ) -> None:
        apgd_steps(best, x, start, rows, objective, self.threat, self.steps, stops)


def apgd_steps(
    best: BestIterates,
    x: Tensor,
    start: Tensor,
    rows: Tensor,
    objective: Objective,
    threat: Pixels,
    steps: int,
    stops: bool,
) -> APGDState:
    """Runs `steps` steps from `start`, and returns the state at the end.

    For the other arguments see `GradientAttack.run_restart`.
    """
    state = APGDState.at(start, rows, objective.step(start, rows), 2 * float(threat.eps))
    spans = _spans(steps)
    left = next(spans)
    for number in range(steps):
        best.learn(state.images, state.rows, state.here)
        if stops:
            state.keep(~best.misclassified[state.rows])
        if not len(state.rows):
            return state
        state.move(x[state.rows], threat, MOMENTUM if number else 1.0)
        if number + 1 == steps:
            break
        state.observe(objective.step(state.images, state.rows))
        left -= 1
        if not left:
            state.check()
            left = next(spans)
    best.update(state.images, state.rows, objective.logits(state.images, state.rows))
    return state


@dataclass
class APGDState:
    """Where each of M images is, was before the last step, and had its largest loss.

    Attributes:
        images, before, top: the present iterate, the one before it, and the one of largest loss; (M, C, H, W).
        rows: the place of each image in the batch, (M,).
        size: eta, (M,).
        here: loss, gradient and logits at `images`.
        loss, grad: the loss (M,) and the gradient (M, C, H, W) at `top`.
        raised: how many of the `taken` steps since the last checkpoint raised the loss, (M,).
        halved, record: whether eta was halved at the last checkpoint, and the largest loss then; (M,).
    """

    images: Tensor
    before: Tensor
    rows: Tensor
    size: Tensor
    top: Tensor
    here: Step
    loss: Tensor
    grad: Tensor
    raised: Tensor
    halved: Tensor
    record: Tensor
    taken: int = 0

    @classmethod
    def at(cls, start: Tensor, rows: Tensor, step: Step, size: float) -> APGDState:
        none, sizes = torch.zeros_like(step.loss), torch.full_like(step.loss, size)
        return cls(start, start, rows, sizes, start, step, step.loss, step.grad, none, none == 0, step.loss)

    def observe(self, step: Step) -> None:
        """Takes the loss, gradient and logits at `images`, and updates which iterate is the best."""
        higher = step.loss > self.loss
        self.raised, self.taken = self.raised + (step.loss > self.here.loss), self.taken + 1
        self.top = self.images.where(column(higher, self.top), self.top)
        self.grad = step.grad.where(column(higher, self.grad), self.grad)
        self.loss = step.loss.where(higher, self.loss)
        self.here = step

    def move(self, x: Tensor, threat: Pixels, share: float) -> None:
        """One step from `images`, as at the module's head. x: clean images, (M, C, H, W); share: a."""
        grad = self.here.grad
        ahead = _projected(threat, x, self.images + column(self.size, grad) * threat.steepest(grad))
        mixed = self.images + share * (ahead - self.images) + (1 - share) * (self.images - self.before)
        self.before, self.images = self.images, _projected(threat, x, mixed)

    def check(self) -> None:
        """A checkpoint: halves eta where it no longer helps, and moves those images back to their best iterate."""
        stuck = ~self.halved & (self.record >= self.loss)
        halve = (self.raised <= RAISED * self.taken) | stuck
        back = column(halve, self.images)
        self.size = torch.where(halve, self.size / 2, self.size)
        self.images = self.top.where(back, self.images)
        self.here = replace(self.here, grad=self.grad.where(back, self.here.grad))
        self.halved, self.record, self.raised, self.taken = halve, self.loss, torch.zeros_like(self.raised), 0

    def keep(self, which: Tensor) -> None:
        """Drops all images but some. which: (M,) bool."""
        left = waits.some_of(which)
        if left is None:
            return
        self.here = Step(self.here.loss[left], self.here.grad[left], self.here.logits[left])
        for name in ("images", "before", "rows", "size", "top", "loss", "grad", "raised", "halved", "record"):
            setattr(self, name, getattr(self, name)[left])


def _spans(steps: int) -> Iterator[int]:
    """The numbers of steps from one checkpoint to the next."""
    span = max(int(FIRST * steps), 1)
    while True:
        yield span
        span = max(span - max(int(SHRINK * steps), 1), max(int(SHORTEST * steps), 1))


def _projected(threat: Pixels, x: Tensor, moved: Tensor) -> Tensor:
    """The projection that AutoAttack uses: in L2 it shrinks to the ball first, and then clips to [0, 1]."""
    return threat.shrink(x, moved).clamp(0, 1) if isinstance(threat, L2) else threat.project(x, moved)
