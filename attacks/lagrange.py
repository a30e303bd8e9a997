"""The Lagrange attack (paper Sec. 4.4, Eq. 10): adversarial images that likelihood maximisation has no reason to move.

    minimise    log p(y | x) + l E[w_t || eps_theta(x_t, t) - eps ||^2]            for l in 0, 1, 10

p(y | x) is the softmax of Eq. 6, whose logits are sums over pixels: where a defense divides them (`reduction: mean`),
they are multiplied again (`Defense.logit_scale`). The second term is the defense's `energy`, a sum over pixels like
Eq. 4, of the image before purification.

The paper counts an image as misclassified if it is so for any l. On a deterministic defense the same holds here. On a
stochastic one the three images, each with its own chance of being misclassified, would make a union of lucky draws. An
attacker has to present one of them. It is the one that is misclassified most often in fresh draws, and the harness
judges it by other draws.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from attacks.apgd import apgd_steps
from attacks.common.gradient_attack import BestIterates, GradientAttack, Objective, Restart
from attacks.common.losses import LossName, RowLoss, margin
from attacks.common.norms import Norm, ball
from attacks.pgd import pgd_steps
from harness.attack import Adversarial, Cost
from harness.defense import Defense
from harness.gradients import Gradient
from harness.guard.doubt import least_cosine_judging, of_part
from harness.quantity import Quantity
from harness.target import Target
from harness.threat import L1

Optimizer = Literal["apgd", "pgd"]


class Lagrange(GradientAttack):
    """Gradient ascent on the loss less l times the defense's energy, for one l after another.

    Needs a defense with `energy(x)`: dc, rdc, jem, sbgc.

    Args:
        norm, eps: the budget, on the [0, 1] scale.
        weights: the l. Each is tried on images that are not yet misclassified; on a stochastic defense, on all images.
        optimizer: "apgd", or "pgd" with steps of 2.5 eps / steps.
        steps: gradient steps with each l.
        loss: "ce-plain" is Eq. 10 to the letter. Its gradient vanishes where the softmax saturates, and the gradient of
            the energy does not; "ce" and "margin" do not have this problem.
        draws: the draws of a stochastic defense by which the image of one l is chosen.
        restarts, random_start, early_stop, gradient, eot: as for `PGD`.

    Raises:
        ValueError: there are no weights, one is negative, or `PGD` or `APGD` refuse an argument.
    """

    version = 3
    independent = True
    needs = ("energy",)

    def __init__(
        self,
        norm: Norm,
        eps: Quantity,
        weights: list[float] = [0.0, 1.0, 10.0],  # noqa: B006
        optimizer: Optimizer = "apgd",
        steps: int = 100,
        loss: LossName = "ce-plain",
        restarts: int = 1,
        random_start: bool = True,
        gradient: Gradient = "bpda",
        eot: int = 1,
        early_stop: bool = True,
        draws: int = 10,
    ) -> None:
        if not weights or min(weights) < 0:
            raise ValueError(f"weights is {weights}; give one or more numbers, none of them negative")
        if draws < 1:
            raise ValueError(f"draws is {draws}; it must be at least 1")
        threat = ball(norm, eps)
        if optimizer == "apgd" and isinstance(threat, L1):
            raise ValueError("optimizer is 'apgd', which has no L1; use pgd")
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
        self.weights, self.optimizer, self.draws = list(weights), optimizer, draws

    def perturb(self, target: Target, x: Tensor, y: Tensor) -> Tensor | Adversarial:
        """The strongest iterate of each image over all l; on a stochastic defense that of one l, see above."""
        if not target.defense.stochastic or len(self.weights) == 1:
            return super().perturb(target, x, y)
        best = x.clone()
        remarks: list[tuple[str, ...]] = [()] * len(x)
        rate, lead = (x.new_full((len(x),), -torch.inf) for _ in range(2))
        whole = target.with_view(gradient="exact", eot=self.draws)
        rows = torch.arange(len(x), device=x.device)
        for place, weight in enumerate(self.weights, 1):
            view = target.with_view(gradient=self.gradient, eot=self.eot, tag=place)
            adversarial = Adversarial.of(self._only(weight).perturb(view, x, y))
            margins = torch.stack([margin(logits, y) for logits in whole.sample(adversarial.images, rows)])
            often, by = (margins > 0).to(rate).mean(0), margins.mean(0)
            better = (often > rate) | ((often == rate) & (by > lead))
            best[better], rate[better], lead[better] = adversarial.images[better], often[better], by[better]
            for row, own in enumerate(adversarial.remarks or ()):
                remarks[row] += tuple(of_part(f"l = {weight:g}", remark) for remark in own)
        return Adversarial(best, remarks=tuple(remarks))

    def least_cosine(self) -> float:
        return least_cosine_judging(self.eot) if self.optimizer == "apgd" else super().least_cosine()

    def objective(self, defense: Defense, x: Tensor, y: Tensor, aim: Tensor | None) -> RowLoss:
        loss, scale = super().objective(defense, x, y, aim), defense.logit_scale(x)
        return lambda logits, rows: loss(scale * logits, rows)

    def restart_plan(self) -> Iterator[Restart]:
        for place, weight in enumerate(self.weights):
            for restart in range(self.restarts):
                yield Restart(place * self.restarts + restart, restart, weight)

    def run_restart(
        self, best: BestIterates, x: Tensor, start: Tensor, rows: Tensor, objective: Objective, stops: bool
    ) -> None:
        if self.optimizer == "apgd":
            apgd_steps(best, x, start, rows, objective, self.threat, self.steps, stops)
        else:
            sizes = [2.5 * float(self.threat.eps) / self.steps] * self.steps
            pgd_steps(best, x, start, rows, objective, self.threat, sizes, 0.0, stops)

    def cost(self, num_classes: int) -> Cost:
        """The cost of an image that is never misclassified. A deterministic defense needs no choice by draws: less."""
        search = super().cost(num_classes)
        looks = self.draws * len(self.weights) if len(self.weights) > 1 else 0
        return Cost(search.forwards + looks, search.backwards)

    def describe(self) -> str:
        several = len(self.weights) > 1
        choice = f" (of a stochastic defense the image of one l, chosen by {self.draws} draws)" if several else ""
        tried = ", ".join(f"{weight:g}" for weight in self.weights)
        return f"{super().describe()}, {self.optimizer}, l in {tried}{choice}"

    def _only(self, weight: float) -> Lagrange:
        """The same attack with one l."""
        alone = copy.copy(self)
        alone.weights = [weight]
        return alone
