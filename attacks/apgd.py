"""Auto-PGD (Croce & Hein, 2020, Algorithm 1): gradient ascent that halves its steps where they no longer help.

    z       = P(x_k + eta_k d(g_k))                                     d: sign for Linf, g / ||g||_2 for L2
    x_{k+1} = P(x_k + a (z - x_k) + (1 - a) (x_k - x_{k-1}))            a = 0.75, and 1 in the first step

eta_0 = 2 eps. At the checkpoints w_0 = 0, w_1 = 0.22, w_{j+1} = w_j + max(w_j - w_{j-1} - 0.03, 0.06), in shares of the
steps, eta is halved and the image goes back to where its loss was largest, if since the last checkpoint

    1. fewer than 75% of the steps raised the loss, or
    2. neither eta nor the largest loss have changed.

P is the published projection: for L2 it shrinks to the ball before it clips to [0, 1]. The library's own APGD, which
`autoattack` runs, never stops early, and compares the loss of the very first step with 0 instead of with the start's;
this one takes every loss, and a defense's energy too.
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
from harness.quantity import Quantity
from harness.target import Step
from harness.threat import L1, L2, Pixels

FIRST, SHRINK, SHORTEST = 0.22, 0.03, 0.06
"""Lengths of the spans between checkpoints, in shares of the steps."""

RAISED, MOMENTUM = 0.75, 0.75


class APGD(GradientAttack):
    """Auto-PGD: no step size to tune. The defaults are what the reference code of the paper calls AutoAttack.

    Args:
        norm, eps: the budget, on the [0, 1] scale; Linf or L2.
        steps: gradient steps of one restart.
        loss, restarts, random_start, early_stop, gradient, eot: as for `PGD`.

    Raises:
        ValueError: a budget, count or combination that means nothing.
    """

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
    """One run of `steps` steps. The arguments: see `GradientAttack.climb`. Returns where it ended."""
    climb = APGDState.at(start, rows, objective.step(start, rows), 2 * float(threat.eps))
    spans = _spans(steps)
    left = next(spans)
    for number in range(steps):
        best.learn(climb.images, climb.rows, climb.here)
        if stops:
            climb.keep(~best.fooled[climb.rows])
        if not len(climb.rows):
            return climb
        climb.move(x[climb.rows], threat, MOMENTUM if number else 1.0)
        if number + 1 == steps:
            break
        climb.observe(objective.step(climb.images, climb.rows))
        left -= 1
        if not left:
            climb.check()
            left = next(spans)
    best.update(climb.images, climb.rows, objective.logits(climb.images, climb.rows))
    return climb


@dataclass
class APGDState:
    """Where each image is, was, and did best.

    images, before, top: (M, C, H, W); rows: (M,); size: eta, (M,); here: of `images`; loss, grad: of `top`;
    raised: steps since the checkpoint that raised the loss, (M,), of `taken`; halved, record: at that checkpoint,
    whether eta was halved, and the largest loss, (M,).
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
        """What the target says of `images`."""
        higher = step.loss > self.loss
        self.raised, self.taken = self.raised + (step.loss > self.here.loss), self.taken + 1
        self.top = self.images.where(column(higher, self.top), self.top)
        self.grad = step.grad.where(column(higher, self.grad), self.grad)
        self.loss = step.loss.where(higher, self.loss)
        self.here = step

    def move(self, x: Tensor, threat: Pixels, share: float) -> None:
        grad = self.here.grad
        ahead = _projected(threat, x, self.images + column(self.size, grad) * threat.steepest(grad))
        mixed = self.images + share * (ahead - self.images) + (1 - share) * (self.images - self.before)
        self.before, self.images = self.images, _projected(threat, x, mixed)

    def check(self) -> None:
        """Halves the steps of images that they no longer help, and sends those back to their best."""
        stuck = ~self.halved & (self.record >= self.loss)
        halve = (self.raised <= RAISED * self.taken) | stuck
        back = column(halve, self.images)
        self.size = torch.where(halve, self.size / 2, self.size)
        self.images = self.top.where(back, self.images)
        self.here = replace(self.here, grad=self.grad.where(back, self.here.grad))
        self.halved, self.record, self.raised, self.taken = halve, self.loss, torch.zeros_like(self.raised), 0

    def keep(self, which: Tensor) -> None:
        """Goes on with some images only. which: (M,) bool."""
        if bool(which.all()):
            return
        self.here = Step(self.here.loss[which], self.here.grad[which], self.here.logits[which])
        for name in ("images", "before", "rows", "size", "top", "loss", "grad", "raised", "halved", "record"):
            setattr(self, name, getattr(self, name)[which])


def _spans(steps: int) -> Iterator[int]:
    """Steps from one checkpoint to the next."""
    span = max(int(FIRST * steps), 1)
    while True:
        yield span
        span = max(span - max(int(SHRINK * steps), 1), max(int(SHORTEST * steps), 1))


def _projected(threat: Pixels, x: Tensor, moved: Tensor) -> Tensor:
    """As AutoAttack does: in L2 onto the ball first, then onto [0, 1]."""
    return threat.shrink(x, moved).clamp(0, 1) if isinstance(threat, L2) else threat.project(x, moved)
